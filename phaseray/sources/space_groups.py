"""The 230 space groups: operators in the standard setting or on primitive axes, cells, and how often each is met."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Columns: primitive axes in terms of the standard ones (IT A 1.5.1.1; R is obverse on hexagonal axes).
_PRIMITIVE = {
    "P": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "A": ((1, 0, 0), (0, 1 / 2, -1 / 2), (0, 1 / 2, 1 / 2)),
    "C": ((1 / 2, 1 / 2, 0), (-1 / 2, 1 / 2, 0), (0, 0, 1)),
    "I": ((-1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (1 / 2, 1 / 2, -1 / 2)),
    "F": ((0, 1 / 2, 1 / 2), (1 / 2, 0, 1 / 2), (1 / 2, 1 / 2, 0)),
    "R": ((2 / 3, -1 / 3, -1 / 3), (1 / 3, 1 / 3, -2 / 3), (1 / 3, 1 / 3, 1 / 3)),
}

# Relative frequencies, rounded, as inorganic databases have them; what is not named has 0.1.
INORGANIC = {
    62: 8, 14: 6, 225: 4.5, 227: 4, 194: 4, 166: 3.5, 139: 4, 15: 3, 221: 3.5, 12: 3.5, 2: 3.5, 63: 3, 167: 1.2,
    148: 2, 129: 1.8, 123: 1.5, 191: 1.6, 216: 1.5, 186: 1.5, 164: 2, 176: 1.5, 193: 1, 189: 1.5, 136: 1, 140: 1.2,
    141: 1.2, 58: 0.8, 57: 0.6, 60: 0.8, 61: 0.6, 19: 1.5, 4: 1, 33: 1.2, 36: 1, 29: 0.5, 11: 1.5, 87: 0.8, 88: 0.6,
    160: 0.7, 161: 0.6, 122: 0.8, 205: 0.8, 206: 0.4, 230: 1, 229: 0.8, 223: 0.8, 198: 0.8, 217: 0.5, 220: 0.5,
    127: 0.7, 130: 0.3, 137: 0.4, 163: 0.3, 165: 0.3, 173: 0.5, 64: 0.8, 65: 0.8, 69: 0.3, 70: 0.3, 71: 0.8, 72: 0.4,
    74: 0.8, 55: 0.8, 59: 0.7, 5: 0.6, 7: 0.6, 8: 0.6, 9: 0.6, 1: 0.7, 215: 0.4, 224: 0.2, 43: 0.4, 26: 0.3, 31: 0.5,
    92: 0.4, 82: 0.5, 121: 0.5, 13: 0.6, 10: 0.4, 51: 0.4, 47: 0.3, 147: 0.4, 152: 0.3, 156: 0.3, 162: 0.3, 187: 0.5,
}  # fmt: skip

# The same of molecular crystals; only these are drawn unless the configuration names others.
ORGANIC = {
    14: 34, 2: 25, 15: 8, 19: 7, 4: 5.5, 61: 3.3, 33: 1.4, 62: 1.2, 9: 1, 1: 1, 60: 0.8, 5: 0.8, 29: 0.7, 148: 0.6,
    13: 0.5, 12: 0.5, 82: 0.4, 88: 0.4, 11: 0.4, 7: 0.3, 18: 0.3, 43: 0.3, 56: 0.3, 20: 0.2, 76: 0.2, 92: 0.2,
    86: 0.2, 114: 0.2, 146: 0.2, 161: 0.2,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """One space group on one choice of axes.

    Attributes
    ----------
    number : int
    symbol : str or None
        Of the setting, extended Hermann-Mauguin; None on primitive axes of a centred lattice.
    rotations, translations : (m, 3, 3) and (m, 3) float64
        x' = R x + t, in fractions; all operators of the cell, centring included, identity first.
    axes : (3, 3)
        Columns: the axes in terms of those of the standard setting.
    """

    number: int
    symbol: str | None
    rotations: Floats
    translations: Floats
    axes: Floats


@lru_cache(maxsize=512)
def space_group(number: int, primitive: bool = False) -> SpaceGroup:
    """A space group by its number, 1 to 230, in gemmi's first standard setting or on primitive axes."""
    group = gemmi.find_spacegroup_by_number(number)
    operators = list(group.operations())
    rotations = np.array([op.rot for op in operators]) / gemmi.Op.DEN
    translations = np.array([op.tran for op in operators]) / gemmi.Op.DEN
    centring = group.hm[0] if group.ext != "R" else "P"
    if not primitive or centring == "P":
        return SpaceGroup(number, group.xhm(), rotations, translations, np.eye(3))
    axes = np.array(_PRIMITIVE[centring])
    inverse = np.linalg.inv(axes)
    rotations = inverse @ rotations @ axes
    translations = translations @ inverse.T
    # what differs by a translation of the lattice is one operator now
    _, first = np.unique(np.rint(rotations).astype(int).reshape(-1, 9), axis=0, return_index=True)
    first = np.sort(first)
    return SpaceGroup(number, None, np.rint(rotations[first]), translations[first] % 1.0, axes)


def crystal_system(number: int) -> str:
    return gemmi.find_spacegroup_by_number(number).crystal_system_str()


@lru_cache(maxsize=8)
def inorganic_frequencies(numbers: tuple[int, ...]) -> Floats:
    """(n,) shares, adding up to 1."""
    weights = np.array([INORGANIC.get(n, 0.1) for n in numbers])
    shares: Floats = weights / weights.sum()
    return shares


def shape(number: int, rng: np.random.Generator, spread: float) -> tuple[Floats, Floats]:
    """Edges (of geometric mean 1) and angles in degrees of a cell that the space group allows.

    Parameters
    ----------
    spread : float
        Standard deviation of the logarithm of an edge.
    """
    a, b, c = np.exp(spread * np.clip(rng.standard_normal(3), -2.2, 2.2))
    system = crystal_system(number)
    angles = np.full(3, 90.0)
    if system == "triclinic":
        angles = rng.uniform(70, 112, 3)
    elif system == "monoclinic":
        angles[1] = 90 + 30 * rng.random() ** 1.5
    elif system == "tetragonal":
        b = a
    elif system == "cubic":
        b = c = a
    elif system in ("trigonal", "hexagonal"):
        b, angles[2] = a, 120.0
    edges = np.array([a, b, c])
    return edges / edges.prod() ** (1 / 3), angles
