"""CIF files of small molecules and inorganic crystals: bytes in, a Crystal or a Rejection out."""

from __future__ import annotations

import os
from pathlib import Path

import gemmi
import numpy as np

from phaseray.config import Limits
from phaseray.crystal import Crystal, Floats, Rejection
from phaseray.sources.cif_checks import check_clashes, check_formula
from phaseray.sources.cif_displacements import read_displacements
from phaseray.sources.cif_elements import parse_formula
from phaseray.sources.cif_expansion import expand
from phaseray.sources.cif_sites import Table, read_sites
from phaseray.sources.cif_symmetry import Symmetry, impose_on_cell
from phaseray.sources.cif_space_group import space_groups, value_of
from phaseray.sources.cif_text import parse_cif

_CELL_ITEMS = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_MODULATED = ("_space_group_ssg_name", "_space_group_symop_ssg_operation_algebraic", "_cell_modulation_dimension")  # fmt: skip
_LEAST_EDGE = 1.5


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
    except Exception as error:
        raise Rejection("internal", f"{type(error).__name__}: {error}") from error


def _content(source: bytes | str | os.PathLike[str], limits: Limits) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        size = len(content)
    else:
        try:
            size = os.stat(source).st_size
            content = Path(source).read_bytes() if size <= limits.max_bytes else b""
        except (OSError, ValueError, TypeError) as error:
            raise Rejection("unreadable", f"cannot read {source!s}: {getattr(error, 'strerror', None) or error}") from error
    if max(size, len(content)) > limits.max_bytes:
        raise Rejection("too_large", f"{size} bytes, the limit is {limits.max_bytes}")
    return content


def _structure_block(document: gemmi.cif.Document, notes: list[str]) -> gemmi.cif.Block:
    """The first block with a cell and atoms; else the block that comes nearest, to say what it lacks."""
    if any(block.find_values(tag) for block in document for tag in _MODULATED):
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
    measured = _measured_cell(block)
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
    return found[0]


def _expanded(
    block: gemmi.cif.Block, measured: Floats, symmetry: Symmetry, name: str | None, number: int | None,
    limits: Limits, id: str, source: str, notes: list[str],
) -> Crystal:  # fmt: skip
    cell = _complete_cell(measured, symmetry, notes)
    volume = gemmi.UnitCell(*cell).volume
    if volume > limits.max_volume:
        raise Rejection("too_large", f"the cell has {volume:.0f} Å³, the limit is {limits.max_volume:.0f}")
    elements, amounts = parse_formula(value_of(block, "_chemical_formula_sum"))
    table = Table(block, "_atom_site", ("fract_x",))
    sites, rows = read_sites(table, elements, notes)
    u_iso, u_aniso = read_displacements(block, table, rows, sites, cell, notes)
    atoms = expand(sites.positions, sites.occupancy, sites.general, u_aniso, symmetry, cell, limits.max_atoms)
    check_clashes(sites, atoms, cell, notes)
    numbers, occupancy = sites.numbers[atoms.site], sites.occupancy[atoms.site]
    z = gemmi.cif.as_number(block.find_value("_cell_formula_units_Z") or "?")
    check_formula(numbers, occupancy, elements, amounts, z, table.is_last_of(block), notes)
    return Crystal(
        cell=cell, numbers=numbers, positions=atoms.positions, occupancy=occupancy, u_iso=u_iso[atoms.site],
        u_aniso=atoms.u_aniso, isotopes=sites.isotopes[atoms.site], space_group=name, space_group_number=number,
        id=id, source=source, notes=tuple(notes),
    )  # fmt: skip


def _measured_cell(block: gemmi.cif.Block) -> Floats:
    """(6,) as in the file, NaN for angles that it does not give."""
    texts = [block.find_value(f"_cell_{i}") or block.find_value(f"_cell.{i}") or "." for i in _CELL_ITEMS]
    cell = np.array([gemmi.cif.as_number(text) for text in texts])
    missing = [item for item, value in zip(_CELL_ITEMS, cell, strict=True) if np.isnan(value)]
    # An angle that is not there may be 90° by symmetry; one that is there as '?' was not known to the author.
    if set(missing) & set(_CELL_ITEMS[:3]) or any(texts[_CELL_ITEMS.index(item)] != "." for item in missing):
        raise Rejection("no_cell", f"the unit cell is incomplete: {', '.join(missing)} missing or no number")
    if not ((cell[:3] >= _LEAST_EDGE) & (cell[:3] < 1e4)).all():
        raise Rejection("bad_cell", f"cell edges {cell[:3].tolist()} Å are impossible")
    return cell


def _complete_cell(measured: Floats, symmetry: Symmetry, notes: list[str]) -> Floats:
    cell = measured
    missing = np.isnan(cell)
    if missing.any():
        # Without its own angle a right angle is a guess, unless the group maps every other angle away from it.
        free = np.diag([1.0, 1.0, 1.0]) + np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]]) * 0.1
        imposed = np.abs(symmetry.mean_metric(free)[[1, 0, 0], [2, 2, 1]]) < 1e-9
        if not imposed[missing[3:]].all():
            names = ", ".join(item for item, gone in zip(_CELL_ITEMS, missing, strict=True) if gone)
            raise Rejection("no_cell", f"the unit cell is incomplete: {names} missing, and the symmetry does not give it")
        cell = np.where(missing, 90.0, cell)
        notes.append("Cell angles that the file does not give are 90° by symmetry.")
    ca, cb, cg = np.cos(np.radians(cell[3:]))
    if not ((cell[3:] > 0) & (cell[3:] < 180)).all() or 1 - ca * ca - cb * cb - cg * cg + 2 * ca * cb * cg <= 1e-6:
        raise Rejection("bad_cell", f"cell angles {cell[3:].tolist()} do not close a cell")
    return impose_on_cell(symmetry, cell, notes)


