"""A box of reflections, |h_i| ≤ reach_i with l ≥ 0 in FFT order: those of the sphere, and its corners."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, Module, as_complex
from phaseray.diffraction.atoms import Atoms
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.scattering import Probe, form_factors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NO_CROSS = 1e-12  # of the metric: axes that are at right angles


class Box:
    """The reflections of one crystal that a grid can hold, and what depends on their place alone.

    Attributes
    ----------
    reach, shape
        Largest indices, and (2 h + 1, 2 k + 1, l + 1).
    indices : three integer arrays in FFT order, so that whole blocks can be copied to the grid
    s2, inside : (sinθ/λ)² in Å⁻² and whether it is within the sphere
        Where -h (or -k) has the same s² as h for any k and l, only h ≥ 0 is held; `_places` leads to the whole.
    """

    def __init__(self, reach: Shape, metric: Floats, d_min: float) -> None:
        self.reach = reach
        self.indices, self._index, self._square, self.ranges, self.shape = axes(reach)
        # numbers of Python's are quicker to multiply by than those of NumPy
        (g_hh, g_hk, g_hl), (_, g_kk, g_kl), (_, _, g_ll) = (metric / 4).tolist()
        scale = _NO_CROSS * g_hh
        hk, hl, kl = abs(g_hk) > scale, abs(g_hl) > scale, abs(g_kl) > scale
        self.folded = (not (hk or hl), not (hk or kl))
        h, k, n_l, hh, kk, ll = _powers(reach, self.folded)
        plane = g_hh * hh + g_kk * kk
        if hk:
            plane += (2 * g_hk * h) * k
        s2 = plane[:, :, None] + g_ll * ll
        if hl or kl:
            s2 += (2 * g_hl * h + 2 * g_kl * k)[:, :, None] * n_l
        self.s2 = s2
        self.inside = s2 <= 0.25 / d_min**2 * (1 + 1e-9)

    def waves(self, atoms: Atoms, xp: Module) -> Array:
        """exp(2πi h x) times exp(-2π² β h²): (n, N) complex64, h, k and l as in `ranges`."""
        turns = atoms.positions @ self._index
        # turns are reduced in double precision, so that single precision holds the angle
        turns -= np.rint(turns)
        turns *= 2 * np.pi
        angle = xp.asarray(turns.astype(np.float32))
        waves = as_complex(xp.cos(angle), xp.sin(angle))
        if not atoms.still:
            waves = waves * xp.exp(xp.asarray((atoms.beta[:, :3] @ self._square).astype(np.float32)))
        return waves

    def form_factors(
        self, elements: Sequence[tuple[int, int]], probe: Probe, common_u: float, order: Shape, xp: Module
    ) -> Array:
        """(t, box) float32 with a common displacement, the axes of the box in `order`; 0 outside the sphere."""
        f = form_factors(elements, self.s2.reshape(-1), xp=xp, dtype=xp.float32, probe=probe, u_iso=common_u)
        f = f * xp.asarray(self.inside.reshape(-1).astype(np.float32))
        if order == (0, 1, 2) and not any(self.folded):
            return f
        return xp.take(f, xp.asarray(_places(self.reach, self.folded, order)), axis=1)

    def off_diagonal(self, beta: Floats, xp: Module) -> Array:
        """exp(-4π² (β_12 hk + β_13 hl + β_23 kl)) on the box, float32."""
        h, k, n_l = self.indices
        b = -4 * np.pi**2 * beta
        exponent = (b[0] * h[:, None] * k)[:, :, None] + (b[1] * h[:, None] + b[2] * k)[:, :, None] * n_l
        return xp.exp(xp.asarray(exponent.astype(np.float32)))

    def hkl(self) -> tuple[Ints, Ints]:
        """Places (m,) in the flat box of the reflections within the sphere, and their indices (m, 3)."""
        inside = self.inside.reshape(-1)[_places(self.reach, self.folded, (0, 1, 2))]
        places: Ints = np.flatnonzero(inside)
        where = np.unravel_index(places, self.shape)
        return places, np.stack([index[i] for index, i in zip(self.indices, where, strict=True)], 1)

    def gathered(self, values: Array, places: Ints, xp: Module) -> Array:
        """Values (m,) at their places, 0 elsewhere."""
        source = np.full(int(np.prod(self.shape)), len(places))
        source[places] = np.arange(len(places))
        padded = xp.concat([values, xp.zeros(1, dtype=values.dtype)])
        return xp.reshape(xp.take(padded, xp.asarray(source)), self.shape)


def reach_of(cell: Floats, shape: Shape, d_min: float) -> Shape:
    """Largest indices (h, k, l) of the sphere 1/d ≤ 1/d_min that the grid can hold."""
    h, k, n_l = (
        min(int(edge / d_min * (1 + 1e-9)), (n - 1) // 2) for edge, n in zip(cell[:3].tolist(), shape, strict=True)
    )
    return h, k, n_l


def spread(box: Array, shape: Shape, xp: Module) -> Array:
    """Boxes (…, H, K, L) on half grids: zeros put between the positive and the negative indices."""
    grid = xp.zeros((*box.shape[:-3], *half_shape(shape)), dtype=box.dtype)
    n_l = box.shape[-1]
    for to_h, from_h in _blocks(box.shape[-3], shape[0]):
        for to_k, from_k in _blocks(box.shape[-2], shape[1]):
            grid[..., to_h, to_k, :n_l] = box[..., from_h, from_k, :]
    return grid


def _blocks(size: int, n: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    positive = size // 2 + 1
    return (
        (slice(0, positive), slice(0, positive)),
        (slice(n - size + positive, n), slice(positive, size)),
    )


@lru_cache(maxsize=4096)
def axes(
    reach: Shape,
) -> tuple[tuple[Ints, Ints, Ints], Floats, Floats, tuple[tuple[int, int], ...], Shape]:
    """Indices of the three axes; index and -2π² index² (3, N) an axis a row; where each axis stands; the shape."""
    indices = (fft_order(reach[0]), fft_order(reach[1]), np.arange(reach[2] + 1))
    ends = np.cumsum([0, *(len(i) for i in indices)]).tolist()
    ranges = tuple(pairwise(ends))
    rows = np.zeros((3, ends[-1]))
    for axis, (start, stop) in enumerate(ranges):
        rows[axis, start:stop] = indices[axis]
    return indices, rows, -2 * np.pi**2 * rows * rows, ranges, (len(indices[0]), len(indices[1]), len(indices[2]))


@lru_cache(maxsize=4096)
def _powers(reach: Shape, folded: tuple[bool, bool]) -> tuple[Floats, ...]:
    """h (H, 1), k (K,) and l (L,), and their squares, of the folded part."""
    h, k, n_l = (
        index[: r + 1].astype(float) if fold else index.astype(float)
        for index, r, fold in zip(axes(reach)[0], reach, (*folded, False), strict=True)
    )
    h = h[:, None]
    return h, k, n_l, h * h, k * k, n_l * n_l


@lru_cache(maxsize=1024)
def fft_order(reach: int) -> Ints:
    return np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])


@lru_cache(maxsize=1024)
def _places(reach: Shape, folded: tuple[bool, bool], order: Shape) -> Ints:
    """Where in the folded part each reflection of the whole box stands, the axes of the box in `order`."""
    indices, *_, shape = axes(reach)
    size = tuple(r + 1 if fold else n for r, n, fold in zip(reach, shape, (*folded, False), strict=True))
    at = (abs(i) if fold else np.arange(len(i)) for i, fold in zip(indices, (*folded, False), strict=True))
    places: Ints = np.ravel_multi_index(np.meshgrid(*at, indexing="ij"), size)
    return np.ascontiguousarray(places.transpose(order)).reshape(-1)


@lru_cache(maxsize=1024)
def plane_products(reach: Shape, first: int, second: int) -> NDArray[np.float32]:
    """(3, VW): v, w and v·w of the plane of two axes."""
    indices = axes(reach)[0]
    v, w = np.meshgrid(indices[first], indices[second], indexing="ij")
    return np.stack([v, w, v * w]).reshape(3, -1).astype(np.float32)


@lru_cache(maxsize=64)
def quadratic_products(reach: Shape) -> Floats:
    """(6, HKL): hh, kk, ll, hk, hl, kl on the box."""
    h, k, n_l = (i.reshape(-1) for i in np.meshgrid(*axes(reach)[0], indexing="ij"))
    return np.stack([h * h, k * k, n_l * n_l, h * k, h * n_l, k * n_l]).astype(float)
