"""Solutions in the formats of crystallographers: a CCP4 map, phases as MTZ, atoms as SHELX .res and as CIF.

Every file is written aside first and then renamed, so that what has its final name is whole.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from phaseray.phasing.structure import Structure

Floats = NDArray[np.float64]

_LATTICES = {"P": 1, "I": 2, "H": 3, "F": 4, "A": 5, "B": 6, "C": 7}
_LARGEST, _SMALLEST = 99999.0, 1000.0  # of the largest value of an .hkl file: F8.2
_LEAST_U = 0.005  # Å²


def _whole(path: Path, write: Callable[[Path], object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as aside:
        write(Path(aside) / path.name)
        os.replace(Path(aside) / path.name, path)
    return path


def write_map(path: Path, density: ArrayLike, cell: ArrayLike) -> Path:
    """CCP4 format, the whole cell in P1; (nx, ny, nz) as it is, axes x, y, z."""
    ccp4 = gemmi.Ccp4Map()
    ccp4.grid = gemmi.FloatGrid(
        np.asarray(density, np.float32), gemmi.UnitCell(*np.asarray(cell)), gemmi.SpaceGroup("P 1")
    )
    ccp4.update_ccp4_header(2)
    return _whole(path, lambda aside: ccp4.write_ccp4_map(str(aside)))


def write_phases(
    path: Path, cell: ArrayLike, hkl: ArrayLike, amplitude: ArrayLike, phase: ArrayLike, wavelength: float | None = None
) -> Path:
    """MTZ in P1 with the columns H, K, L, F and PHI (degrees)."""
    mtz = gemmi.Mtz(with_base=True)
    mtz.title = "phaseray: phases of the whole sphere"
    mtz.spacegroup = gemmi.SpaceGroup("P 1")
    mtz.set_cell_for_all(gemmi.UnitCell(*np.asarray(cell)))
    mtz.add_dataset("phaseray").wavelength = wavelength or 0.0
    mtz.add_column("F", "F")
    mtz.add_column("PHI", "P")
    mtz.set_data(np.column_stack([np.asarray(hkl), np.asarray(amplitude), np.asarray(phase)]).astype(np.float32))
    return _whole(path, lambda aside: mtz.write_to_file(str(aside)))


def write_hkl(path: Path, hkl: ArrayLike, value: ArrayLike, sigma: ArrayLike | None) -> float:
    """SHELX format (3I4, 2F8.2), values scaled to fit its columns; what they were multiplied by is given back.

    Where no σ is known each is 1 % of the largest value.
    """
    values = np.asarray(value, np.float64)
    largest = float(abs(values).max())
    scale = 1.0 if _SMALLEST <= largest <= _LARGEST else _LARGEST / largest
    deviations = np.full(len(values), 0.01 * largest) if sigma is None else np.asarray(sigma, np.float64)
    deviations = np.clip(scale * deviations, 0.01, _LARGEST)
    rows = zip(np.asarray(hkl).tolist(), (scale * values).tolist(), deviations.tolist(), strict=True)
    lines = [f"{h:4d}{k:4d}{n_l:4d}{v:8.2f}{s:8.2f}" for (h, k, n_l), v, s in rows]
    lines.append(f"{0:4d}{0:4d}{0:4d}{0:8.2f}{0:8.2f}")
    _whole(path, lambda aside: aside.write_text("\n".join(lines) + "\n"))
    return scale


def labels(structure: Structure) -> list[str]:
    """A name for each atom: C1, C2, …, O1; Q1, Q2, … where the element is not known."""
    seen: Counter[str] = Counter()
    names = []
    for z in structure.elements.tolist():
        symbol = gemmi.Element(z).name if z else "Q"
        seen[symbol] += 1
        names.append(f"{symbol}{seen[symbol]}")
    return names


def write_res(
    path: Path,
    title: str,
    cell: ArrayLike,
    space_group: gemmi.SpaceGroup,
    structure: Structure,
    *,
    formula: dict[int, int] | None = None,
    wavelength: float | None = None,
    hklf: int = 4,
    scale: float = 1.0,
) -> Path:
    """Instructions for SHELXL, with which the refinement goes on: cell, symmetry, contents and the atoms found.

    Parameters
    ----------
    space_group
        In a setting with the inversion, if any, at the origin: SHELX knows no other.
    formula : atomic number → atoms
        Of which the cell holds `structure.units`; without, atoms are written as carbon, and called Q.
    hklf : 3 for F, 4 for F²
    scale : what SHELXL is to multiply Fc by at first
    """
    edges = (
        " ".join(f"{x:.4f}" for x in np.asarray(cell)[:3]) + " " + " ".join(f"{x:.3f}" for x in np.asarray(cell)[3:])
    )
    contents = {z: n * (structure.units or 1) for z, n in (formula or {6: structure.multiplicity.sum()}).items()}
    order = sorted(contents, key=lambda z: (z != 6, z != 1, gemmi.Element(z).name))  # Hill: carbon, hydrogen, the rest
    lines = [
        f"TITL {title[:72]}",
        f"CELL {wavelength or 0.71073:.5f} {edges}",
        f"ZERR {max(1, round(structure.units or 1))} 0 0 0 0 0 0",
        *_lattice(space_group),
        "SFAC " + " ".join(gemmi.Element(z).name for z in order),
        "UNIT " + " ".join(f"{contents[z]:g}" for z in order),
        "L.S. 10",
        "FMAP 2",
        "PLAN 20",
        f"FVAR {scale:.5f}",
    ]
    rows = zip(
        labels(structure), structure.elements.tolist(), structure.positions.tolist(), structure.share.tolist(),
        structure.b.tolist(), structure.electrons.tolist(), strict=True,
    )  # fmt: skip
    for name, z, (x, y, w), share, b, electrons in rows:
        u = max(b / (8 * np.pi**2), _LEAST_U)
        kind = order.index(z) + 1 if z else 1
        height = "" if z else f" {electrons:.2f}"
        lines.append(f"{name:<4} {kind} {x:.6f} {y:.6f} {w:.6f} {10 + share:.5f} {u:.4f}{height}")
    lines += [f"HKLF {hklf}", "END"]
    return _whole(path, lambda aside: aside.write_text("\n".join(lines) + "\n"))


def _lattice(space_group: gemmi.SpaceGroup) -> list[str]:
    """LATT and SYMM."""
    ops = space_group.operations()
    inversion = [[-gemmi.Op.DEN if i == j else 0 for j in range(3)] for i in range(3)]
    centric = any(op.rot == inversion and op.tran == [0, 0, 0] for op in ops.sym_ops)
    centring = "H" if space_group.ext == "H" else space_group.centring_type()
    number = _LATTICES["P" if centring == "R" else centring]
    lines = [f"LATT {number if centric else -number}"]
    given: list[str] = []
    for op in list(ops.sym_ops)[1:]:
        opposite = gemmi.Op("-x,-y,-z") * op
        known = [gemmi.Op().triplet(), *given]
        # SHELX makes the inverse of each itself
        if centric and (opposite.wrap().triplet() in known or op.rot == inversion):
            continue
        given.append(op.wrap().triplet())
        lines.append("SYMM " + op.wrap().triplet().upper().replace(",", ", "))
    return lines


def write_cif(
    path: Path,
    name: str,
    cell: ArrayLike,
    space_group: gemmi.SpaceGroup,
    structure: Structure,
    *,
    notes: Sequence[str] = (),
) -> Path:
    """The atoms of the asymmetric unit; their elements must be known."""
    document = gemmi.cif.Document()
    block = document.add_new_block("".join(c if c.isalnum() else "_" for c in name) or "phaseray")
    parts = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    for part, x in zip(parts, np.asarray(cell).tolist(), strict=True):
        block.set_pair(f"_cell_{part}", f"{x:.4f}" if part.startswith("length") else f"{x:.3f}")
    block.set_pair("_space_group_name_H-M_alt", gemmi.cif.quote(space_group.xhm()))
    block.set_pair("_space_group_name_Hall", gemmi.cif.quote(space_group.hall))
    block.set_pair("_space_group_IT_number", str(space_group.number))
    operations = block.init_loop("_space_group_symop_", ["operation_xyz"])
    for op in space_group.operations():
        operations.add_row([gemmi.cif.quote(op.triplet())])
    sites = block.init_loop(
        "_atom_site_",
        ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "U_iso_or_equiv", "site_symmetry_multiplicity"],
    )
    for label, z, position, b, multiplicity in zip(
        labels(structure), structure.elements.tolist(), structure.positions.tolist(), structure.b.tolist(),
        structure.multiplicity.tolist(), strict=True,
    ):  # fmt: skip
        u = max(b / (8 * np.pi**2), _LEAST_U)
        sites.add_row([label, gemmi.Element(z).name, *(f"{x:.5f}" for x in position), f"{u:.4f}", str(multiplicity)])
    told = "".join(f"# {line}\n" for line in notes)
    return _whole(path, lambda aside: aside.write_text(told + document.as_string()))
