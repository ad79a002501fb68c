"""CIF files of small molecules and inorganic crystals: bytes in, a Crystal or a Rejection out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import gemmi

from phaseray.config import Limits
from phaseray.crystal import Crystal, Floats, Rejection
from phaseray.sources.cif_checks import check_clashes, check_formula
from phaseray.sources.cif_displacements import read_displacements
from phaseray.sources.cif_elements import parse_formula
from phaseray.sources.cif_expansion import expand
from phaseray.sources.cif_lattice import lattice_of, measured_cell
from phaseray.sources.cif_sites import read_sites
from phaseray.sources.cif_space_group import space_groups, value_of
from phaseray.sources.cif_symmetry import Symmetry
from phaseray.sources.cif_table import Table
from phaseray.sources.cif_text import parse_cif

_MODULATED = ("_space_group_ssg_name", "_space_group_symop_ssg_operation_algebraic", "_cell_modulation_dimension")


def read_cif(
    source: bytes | str | os.PathLike[str], *, limits: Limits | None = None, id: str = "", source_name: str = ""
) -> Crystal:
    """The whole cell of the first structure in a CIF.

    Parameters
    ----------
    source : bytes, or str or path
        The content of a file, or where the file is.
    limits : Limits
        Most bytes, Å³ and atoms; what is over them is rejected. The default is `Limits()`.
    id, source_name : str
        For `Crystal.id` and `Crystal.source`.

    Returns
    -------
    Crystal
        `notes` tells what was repaired, left out or odd. Of several structures in one file the first
        is read, and a note says how many were not.

    Raises
    ------
    Rejection
        For every input that gives no crystal, with a code of REJECTION_CODES. Nothing else is raised.
    """
    limits = limits or Limits()
    try:
        content = _content(source, limits)
        notes: list[str] = []
        document = parse_cif(content, notes)
        return _crystal(_structure_block(document, notes), limits, id, source_name, notes)
    except Rejection:
        raise
    except Exception as error:  # one bad file must not end a run over a million
        raise Rejection("internal", f"{type(error).__name__}: {error}") from error


def _content(source: bytes | str | os.PathLike[str], limits: Limits) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        size = len(content)
    else:
        try:
            status = os.stat(source)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):  # a pipe might never end
                raise Rejection("unreadable", f"{source!s} is no file")
            content = Path(source).read_bytes() if size <= limits.max_bytes else b""
        except (OSError, ValueError, TypeError) as error:
            raise Rejection(
                "unreadable", f"cannot read {source!s}: {getattr(error, 'strerror', None) or error}"
            ) from error
    if max(size, len(content)) > limits.max_bytes:
        raise Rejection("too_large", f"{size} bytes, the limit is {limits.max_bytes}")
    return content


def _structure_block(document: gemmi.cif.Document, notes: list[str]) -> gemmi.cif.Block:
    """The first block with a cell and atoms; else the block that comes nearest, to say what it lacks."""
    if any(value not in "?.0" for block in document for tag in _MODULATED for value in block.find_values(tag)):
        raise Rejection("modulated", "a modulated or composite structure (superspace group): only 3D crystals are read")
    if any(block.find_values(tag) for block in document for tag in ("_atom_site.Cartn_x", "_entity_poly.type")):
        raise Rejection("macromolecule", "a macromolecular file (mmCIF): only small-molecule CIF is read")
    with_atoms = [b for b in document if b.find_values("_atom_site_fract_x") or b.find_values("_atom_site.fract_x")]
    complete = [b for b in with_atoms if b.find_values("_cell_length_a") or b.find_values("_cell.length_a")]
    if len(complete) > 1:
        if any(b.find_values("_pd_phase_name") or b.find_values("_pd_phase_block_id") for b in document):
            raise Rejection(
                "syntax",
                f"{len(complete)} phases of one powder sample in one file, and no word which is meant: "
                "keep the data block of one phase",
            )
        notes.append(
            f"The file holds {len(complete)} structures; the first (data_{complete[0].name}) was read, "
            f"{len(complete) - 1} left out."
        )
    for blocks in (complete, with_atoms, [b for b in document if b.find_values("_cell_length_a")], list(document)):
        if blocks:
            return blocks[0]
    raise Rejection("syntax", "the file holds no data block")


def _crystal(block: gemmi.cif.Block, limits: Limits, id: str, source: str, notes: list[str]) -> Crystal:
    measured = measured_cell(block)
    choices = space_groups(block, measured, notes)
    found: list[Crystal] = []
    refused: list[Rejection] = []
    for symmetry, name, number in choices:
        own = list(notes)
        try:
            found.append(_expanded(block, measured, symmetry, name, number, limits, id, source, own))
        except Rejection as rejection:
            refused.append(rejection)
    if not found:
        raise refused[0]
    if len(found) > 1:
        raise Rejection(
            "no_symmetry",
            f"the space group {choices[0][1]} has two origins, there are no operators to choose by, and both would fit",
        )
    return found[0]  # of two origins the only one without a contradiction


def _expanded(
    block: gemmi.cif.Block, measured: Floats, symmetry: Symmetry, name: str | None, number: int | None,
    limits: Limits, id: str, source: str, notes: list[str],
) -> Crystal:  # fmt: skip
    lattice = lattice_of(measured, symmetry, notes)
    if lattice.volume > limits.max_volume:
        raise Rejection("too_large", f"the cell has {lattice.volume:.0f} Å³, the limit is {limits.max_volume:.0f}")
    elements, amounts = parse_formula(value_of(block, "_chemical_formula_sum"))
    table = Table(block, "_atom_site", ("fract_x",))
    sites, rows = read_sites(table, elements, notes)
    u_iso, u_aniso = read_displacements(block, table, rows, sites, lattice, notes)
    atoms = expand(sites.positions, sites.occupancy, sites.general, u_aniso, symmetry, lattice, limits.max_atoms)
    check_clashes(sites, atoms, lattice, notes)
    numbers, occupancy = sites.numbers[atoms.site], sites.occupancy[atoms.site]
    z = gemmi.cif.as_number(block.find_value("_cell_formula_units_Z") or "?")
    check_formula(numbers, occupancy, elements, amounts, z, table.is_last_of(block), notes)
    return Crystal(
        cell=lattice.cell, numbers=numbers, positions=atoms.positions, occupancy=occupancy, u_iso=u_iso[atoms.site],
        u_aniso=atoms.u_aniso, isotopes=sites.isotopes[atoms.site], space_group=name, space_group_number=number,
        id=id, source=source, notes=tuple(notes),
    )  # fmt: skip
