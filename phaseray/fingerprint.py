"""Fingerprint: what stays of a crystal when origin, setting, hand, supercell and order of atoms are forgotten.

Amplitudes do not know them, so a fingerprint is made of amplitudes: of point atoms, once with weight Z
and once with weight 1 (in which hydrogens count as much as lead). Let E(h) = F(h) / F(0). A supercell
puts the same E at the same d, and zeros between; so does the conventional cell of a centred lattice.

    shells     Σ_h |E|² on a ladder of 1/d, each reflection shared between the two rungs next to it
    strongest  the largest |E|, in order

Every number is a continuous function of cell, positions and occupancies, so that two files of one
structure differ by their rounding only. That is why fingerprints are compared with a tolerance and not
hashed: a hash of rounded numbers takes two of them apart wherever a value lies at the edge of a bin.

Forgotten too are displacements, isotopes, and the hand: a crystal and its mirror image have one set of
amplitudes, and whoever learns phases may take either. Homometric structures (different atoms, the same
|F|: a handful is known) cannot be told apart by amplitudes; nobody could phase them apart either.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Crystal, Floats

D_MIN = 1.5  # Å
RUNGS = 16
STRONGEST = 32
# What two files of one structure may differ by. Noise of 0.001 Å in every coordinate moves a part of the
# pattern by 0.0014 (median of 400 crystals; 0.004 at 99 %, 0.0116 at most), one atom of up to 200 moved
# by 0.3 Å by 0.015 at least (median 0.037).
SAME_PATTERN = 0.012  # of the length of each part of the pattern
LEAST_OF_BOTH = 0.2  # a part counts for no less than this share of it and its like by the other weight
LEAST = 1e-4
SAME_DENSITY = 0.003  # of atoms an Å³
SAME_COMPOSITION = 0.002  # of the share of an element among the atoms
# Terms of the sum; beyond, the comparison would take longer than everything else. Limits() stay below.
MOST_TERMS = 4e9
_BLOCK = 50_000  # complex numbers at once: they should stay in the cache
_PARTS = (RUNGS, RUNGS, STRONGEST, STRONGEST)  # shells by Z, shells by 1, strongest by Z, strongest by 1
LENGTH = 1 + sum(_PARTS)  # without the composition
_EDGES = tuple(pairwise(np.cumsum([1, *_PARTS]).tolist()))


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """`system`: elements, 'Cl-Na' (D is H). `values`: (LENGTH + elements,) float32, see `same`."""

    system: str
    values: NDArray[np.float32]


def fingerprint(crystal: Crystal) -> Fingerprint | None:
    """The fingerprint of a crystal.

    Returns
    -------
    Fingerprint or None
        Atoms an Å³, shells and strongest |E| by both weights, shares of the elements in the order of
        `system`. Computed in double precision and rounded to single, so that machines agree. None where
        the crystal has no atoms or is too large to be compared (over MOST_TERMS).
    """
    composition = crystal.composition
    amount = sum(composition.values())
    cell, positions = _compact(crystal)
    metric = np.linalg.inv(np.array(cell.orth.mat.tolist()))
    metric = metric @ metric.T
    # |h_i| ≤ a_i / d_min
    reach = (np.array(cell.parameters[:3]) / D_MIN).astype(int)
    terms = float(np.prod(2.0 * reach + 1)) / 2 * crystal.n_atoms
    if not amount or terms > MOST_TERMS:
        return None
    h, k, l = (np.arange(-reach[0], reach[0] + 1), np.arange(-reach[1], reach[1] + 1), np.arange(reach[2] + 1))
    hkl = np.stack(np.meshgrid(h, k, l, indexing="ij"), -1).reshape(-1, 3)
    s = np.sqrt(np.einsum("ia,ab,ib->i", hkl, metric, hkl))
    # half of space: of h and -h one
    half = (hkl[:, 2] > 0) | ((hkl[:, 2] == 0) & ((hkl[:, 1] > 0) | ((hkl[:, 1] == 0) & (hkl[:, 0] > 0))))
    wanted = half & (s < 1 / D_MIN)
    s = s[wanted]
    # falls to nothing at the edge of the sphere: a reflection that rounding moves across it does not count
    window = (1 - (s * D_MIN) ** 2) ** 2
    weights = crystal.occupancy * np.stack([crystal.numbers, np.ones(crystal.n_atoms)])
    amplitudes = [abs(f[wanted]) * window for f in _sums(positions, weights, (h, k, l))]
    values = [
        np.array([amount / crystal.volume]),
        *(_shells(s, e) for e in amplitudes),
        *(_strongest(e) for e in amplitudes),
        np.array([composition[symbol] / amount for symbol in sorted(composition)]),
    ]
    return Fingerprint("-".join(sorted(composition)), np.concatenate(values).astype(np.float32))


def rough(crystal: Crystal) -> tuple[str, float, Floats]:
    """What costs nothing and already tells most crystals apart: system, atoms an Å³, shares of its elements.

    `system` is that of the fingerprint, the others are its first value and its last ones. Whoever has no
    neighbour in `rough_neighbourhood` is the same as nobody, and needs no fingerprint.
    """
    composition = crystal.composition
    amount = sum(composition.values())
    symbols = sorted(composition)
    return "-".join(symbols), amount / crystal.volume, np.array([composition[s] / amount for s in symbols])


def rough_neighbourhood(density: Floats, shares: Floats) -> Floats:
    """(n, 1 + elements) coordinates in which the same structures are at most 1 apart on every axis.

    Parameters
    ----------
    density : (n,)
    shares : (n, elements)
        From `rough`, of crystals of one system.
    """
    # fingerprints are rounded to single precision
    near: Floats = np.column_stack([np.log(density) / np.log1p(SAME_DENSITY), shares / SAME_COMPOSITION]) / 1.001
    return near


def same(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether two crystals are one structure, as far as amplitudes, density and composition tell."""
    return a.system == b.system and bool(same_values(a.values[None], b.values[None])[0])


