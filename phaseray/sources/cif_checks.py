"""Checks of the whole cell: atoms on top of one another, and the formula that the file states."""

from __future__ import annotations

from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Floats, Ints, Rejection
from phaseray.sources.cif_elements import Formula
from phaseray.sources.cif_expansion import Expansion
from phaseray.sources.cif_lattice import Lattice
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
MOST_MISMATCH_AT_END = 0.01
MOST_MISMATCH_OF_PARTS = 0.03
NOTED_MISMATCH = 0.02
_HYDROGEN = ("H", "D", "T")
_NUMBERS = {gemmi.Element(z).name: z for z in range(1, 119)}
_DENSE_PAIRS = 10_000


@lru_cache(maxsize=1)
def _clash_radii() -> Floats:
    return CLASH_OF_RADII * np.array([gemmi.Element(z).covalent_r for z in range(119)])


def check_clashes(sites: Sites, atoms: Expansion, lattice: Lattice, notes: list[str]) -> None:
    """Raise Rejection (clash, disorder) where atoms are in one place and their occupancies exceed 1."""
    radii = _clash_radii()[sites.numbers]
    i, j, distances = _close_pairs(atoms, radii, lattice)
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
    load = sites.occupancy + np.bincount(i[together], weights=sites.occupancy[other[together]], minlength=len(sites))
    worst = int(load.argmax())
    said = f"the occupancies of {sites.labels[worst]} and of what shares its place add up to {load[worst]:.3g}"
    if load[worst] > FULL:
        raise Rejection("clash", said)
    if load[worst] > NOTED:
        notes.append(f"{said[0].upper()}{said[1:]}.")


def _close_pairs(
    atoms: Expansion, radii: Floats, lattice: Lattice
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Pairs (site, index of any other atom) nearer than they may be, and their distances in Å."""
    # The first of a site's atoms stands for all: symmetry makes its surroundings those of the others.
    first = np.searchsorted(atoms.site, np.arange(len(radii)))
    reach = max(CLASH, 2 * float(radii.max()))
    box = 1 / lattice.reciprocal
    if len(first) * len(atoms.site) <= _DENSE_PAIRS or 2 * reach >= box.min():
        delta = atoms.positions[first][:, None] - atoms.positions
        delta -= np.rint(delta)
        cartesian = delta @ lattice.orthogonalization.T
        squares = np.einsum("ija,ija->ij", cartesian, cartesian)
        site, j = np.nonzero(squares < reach**2)
        distances = np.sqrt(squares[site, j])
    else:
        site, j, distances = _pairs_in_reach(atoms, first, reach, box, lattice)
    limit = np.maximum(CLASH, radii[site] + radii[atoms.site[j]])
    near = (distances < limit) & (first[site] != j)
    return site[near], j[near], distances[near]


def _pairs_in_reach(
    atoms: Expansion, first: NDArray[np.intp], reach: float, box: Floats, lattice: Lattice
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """As the dense search, in a periodic tree.

    With each axis in units of its spacing of lattice planes, no component of a difference exceeds its length.
    """
    from scipy.spatial import cKDTree

    points = atoms.positions * box
    tree = cKDTree(points, boxsize=box, leafsize=24, balanced_tree=False, compact_nodes=False)
    pairs = tree.query_pairs(reach, p=np.inf, output_type="ndarray")
    delta = atoms.positions[pairs[:, 0]] - atoms.positions[pairs[:, 1]]
    delta -= np.rint(delta)
    cartesian = delta @ lattice.orthogonalization.T
    distances = np.sqrt(np.einsum("ia,ia->i", cartesian, cartesian))
    near = distances < reach
    i, j = pairs[near].T
    i, j, distances = np.concatenate([i, j]), np.concatenate([j, i]), np.tile(distances[near], 2)
    site = atoms.site[i]
    is_first = first[site] == i
    return site[is_first], j[is_first], distances[is_first]


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
    stated = {_NUMBERS[s] for s in elements if s not in _HYDROGEN}
    counts = {z: n for z, n in enumerate(np.bincount(numbers, weights=occupancy).tolist()) if n and z > 1}
    if not stated:
        return
    if not counts:
        raise Rejection("formula_mismatch", "all atoms are hydrogens, the formula has others")
    foreign = [k for k in counts if k not in stated]
    if sum(k * counts[k] for k in foreign) > MOST_FOREIGN * sum(k * n for k, n in counts.items()):
        names = ", ".join(gemmi.Element(k).name for k in foreign)
        raise Rejection("formula_mismatch", f"{names} among the atoms, but not in the formula")
    if amounts is None:
        if missing := [gemmi.Element(k).name for k in sorted(stated - set(counts))]:
            raise Rejection("formula_mismatch", f"the formula has {', '.join(missing)}, the atoms have not")
        return
    # (ratio of found to stated, share of the electrons) of each element
    weights = {k: k * amounts[gemmi.Element(k).name] for k in stated}
    whole = sum(weights.values())
    ratios = sorted((counts.get(k, 0.0) / (weights[k] / k), weights[k] / whole) for k in stated)
    # the number of formula units that explains most: stated, of most electrons, of the most complete element
    middle = next(ratio for i, (ratio, _) in enumerate(ratios) if sum(w for _, w in ratios[: i + 1]) >= 0.5)
    off, units = min(
        (sum(abs(ratio - u) * weight for ratio, weight in ratios) / u, u) for u in (z, middle, ratios[-1][0]) if u > 0
    )
    # refined occupancies and a rounded formula differ by a few per cent; whole atoms do not
    whole_atoms = occupancy.min() == 1
    # One element is in proportion to itself however much is lost. (One formula unit: the formula is the cell's.)
    if at_the_end and z > 0 and units < 0.97 * z and abs(units - 1) > 0.01:
        raise Rejection(
            "formula_mismatch",
            f"{units:.3g} formula units in the cell, but Z is {z:g}, and the list of atoms is the end of the file",
        )
    if off <= (MOST_MISMATCH_AT_END if at_the_end and whole_atoms else NOTED_MISMATCH):
        return
    lost = sum(max(0.0, units - ratio) * weight for ratio, weight in ratios) / units
    said = f"the atoms do not add up to the formula: {off:.0%} of the electrons differ, {lost:.0%} are missing"
    if off > MOST_MISMATCH or (at_the_end and (whole_atoms or off > MOST_MISMATCH_OF_PARTS)):
        end = " (and the list of atoms is the end of the file)" if at_the_end else ""
        raise Rejection("formula_mismatch", said + end)
    notes.append(f"{said[0].upper()}{said[1:]}.")
