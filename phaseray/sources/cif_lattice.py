"""The cell of a CIF: read, completed and corrected by the symmetry, with what is derived from it once."""

from __future__ import annotations

from typing import NamedTuple

import gemmi
import numpy as np
from numpy.typing import ArrayLike

from phaseray.crystal import Floats, Rejection
from phaseray.sources.cif_symmetry import Symmetry

LENGTH_TOLERANCE = 0.002  # relative
ANGLE_TOLERANCE = 0.1  # degrees
_LEAST_EDGE = 1.5  # Å; the shortest of any real crystal is over 2
_ITEMS = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")


class Lattice(NamedTuple):
    cell: Floats  # (6,) Å and degrees
    orthogonalization: Floats  # (3, 3) fractional columns to Cartesian Å
    reciprocal: Floats  # (3,) a*, b*, c* in Å⁻¹
    volume: float  # Å³

    @classmethod
    def of(cls, cell: ArrayLike) -> Lattice:
        cell = np.asarray(cell, float)
        unit_cell = gemmi.UnitCell(*cell.tolist())
        reciprocal = unit_cell.reciprocal()
        return cls(
            cell,
            np.array(unit_cell.orth.mat.tolist()),
            np.array([reciprocal.a, reciprocal.b, reciprocal.c]),
            unit_cell.volume,
        )


def measured_cell(block: gemmi.cif.Block) -> Floats:
    """(6,) Å and degrees as in the file, NaN for angles that it does not give. Raises Rejection (no_cell, bad_cell)."""
    texts = [block.find_value(f"_cell_{i}") or block.find_value(f"_cell.{i}") or "." for i in _ITEMS]
    cell = np.array([gemmi.cif.as_number(text) for text in texts])
    missing = [item for item, value in zip(_ITEMS, cell, strict=True) if np.isnan(value)]
    # An angle that is not there may be 90° by symmetry; one that is there as '?' was not known to the author.
    if set(missing) & set(_ITEMS[:3]) or any(texts[_ITEMS.index(item)] != "." for item in missing):
        raise Rejection("no_cell", f"the unit cell is incomplete: {', '.join(missing)} missing or no number")
    if not ((cell[:3] >= _LEAST_EDGE) & (cell[:3] < 1e4)).all():
        raise Rejection("bad_cell", f"cell edges {cell[:3].tolist()} Å are impossible")
    return cell


def lattice_of(measured: Floats, symmetry: Symmetry, notes: list[str]) -> Lattice:
    """The lattice of the cell (6,), angles that are missing or slightly off set as the symmetry demands.

    Raises
    ------
    Rejection
        no_cell, bad_cell.
    """
    cell = measured
    missing = np.isnan(cell)
    if missing.any():
        # Without its own angle a right angle is a guess, unless the group maps every other angle away from it.
        free = np.diag([1.0, 1.0, 1.0]) + np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]]) * 0.1
        imposed = np.abs(symmetry.mean_metric(free)[[1, 0, 0], [2, 2, 1]]) < 1e-9
        if not imposed[missing[3:]].all():
            names = ", ".join(item for item, gone in zip(_ITEMS, missing, strict=True) if gone)
            raise Rejection(
                "no_cell", f"the unit cell is incomplete: {names} missing, and the symmetry does not give it"
            )
        cell = np.where(missing, 90.0, cell)
        notes.append("Cell angles that the file does not give are 90° by symmetry.")
    ca, cb, cg = np.cos(np.radians(cell[3:]))
    if not ((cell[3:] > 0) & (cell[3:] < 180)).all() or 1 - ca * ca - cb * cb - cg * cg + 2 * ca * cb * cg <= 1e-6:
        raise Rejection("bad_cell", f"cell angles {cell[3:].tolist()} do not close a cell")
    return _imposed(symmetry, cell, notes)


def _imposed(symmetry: Symmetry, cell: Floats, notes: list[str]) -> Lattice:
    """The lattice as the group demands it; small departures of `cell` (Å, degrees) are removed and noted.

    Raises
    ------
    Rejection
        bad_cell: departures over 0.2 % in length or 0.1° in angle.
    """
    lattice = Lattice.of(cell)
    metric = lattice.orthogonalization.T @ lattice.orthogonalization
    mean = symmetry.mean_metric(metric)
    if np.abs(mean - metric).max() < 1e-9 * metric.max():
        return lattice
    lengths = np.sqrt(np.diag(mean))
    cosines = (mean / np.outer(lengths, lengths))[[1, 0, 0], [2, 2, 1]]
    ideal = np.concatenate([lengths, np.degrees(np.arccos(cosines.clip(-1, 1)))])
    off_length = np.abs(ideal[:3] / cell[:3] - 1).max()
    off_angle = np.abs(ideal[3:] - cell[3:]).max()
    name = symmetry.space_group or f"{len(symmetry)} operators"
    if off_length > LENGTH_TOLERANCE or off_angle > ANGLE_TOLERANCE:
        raise Rejection(
            "bad_cell",
            f"the cell {_text(cell)} does not have the symmetry of {name}, which would make it {_text(ideal)}: "
            "correct the cell or the space group",
        )
    ideal = np.where(np.abs(ideal - np.rint(ideal)) < 1e-9, np.rint(ideal), ideal)
    if off_length > 1e-5 or off_angle > 1e-3:
        notes.append(f"The cell {_text(cell)} was set to {_text(ideal)}, as the symmetry of {name} demands.")
    return Lattice.of(ideal)


def _text(cell: Floats) -> str:
    return " ".join(f"{value:.6g}" for value in cell)
