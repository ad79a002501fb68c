"""What a file says of a measured crystal, and whether a cell can be and suits a space group and reflections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import ArrayLike

from phaseray.crystal import Floats, orthogonalization_matrix
from phaseray.sources.reflections import Reflections

_LEAST_EDGE, _MOST_EDGE = 0.01, 1e5  # Å, far beyond those of any crystal
_SAME = 0.02  # of an edge: what cells of one crystal, and edges that symmetry makes equal, may differ by
_SHORTEST, _LONGEST = 0.2, 100.0  # Å, of the spacings that single crystals are measured to
_LEAST_MEDIAN = 0.3  # Å, of the spacings of a list: that of a whole sphere is 1.26 times its shortest


@dataclass(frozen=True, eq=False)
class CrystalData:
    """What one file says; None of what it does not.

    Attributes
    ----------
    file : str
        Its name.
    cell, space_group, formula, wavelength, radiation
        As in `phaseray.sources.experiment.Experiment`.
    hklf, matrix
        As in `phaseray.sources.shelx.Instructions`.
    """

    file: str
    cell: Floats | None = None
    space_group: gemmi.SpaceGroup | None = None
    formula: str | None = None
    wavelength: float | None = None
    radiation: str | None = None
    hklf: int | None = None
    matrix: Floats | None = None


def checked_cell(cell: ArrayLike, what: str) -> Floats:
    """(6,) float64, of a cell that can be. ValueError says of `what` is wrong."""
    try:
        found = np.array(cell, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is not six numbers (a b c in Å, α β γ in degrees): {cell!r}") from None
    if found.shape != (6,):
        raise ValueError(f"{what} is {found.size} numbers; six are wanted: a b c in Å, α β γ in degrees")
    said = f"{what} ({_as_words(found)})"
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise ValueError(f"{said} has numbers that are not above zero")
    if found[:3].min() < _LEAST_EDGE or found[:3].max() > _MOST_EDGE:
        raise ValueError(f"{said} has edges that no crystal has; they are in Å")
    cosines = np.cos(np.radians(found[3:]))
    if (found[3:] >= 180).any() or 1 - cosines @ cosines + 2 * cosines.prod() <= 1e-6:
        raise ValueError(f"{said} has angles that do not close a cell")
    return found


def cells_agree(cell: Floats, other: Floats) -> bool:
    """Whether they can be of one crystal. No two cells agree of which one cannot be."""
    try:
        metrics = [_metric(checked_cell(each, "a cell")) for each in (cell, other)]
    except ValueError:
        return False
    return _change(*metrics) <= _SAME


def in_axes_of(group: gemmi.SpaceGroup, cell: Floats) -> gemmi.SpaceGroup:
    """A rhombohedral group that is named without its axes has those of the cell."""
    if group.ext not in ("H", "R"):
        return group
    return gemmi.find_spacegroup_by_name(group.hm, *cell[[3, 5]].tolist()) or group


def check_space_group(group: gemmi.SpaceGroup, cell: Floats, path: Path) -> None:
    """ValueError if the group's symmetry would change the cell."""
    metric = _metric(cell)
    rotations = np.array([operation.rot for operation in group.operations().sym_ops]) / gemmi.Op.DEN
    change = max(_change(metric, rotation.T @ metric @ rotation) for rotation in rotations)
    if not change <= _SAME:
        raise ValueError(
            f"{path}: the space group {group.xhm()} does not fit the cell {_as_words(cell)}: its symmetry would change "
            f"that by {change:.0%}; give --cell or --space-group"
        )


def check_spacings(reflections: Reflections, cell: Floats, path: Path) -> None:
    """ValueError if the reflections would have spacings that nobody measures: a cell of another crystal, or in nm."""
    hkl = reflections.hkl[reflections.hkl.any(1)]
    squares = np.einsum("ni,ij,nj->n", hkl, np.linalg.inv(_metric(cell)), hkl)
    d = 1 / np.sqrt(squares)
    if not ((d >= _SHORTEST) & (d <= _LONGEST)).any():
        raise ValueError(
            f"{path}: the cell {_as_words(cell)} does not belong to the reflections: none of them would have a spacing "
            f"of {_SHORTEST:g} to {_LONGEST:g} Å"
        )
    if np.median(d) < _LEAST_MEDIAN:
        raise ValueError(
            f"{path}: the cell {_as_words(cell)} does not belong to the reflections: half of them would have spacings "
            f"below {_LEAST_MEDIAN:g} Å; its edges are to be in Å, not in nm"
        )


def _as_words(cell: Floats) -> str:
    return " ".join(f"{value:g}" for value in cell)


def _metric(cell: Floats) -> Floats:
    """(3, 3) in Å²."""
    matrix = orthogonalization_matrix(cell)
    return matrix.T @ matrix


def _change(metric: Floats, other: Floats) -> float:
    """By what share of the edges two cells differ, in their edges or in the cosines between them."""
    edges = np.sqrt(np.diag(metric))
    # a square changes by twice the share of its edge
    return float((abs(other - metric) / np.outer(edges, edges)).max() / 2)
