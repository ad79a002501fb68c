"""Checks of the whole cell: atoms on top of one another, and the formula that the file states."""

from __future__ import annotations

from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Floats, Ints, Rejection, orthogonalization_matrix
from phaseray.sources.cif_elements import Formula
from phaseray.sources.cif_expansion import Expansion
from phaseray.sources.cif_sites import Sites

# Two atoms nearer than this (Å), or than this share of the sum of their covalent radii, cannot both be there.
CLASH = 0.5
CLASH_OF_RADII = 0.5
# Occupancies that share a place may add up to this: they are refined one by one. From NOTED on a note says so.
FULL = 1.25
NOTED = 1.06
SAME_PLACE = 0.3
# Shares of the electrons of all atoms but H.
MOST_FOREIGN = 0.1
MOST_MISMATCH = 0.25
MOST_LOST_AT_END = 0.03
NOTED_MISMATCH = 0.02
_HYDROGEN = ("H", "D", "T")
_DENSE_PAIRS = 20_000


@lru_cache(maxsize=1)
def _clash_radii() -> Floats:
    return CLASH_OF_RADII * np.array([gemmi.Element(z).covalent_r for z in range(119)])


def check_clashes(sites: Sites, atoms: Expansion, cell: Floats, notes: list[str]) -> None:
    """Raise Rejection (clash, disorder) where atoms are in one place and their occupancies exceed 1."""
    radii = _clash_radii()[sites.numbers]
    i, j, distances = _close_pairs(sites.positions, atoms, radii, cell)
    if not len(i):
        return
    other = atoms.site[j]
    total = sites.occupancy[i] + sites.occupancy[other]
    clash = np.flatnonzero(total > FULL)
    if len(clash):
        worst = clash[distances[clash].argmin()]
        a, b = int(i[worst]), int(other[worst])
        said = (
            f"{sites.labels[a]} and {sites.labels[b]} are {distances[worst]:.2f} Å apart "
            f"and their occupancies add up to {total[worst]:.3g}"
        )
        if sites.disorder and sites.disorder[a][1] and sites.disorder[a] != sites.disorder[b]:
            raise Rejection("disorder", f"{said}, though they are in different disorder groups")
        raise Rejection("clash", f"{said} ({len(clash)} such pairs)")
    together = distances < SAME_PLACE
    load = sites.occupancy + np.bincount(
        i[together], weights=sites.occupancy[other[together]], minlength=len(sites)
    )
    worst = int(load.argmax())
    said = f"the occupancies of {sites.labels[worst]} and of what shares its place add up to {load[worst]:.3g}"
    if load[worst] > FULL:
        raise Rejection("clash", said)
    if load[worst] > NOTED:
        notes.append(f"{said[0].upper()}{said[1:]}.")


def _close_pairs(
    positions: Floats, atoms: Expansion, radii: Floats, cell: Floats
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Pairs (a site's own atom, any other atom) nearer than they may be, and their distances in Å."""
    orthogonalization = orthogonalization_matrix(cell)
    first = np.searchsorted(atoms.site, np.arange(len(radii)))  # the image by the identity
    n = len(atoms.site)
    if len(first) * n <= _DENSE_PAIRS:
        i, j = (a.ravel() for a in np.broadcast_arrays(first[:, None], np.arange(n)))
    else:
        i, j = _neighbours(atoms.positions, first, max(CLASH, 2 * radii.max()), orthogonalization)
    delta = atoms.positions[i] - atoms.positions[j]
    delta -= np.rint(delta)
    distances = np.sqrt(((delta @ orthogonalization.T) ** 2).sum(-1))
    site = atoms.site[i]
    limit = np.maximum(CLASH, radii[site] + radii[atoms.site[j]])
    near = np.flatnonzero((distances < limit) & (i != j))
    return site[near], j[near], distances[near]


def _neighbours(
    positions: Floats, first: NDArray[np.intp], radius: float, orthogonalization: Floats
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs that may be within `radius` Å, found in a periodic box.

    With each axis in units of its spacing of lattice planes, no component of a difference exceeds its length.
    """
    from scipy.spatial import cKDTree

    box = 1 / np.sqrt((np.linalg.inv(orthogonalization) ** 2).sum(1))
    if 2 * radius >= box.min():
        i, j = np.broadcast_arrays(first[:, None], np.arange(len(positions)))
        return i.ravel(), j.ravel()
    points = positions * box
    pairs = cKDTree(points, boxsize=box).query_pairs(radius, p=np.inf, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    is_first = np.zeros(len(positions), bool)
    is_first[first] = True
    pairs = pairs[is_first[pairs[:, 0]]]
    return pairs[:, 0], pairs[:, 1]


def check_formula(
    numbers: Ints,
    occupancy: Floats,
    elements: frozenset[str],
    amounts: Formula | None,
    z: float,
    at_the_end: bool,
    notes: list[str],
) -> None:
    """Raise Rejection (formula_mismatch) where the atoms cannot be those of the formula.

    Hydrogens are not counted: many files leave them out. Amounts are compared up to a common factor,
    because Z is often that of another formula. Solvents whose atoms are not in the file are common,
    so that a loss is tolerated where the list of atoms is followed by more (`at_the_end` False); where
    it is the last thing in the file, the file may have been cut.
    """
    counts = np.bincount(numbers, weights=occupancy, minlength=119)
    counts[1] = 0
    found = np.zeros(119)
    stated = [s for s in elements if s not in _HYDROGEN]
    if not stated or not counts.any():
        return
    atomic = np.arange(119)
    here = [gemmi.Element(s).atomic_number for s in stated]
    foreign = counts.copy()
    foreign[here] = 0
    electrons = counts @ atomic
    if foreign @ atomic > MOST_FOREIGN * electrons:
        names = ", ".join(gemmi.Element(int(k)).name for k in np.flatnonzero(foreign))
        raise Rejection("formula_mismatch", f"{names} among the atoms, but not in the formula")
    if amounts is None:
        if missing := [s for s, k in zip(stated, here, strict=True) if not counts[k]]:
            raise Rejection("formula_mismatch", f"the formula has {', '.join(missing)}, the atoms have not")
        return
    found[here] = [amounts[s] for s in stated]
    ratios = counts[here] / found[here]
    weights = (found * atomic)[here]
    # the number of formula units that explains most: stated, of most electrons, of the most complete element
    order = ratios.argsort()
    middle = order[np.searchsorted(weights[order].cumsum(), weights.sum() / 2)]
    units = [u for u in (z, ratios[middle], ratios.max()) if u > 0]
    off = [np.abs(ratios - u) @ weights / (u * weights.sum()) for u in units]
    best = int(np.argmin(off))
    lost = (units[best] - ratios).clip(min=0) @ weights / (units[best] * weights.sum())
    if off[best] <= NOTED_MISMATCH:
        return
    said = (
        f"the atoms do not add up to the formula: {off[best]:.0%} of the electrons differ, {lost:.0%} are missing"
    )
    if off[best] > MOST_MISMATCH or (at_the_end and lost > MOST_LOST_AT_END):
        raise Rejection("formula_mismatch", said + (" (and the list of atoms is the end of the file)" if at_the_end else ""))
    notes.append(f"{said[0].upper()}{said[1:]}.")
