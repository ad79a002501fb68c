"""Distances between points of a periodic cell, in Å, right in any cell however skewed."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseray.crystal import orthogonalization_matrix
from phaseray.diffraction.grid import Shape

Floats = NDArray[np.float64]

_IMAGES = np.array(list(product((-1, 0, 1), repeat=3)), np.float64)


@lru_cache(maxsize=256)
def _reduced(cell: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Minkowski-reduced basis (columns, Å), and the matrix from the cell's fractional coordinates to its own.

    In a reduced basis the nearest image of a point wrapped into [-½, ½) lies among the 27 cells around it; in the
    basis of a skewed cell it need not (Semaev 2001; Nguyen & Stehlé 2009).
    """
    M = orthogonalization_matrix(cell)
    basis = M.T.copy()
    while True:
        basis = basis[np.argsort((basis**2).sum(1), kind="stable")]
        pair = min((basis[1] + s * basis[0] for s in (0, -1, 1)), key=lambda v: float(v @ v))
        if pair @ pair < basis[1] @ basis[1] * (1 - 1e-12):
            basis[1] = pair
            continue
        third = [basis[2] + s * basis[0] + t * basis[1] for s in (0, -1, 1) for t in (0, -1, 1)]
        best = min(third, key=lambda v: float(v @ v))
        if best @ best >= basis[2] @ basis[2] * (1 - 1e-12):
            change: Floats = np.linalg.solve(basis.T, M).astype(np.float64)
            return basis.T, change
        basis[2] = best


def shortest(delta: ArrayLike, cell: ArrayLike) -> Floats:
    """Length in Å of the shortest lattice-equivalent of each fractional difference: (…, 3) to (…)."""
    basis, change = _reduced(tuple(float(x) for x in np.asarray(cell)))
    wrapped = np.asarray(delta, np.float64) @ change.T
    near = (wrapped - np.rint(wrapped)) @ basis.T
    gram = basis.T @ basis
    if abs(gram - np.diag(np.diag(gram))).max() < 1e-9 * gram.max():
        right: Floats = np.linalg.norm(near, axis=-1)
        return right
    least = np.full(near.shape[:-1], np.inf)
    # one image at a time: 27 small arrays, not one that is 27 times larger
    for image in _IMAGES @ basis.T:
        moved = near + image
        np.minimum(least, np.einsum("...i,...i->...", moved, moved), out=least)
    length: Floats = np.sqrt(least)
    return length


def shortest_translation(cell: ArrayLike) -> float:
    """Length in Å of the shortest vector of the lattice."""
    basis = _reduced(tuple(float(x) for x in np.asarray(cell)))[0]
    return float(np.linalg.norm(basis, axis=0).min())


def distances(a: ArrayLike, b: ArrayLike, cell: ArrayLike) -> Floats:
    """(n, m) distances in Å, nearest images, between fractional positions (n, 3) and (m, 3)."""
    return shortest(np.asarray(a, np.float64)[:, None] - np.asarray(b, np.float64)[None], cell)


def distance_from_origin(cell: ArrayLike, shape: Shape) -> Floats:
    """(nx, ny, nz), read-only: distance in Å of each grid point from the nearest lattice point."""
    return _distance_from_origin(tuple(float(x) for x in np.asarray(cell)), shape)


@lru_cache(maxsize=2)  # several models are judged on one crystal in turn
def _distance_from_origin(cell: tuple[float, ...], shape: Shape) -> Floats:
    i, j, k = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    length = shortest(np.stack([i, j, k], -1), cell)
    length.flags.writeable = False
    return length