def same_values(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,) whether rows of (n, LENGTH + elements) `values` of one system are the same structure."""
    return _same_values(a.astype(np.float64), b.astype(np.float64))


def _same_values(a: Floats, b: Floats) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = abs(a[:, 0] - b[:, 0]) <= SAME_DENSITY * np.minimum(a[:, 0], b[:, 0])
    found &= (abs(a[:, LENGTH:] - b[:, LENGTH:]) <= SAME_COMPOSITION).all(1)
    for first, end in _EDGES:
        own, both = (np.maximum(_length(a, *part), _length(b, *part)) for part in ((first, end), _both(first)))
        # by one of the weights there may be next to nothing to see (as of the atoms of NaCl, all alike)
        most = np.maximum(own, np.maximum(LEAST_OF_BOTH * both, LEAST))
        found &= np.linalg.norm(a[:, first:end] - b[:, first:end], axis=1) <= SAME_PATTERN * most
    return found


def neighbourhood(values: NDArray[np.float32]) -> Floats:
    """(n, …) coordinates in which the same structures are at most 1 apart on every axis.

    Necessary, not sufficient: what is found with them is to be put to `same_values`. By the triangle
    inequality the lengths of the pattern's parts differ by no more than the parts do.
    """
    v = values.astype(np.float64)
    lengths = [np.log(np.maximum(_length(v, *_both(first)), LEAST)) for first in (1, 1 + 2 * RUNGS)]
    axes = [np.log(v[:, 0]) / np.log1p(SAME_DENSITY), *(x / -np.log1p(-(2**0.5) * SAME_PATTERN) for x in lengths)]
    return np.column_stack([*axes, v[:, LENGTH:] / SAME_COMPOSITION])


def _length(values: Floats, first: int, end: int) -> Floats:
    length: Floats = np.linalg.norm(values[:, first:end], axis=1)
    return length


def _both(first: int) -> tuple[int, int]:
    """Where a part and the like part by the other weight stand together."""
    return (1, 1 + 2 * RUNGS) if first < 1 + 2 * RUNGS else (1 + 2 * RUNGS, LENGTH)


def _compact(crystal: Crystal) -> tuple[gemmi.UnitCell, Floats]:
    """The same lattice on reduced axes, where the box of indices around the sphere is small."""
    vector = gemmi.GruberVector(gemmi.UnitCell(*crystal.cell), "P", True)
    vector.niggli_reduce(epsilon=1e-9, iteration_limit=200)
    cell = vector.get_cell()
    basis = np.array(vector.change_of_basis.rot) / gemmi.Op.DEN
    # rows of the one lattice in terms of the other, by whichever convention: lengths decide
    old = np.array(gemmi.UnitCell(*crystal.cell).orth.mat.tolist())
    new = old @ basis
    if not np.allclose(np.linalg.norm(new, axis=0), cell.parameters[:3], rtol=1e-6):
        return gemmi.UnitCell(*crystal.cell), crystal.positions
    return cell, crystal.positions @ np.linalg.inv(basis).T


def _sums(positions: Floats, weights: Floats, indices: tuple[NDArray[np.int64], ...]) -> list[NDArray[np.complex128]]:
    """E(hkl) for each row of weights, on the box of indices, flattened."""
    # exp(2πi h·x) is a product of one factor an axis, so the sum over atoms is a matrix product
    ex, ey, ez = (np.exp(2j * np.pi * np.outer(n, positions[:, i])) for i, n in enumerate(indices))
    n = len(positions)
    step = max(1, _BLOCK // (len(ey) * n))
    totals: list[list[NDArray[np.complex128]]] = [[] for _ in weights]
    for first in range(0, len(ex), step):
        plane = (ex[first : first + step, None, :] * ey).reshape(-1, n)
        for row, total in zip(weights, totals, strict=True):
            total.append((plane @ (ez * (row / row.sum())).T).reshape(-1))
    return [np.concatenate(total) for total in totals]


def _shells(s: Floats, e: Floats) -> Floats:
    place = s * D_MIN * RUNGS
    lower = np.minimum(place.astype(np.int64), RUNGS - 1)
    upper_share = place - lower
    e2 = e * e
    shells = np.bincount(lower, e2 * (1 - upper_share), RUNGS + 1) + np.bincount(lower + 1, e2 * upper_share, RUNGS + 1)
    # nothing reaches the edge of the window
    return shells[:RUNGS].astype(np.float64)


def _strongest(e: Floats) -> Floats:
    top = np.zeros(STRONGEST)
    best = np.sort(e)[::-1][:STRONGEST]
    top[: len(best)] = best
    return top
