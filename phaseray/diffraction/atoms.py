"""The atoms of a cell as the sums over them want them: sorted by element, and half of them where a centre allows."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Crystal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Rows U11 U22 U33 U12 U13 U23 of a symmetric tensor.
ROW, COLUMN = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])

# A position in 17 bits an axis, the element above them: one integer to sort by.
_STEPS = 1 << 17
_PLACES = np.array([1, _STEPS, _STEPS**2])
_ODD = np.array([1.0] * 3 + [-1.0] * 7)  # what inversion turns round: the position alone
_SAME = 1e-9  # of an edge, of 1, of β: at h = 15 an error of 1e-7 in the phase factor, 4e-6 of a vanishing T


class Atoms(NamedTuple):
    """Atoms sorted by element."""

    positions: Floats  # (n, 3)
    weight: Floats  # (n,) occupancy, doubled where an atom stands for its mate too
    beta: Floats  # (n, 6) dimensionless, U_ij a*_i a*_j: T = exp(-2π² Σ β_ij h_i h_j)
    elements: list[tuple[int, int, int, int]]  # atomic number, isotope, first atom, one past the last
    centric: bool  # F is the real part of the sum
    still: bool  # all β are 0

    @classmethod
    def of(cls, crystal: Crystal, common_u: float = 0.0) -> Atoms:
        """All atoms of the cell. `common_u` (Å²) is taken off isotropic displacements."""
        order = (crystal.numbers * 1000 + crystal.isotopes).argsort(kind="stable")
        return cls._taken(crystal, *_table(crystal, common_u), order, False)

    @classmethod
    def folded(cls, crystal: Crystal, common_u: float = 0.0) -> Atoms:
        """One atom of each pair at x and -x, where every atom has such a mate (or is its own); else all.

        The mate adds the complex conjugate, so F = Re Σ weight · f · T · exp(2πi h·x).
        """
        symbol = crystal.space_group
        if (symbol is not None and not _has_centre(symbol)) or crystal.isotopes.any():
            return cls.of(crystal, common_u)
        table, still = _table(crystal, common_u)
        mates = _mates(crystal, table[:, :4] if still else table)
        if mates is None:
            return cls.of(crystal, common_u)
        order, mate, own = mates
        table[:, 3] *= 1.0 + (mate != own)
        return cls._taken(crystal, table, still, order[(mate >= own)[order]], True)

    @classmethod
    def _taken(cls, crystal: Crystal, table: Floats, still: bool, order: Ints, centric: bool) -> Atoms:
        table = table[order]
        kinds = (crystal.numbers * 1000 + crystal.isotopes)[order]
        starts = [0, *((kinds[1:] != kinds[:-1]).nonzero()[0] + 1).tolist()] if len(kinds) else []
        elements = [(*divmod(int(kinds[a]), 1000), a, b) for a, b in pairwise([*starts, len(kinds)])]
        return cls(table[:, :3], table[:, 3], table[:, 4:], elements, centric, still)

    def slice(self, start: int, stop: int) -> Atoms:
        """Some of the atoms; `elements` are those among them, counted from `start`."""
        count = min(stop, len(self.weight)) - start
        clipped = ((z, i, max(a - start, 0), min(b - start, count)) for z, i, a, b in self.elements)
        return Atoms(
            self.positions[start:stop], self.weight[start:stop], self.beta[start:stop],
            [e for e in clipped if e[2] < e[3]], self.centric, self.still,
        )  # fmt: skip


def _table(crystal: Crystal, common_u: float) -> tuple[Floats, bool]:
    """(n, 10): position, occupancy, β, isotropic ones without what is common to all; whether all β are 0."""
    metric = crystal.reciprocal_metric
    table = np.zeros((crystal.n_atoms, 10))
    table[:, :3], table[:, 3] = crystal.positions, crystal.occupancy
    if crystal.u_aniso is None:
        apart = crystal.u_iso - common_u
        if not apart.any():
            return table, True
        np.multiply(apart[:, None], metric[ROW, COLUMN], out=table[:, 4:])
    else:
        lengths = np.sqrt(metric[[0, 1, 2], [0, 1, 2]])
        np.multiply(crystal.u_aniso, lengths[ROW] * lengths[COLUMN], out=table[:, 4:])
    return table, False


@lru_cache(maxsize=4096)
def _has_centre(symbol: str) -> bool:
    """Whether a group may have a centre; one that is not known may."""
    group = gemmi.find_spacegroup_by_name(symbol)
    return group is None or group.is_centrosymmetric()


def _mates(crystal: Crystal, table: Floats) -> tuple[Ints, Ints, Ints] | None:
    """An order by element, and for each atom the one at -x that is its equal, and itself; None where one has none."""
    steps = np.rint(crystal.positions * _STEPS).astype(np.int64)
    kind = crystal.numbers * _STEPS**3
    here = (steps & (_STEPS - 1)) @ _PLACES + kind
    there = (-steps & (_STEPS - 1)) @ _PLACES + kind
    order, inverse = here.argsort(), there.argsort()
    if (here[order] != there[inverse]).any():
        return None
    mate, own = np.empty_like(order), np.arange(len(order))
    mate[inverse] = order
    apart = table + table[mate] * _ODD[: table.shape[1]]
    apart[:, :3] -= np.rint(apart[:, :3])
    if np.abs(apart).max() > _SAME or (mate[mate] != own).any():
        return None
    return order, mate, own
