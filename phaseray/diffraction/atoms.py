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
_SAME = 1e-9  # of an edge; at h = 15 an error of 1e-7 in the phase factor


class Atoms(NamedTuple):
    """Atoms sorted by element."""

    positions: Floats  # (n, 3)
    weight: Floats  # (n,) occupancy, doubled where an atom stands for its mate too
    beta: Floats  # (n, 6) dimensionless, U_ij a*_i a*_j: T = exp(-2π² Σ β_ij h_i h_j)
    elements: list[tuple[int, int, int, int]]  # atomic number, isotope, first atom, one past the last
    centric: bool  # F is the real part of the sum

    @classmethod
    def of(cls, crystal: Crystal) -> Atoms:
        """All atoms of the cell."""
        order = np.argsort(crystal.numbers * 1000 + crystal.isotopes, kind="stable")
        return cls._taken(crystal, _beta(crystal), order, crystal.occupancy, False)

    @classmethod
    def folded(cls, crystal: Crystal) -> Atoms:
        """One atom of each pair at x and -x, where every atom has such a mate (or is its own); else all.

        The mate adds the complex conjugate, so F = Re Σ weight · f · T · exp(2πi h·x).
        """
        symbol = crystal.space_group
        if symbol is not None and not _has_centre(symbol):
            return cls.of(crystal)
        beta = _beta(crystal)
        mates = _mates(crystal, beta)
        if mates is None:
            return cls.of(crystal)
        order, mate = mates
        own = np.arange(len(mate))
        weight = crystal.occupancy * (1.0 + (mate != own))
        return cls._taken(crystal, beta, order[(mate >= own)[order]], weight, True)

    @classmethod
    def _taken(cls, crystal: Crystal, beta: Floats, order: Ints, weight: Floats, centric: bool) -> Atoms:
        numbers, isotopes = crystal.numbers[order], crystal.isotopes[order]
        change = (numbers[1:] != numbers[:-1]) | (isotopes[1:] != isotopes[:-1])
        edges = [0, *(change.nonzero()[0] + 1).tolist(), len(order)] if len(order) else []
        elements = [(int(numbers[a]), int(isotopes[a]), a, b) for a, b in pairwise(edges)]
        return cls(crystal.positions[order], weight[order], beta[order], elements, centric)

    def slice(self, start: int, stop: int) -> Atoms:
        """Some of the atoms; `elements` are those among them, counted from `start`."""
        count = min(stop, len(self.weight)) - start
        clipped = ((z, i, max(a - start, 0), min(b - start, count)) for z, i, a, b in self.elements)
        return Atoms(
            self.positions[start:stop], self.weight[start:stop], self.beta[start:stop],
            [e for e in clipped if e[2] < e[3]], self.centric,
        )  # fmt: skip


def _beta(crystal: Crystal) -> Floats:
    metric = crystal.reciprocal_metric
    if crystal.u_aniso is None:
        return crystal.u_iso[:, None] * metric[ROW, COLUMN]
    lengths = np.sqrt(metric[[0, 1, 2], [0, 1, 2]])
    return crystal.u_aniso * (lengths[ROW] * lengths[COLUMN])


@lru_cache(maxsize=4096)
def _has_centre(symbol: str) -> bool:
    """Whether a group may have a centre; one that is not known may."""
    group = gemmi.find_spacegroup_by_name(symbol)
    return group is None or group.is_centrosymmetric()


def _mates(crystal: Crystal, beta: Floats) -> tuple[Ints, Ints] | None:
    """An order by element, and for each atom the one at -x that is its equal; None where one has none."""
    x = crystal.positions
    steps = np.rint(x * _STEPS).astype(np.int64)
    kind = crystal.numbers * _STEPS**3
    here = (steps & (_STEPS - 1)) @ _PLACES + kind
    there = (-steps & (_STEPS - 1)) @ _PLACES + kind
    order, inverse = np.argsort(here), np.argsort(there)
    if (here[order] != there[inverse]).any():
        return None
    mate = np.empty_like(order)
    mate[inverse] = order
    away = x + x[mate]
    away -= np.rint(away)
    equal = (
        np.abs(away).max() < _SAME
        and np.abs(crystal.occupancy - crystal.occupancy[mate]).max() < _SAME
        and np.abs(beta - beta[mate]).max() < 1e-10
        and (mate[mate] == np.arange(len(mate))).all()
        # the order knows no isotopes
        and not crystal.isotopes.any()
    )
    return (order, mate) if equal else None
