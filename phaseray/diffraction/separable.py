"""Structure factors on a half grid, by the separability of exp(2πi h·x): the fast way.

Letters: n atoms, t elements; H, K, L indices along h, k, l inside the box that holds the sphere.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, Module, as_complex
from phaseray.crystal import Crystal
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.scattering import Probe, form_factors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Rows U11 U22 U33 U12 U13 U23 of a symmetric tensor.
ROW, COLUMN = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
BLOCK = 2_000_000  # complex numbers held at once
NEGLIGIBLE = 1e-6  # exponents that change no amplitude in single precision


class Atoms(NamedTuple):
    """Atoms sorted by element."""

    positions: Floats  # (n, 3)
    occupancy: Floats  # (n,)
    beta: Floats  # (n, 6) dimensionless, U_ij a*_i a*_j: T = exp(-2π² Σ β_ij h_i h_j)
    elements: list[tuple[int, int, int, int]]  # atomic number, isotope, first atom, one past the last

    @classmethod
    def of(cls, crystal: Crystal) -> Atoms:
        metric = crystal.reciprocal_metric
        if crystal.u_aniso is None:
            beta = crystal.u_iso[:, None] * metric[ROW, COLUMN]
        else:
            lengths = np.sqrt(np.diag(metric))
            beta = crystal.u_aniso * (lengths[ROW] * lengths[COLUMN])
        key = crystal.numbers * 1000 + crystal.isotopes
        order = np.argsort(key, kind="stable")
        key = key[order]
        edges = [0, *((key[1:] != key[:-1]).nonzero()[0] + 1).tolist(), len(key)] if len(key) else []
        elements = [(*divmod(int(key[a]), 1000), a, b) for a, b in pairwise(edges)]
        return cls(crystal.positions[order], crystal.occupancy[order], beta[order], elements)

    def slice(self, start: int, stop: int) -> Atoms:
        """Some of the atoms; `elements` keeps counting from the first of all."""
        return Atoms(self.positions[start:stop], self.occupancy[start:stop], self.beta[start:stop], self.elements)

    def coupling(self, reach: Ints) -> Floats:
        """Largest exponents, over atoms, that tie h to k, h to l, k to l as far as the indices reach."""
        largest: Floats = 4 * np.pi**2 * np.abs(self.beta[:, 3:]).max(0) * (reach[[0, 0, 1]] * reach[[1, 2, 2]])
        return largest


class Box:
    """Reflections |h_i| ≤ reach_i, l ≥ 0: those of the sphere and what a separable sum adds.

    `common_u` (Å²) is a displacement left out of the atoms' β and applied to the sum instead.
    """

    def __init__(self, reach: Ints, metric: Floats, d_min: float, common_u: float, probe: Probe, xp: Module) -> None:
        h, k, n_l = (int(r) for r in reach)
        # FFT order, so that whole blocks can be copied to the grid
        self.indices = [_fft_order(h), _fft_order(k), np.arange(n_l + 1)]
        self.common_u, self.probe, self.xp = common_u, probe, xp
        h_, k_, l_ = self.indices[0][:, None], self.indices[1], self.indices[2]
        g = metric / 4
        plane = g[0, 0] * h_ * h_ + g[1, 1] * k_ * k_ + 2 * g[0, 1] * h_ * k_
        slope = 2 * g[0, 2] * h_ + 2 * g[1, 2] * k_
        self.s2 = slope[:, :, None] * l_
        self.s2 += plane[:, :, None]
        self.s2 += g[2, 2] * l_ * l_
        self.inside = self.s2 <= 0.25 / d_min**2 * (1 + 1e-9)

    def axis_factors(self, atoms: Atoms) -> list[Array]:
        """For each axis (n, N) complex64: exp(2πi h x) exp(-2π² β h²), with β_11, β_22, β_33."""
        xp = self.xp
        counts = [len(index) for index in self.indices]
        index = np.concatenate(self.indices)
        # turns are reduced in double precision, so that single precision holds the angle
        turns = atoms.positions.repeat(counts, axis=1) * index
        turns -= np.round(turns)
        angle = xp.asarray((2 * np.pi * turns).astype(np.float32))
        cosine, sine = xp.cos(angle), xp.sin(angle)
        diagonal = atoms.beta[:, :3]
        if diagonal.any():
            exponent = diagonal.repeat(counts, axis=1) * (-2 * np.pi**2 * index * index)
            damping = xp.exp(xp.asarray(exponent.astype(np.float32)))
            cosine, sine = damping * cosine, damping * sine
        factor = as_complex(cosine, sine)
        ends = np.cumsum([0, *counts]).tolist()
        return [factor[:, a:b] for a, b in pairwise(ends)]

    def form_factors(self, atoms: Atoms, s2: Floats) -> Array:
        """(t, m) float32 at `s2` (m,), the common displacement included."""
        elements = [(number, isotope) for number, isotope, _, _ in atoms.elements]
        return form_factors(elements, s2, xp=self.xp, dtype=self.xp.float32, probe=self.probe, u_iso=self.common_u)


@lru_cache(maxsize=1024)
def _fft_order(reach: int) -> Ints:
    return np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])


def by_products(atoms: Atoms, box: Box, axis: int, shape: Shape) -> Array:
    """F on the half grid where β ties `axis` to neither of the others: one axis times a plane.

    F(u, vw) = Σ_n A_n(u) B_n(vw): a matrix product an element.
    """
    xp = box.xp
    first, second = (i for i in range(3) if i != axis)
    v, w = box.indices[first], box.indices[second]
    tie = -4 * np.pi**2 * atoms.beta[:, 3 + first + second - 1]
    tied = np.abs(tie).max() * v.max() * w.max() > NEGLIGIBLE
    order = (axis, first, second)
    f = box.form_factors(atoms, box.s2.transpose(order).reshape(-1))
    total = None
    step = max(1, BLOCK // (len(v) * len(w)))
    for begin in range(0, len(atoms.occupancy), step):
        some = atoms.slice(begin, begin + step)
        factors = box.axis_factors(some)
        line = factors[axis] * xp.asarray(some.occupancy.astype(np.float32))[:, None]
        plane = factors[first][:, :, None] * factors[second][:, None, :]
        if tied:
            exponent = tie[begin : begin + step, None, None] * (v[:, None] * w)
            plane = plane * xp.exp(xp.asarray(exponent.astype(np.float32)))
        plane = xp.reshape(plane, (plane.shape[0], -1))
        for i, (_, _, start, stop) in enumerate(atoms.elements):
            own = slice(max(start - begin, 0), min(max(stop - begin, 0), len(some.occupancy)))
            if own.start < own.stop:
                part = xp.reshape(xp.matrix_transpose(line[own, :]) @ plane[own, :], (-1,)) * f[i, :]
                total = part if total is None else total + part
    in_box = xp.reshape(total, tuple(len(box.indices[i]) for i in order))
    in_box = xp.permute_dims(in_box, tuple(np.argsort(order).tolist())) * xp.asarray(box.inside.astype(np.float32))
    return _spread(in_box, shape, xp)


def by_recurrence(atoms: Atoms, box: Box, shape: Shape) -> Array:
    """F on the half grid for any β, layer by layer in l.

    The term of an atom at (h, k, l + 1) is that at (h, k, l) times exp(2πi z) exp(-4π²(β_13 h + β_23 k)),
    but for the factor exp(-2π² β_33 l²), which depends on l alone.
    """
    xp = box.xp
    h, k = (index.reshape(-1) for index in np.meshgrid(box.indices[0], box.indices[1], indexing="ij"))
    inside = box.inside.reshape(len(h), -1)
    # columns (h, k) sorted by their last layer: each layer then needs only the first so many
    layers = np.where(inside.any(1), inside.shape[1] - inside[:, ::-1].argmax(1), 0)
    order = np.argsort(-layers, kind="stable")[: int((layers > 0).sum())]
    h, k, layers = h[order], k[order], layers[order]
    hk = np.stack([h, k]).astype(np.float32)
    ih, ik = xp.asarray(h % len(box.indices[0])), xp.asarray(k % len(box.indices[1]))
    # how many columns reach above each layer
    widths = np.bincount(layers)[::-1].cumsum()[::-1][1:].tolist()
    levels = np.arange(len(widths))
    sums: list[Array] = []
    step = max(1, BLOCK // len(h))
    for begin in range(0, len(atoms.occupancy), step):
        some = atoms.slice(begin, begin + step)
        beta = (-2 * np.pi**2 * some.beta).astype(np.float32)
        share = np.zeros((len(atoms.elements), len(some.occupancy)), np.float32)
        for row, (_, _, start, stop) in enumerate(atoms.elements):
            share[row, max(start - begin, 0) : max(stop - begin, 0)] = 1
        share *= some.occupancy
        along_h, along_k, _ = box.axis_factors(some)
        tie = xp.exp(xp.asarray((2 * beta[:, 3, None]) * (hk[0] * hk[1])))
        term = xp.take(along_h, ih, axis=1) * xp.take(along_k, ik, axis=1) * tie
        climb = xp.exp(xp.asarray((2 * beta[:, 4:]) @ hk))
        turn = xp.asarray(np.exp(2j * np.pi * some.positions[:, 2, None]).astype(np.complex64))
        factor = climb * turn
        weights = share * np.exp(beta[:, 2] * (levels * levels)[:, None, None])  # levels, t, n
        weights_xp = xp.asarray(weights.astype(np.complex64))
        for level, width in enumerate(widths):
            if level:
                term = term[:, :width] * factor[:, :width]
            part = weights_xp[level, ...] @ term
            if begin:
                sums[level] = sums[level] + part
            else:
                sums.append(part)
    column = np.concatenate([order[:width] for width in widths])
    layer = levels.repeat(widths)
    f = box.form_factors(atoms, box.s2.reshape(inside.shape)[column, layer])
    values = xp.sum(xp.concat(sums, axis=1) * f, axis=0)
    values = values * xp.asarray(inside[column, layer].astype(np.float32))
    n_k = len(box.indices[1])
    hkl = np.stack([box.indices[0][column // n_k], box.indices[1][column % n_k], layer], 1)
    return gathered(values, hkl, shape, xp)


def gathered(values: Array, hkl: Ints, shape: Shape, xp: Module) -> Array:
    """Values (m,) at their places hkl (m, 3) of the half grid, 0 elsewhere."""
    half = half_shape(shape)
    source = np.full(half, len(hkl))
    source[hkl[:, 0], hkl[:, 1], hkl[:, 2]] = np.arange(len(hkl))
    padded = xp.concat([values, xp.zeros(1, dtype=values.dtype)])
    return xp.reshape(xp.take(padded, xp.asarray(source.reshape(-1))), half)


def _spread(box: Array, shape: Shape, xp: Module) -> Array:
    """The box (FFT order) with zeros put between its positive and negative indices."""
    grid = xp.zeros(half_shape(shape), dtype=xp.complex64)
    h, k, n_l = (box.shape[0] + 1) // 2, (box.shape[1] + 1) // 2, box.shape[2]
    for to_h, from_h in ((slice(0, h), slice(0, h)), (slice(shape[0] - h + 1, shape[0]), slice(h, 2 * h - 1))):
        for to_k, from_k in ((slice(0, k), slice(0, k)), (slice(shape[1] - k + 1, shape[1]), slice(k, 2 * k - 1))):
            grid[to_h, to_k, :n_l] = box[from_h, from_k, :]
    return grid
