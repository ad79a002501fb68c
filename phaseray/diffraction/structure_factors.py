"""Structure factors of a crystal: for a list of reflections, and on the half grid of an FFT."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, Module, as_complex, namespace
from phaseray.crystal import Crystal, isotropic_u_aniso
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.scattering import Probe, form_factor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Rows U11 U22 U33 U12 U13 U23 of a symmetric tensor, and how often each occurs in hᵀUh.
_ROW, _COLUMN = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
_TWICE = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
_BLOCK = 2_000_000  # complex numbers held at once
_NEGLIGIBLE = 1e-6  # exponents that change no amplitude in single precision
_STEEP = 60.0  # exponents over which single precision might overflow


def structure_factors(crystal: Crystal, hkl: Array, *, probe: Probe = Probe.XRAY) -> Array:
    """F(hkl) of the whole cell by direct summation, in double precision.

    F(h) = Σ_j occ_j f_j(s) T_j(h) exp(+2πi h·x_j), so `density` needs exp(-2πi h·x).

    Parameters
    ----------
    hkl : (m, 3) integer array
        Miller indices; the result is computed by its array module.

    Returns
    -------
    (m,) complex128 array
        Electrons (X-rays), Å (electrons) or fm (neutrons).

    References
    ----------
    International Tables for Crystallography B (2010), 1.2.3; form factors IT C (2006), 6.1.1.4.
    """
    xp = namespace(hkl)
    if hkl.ndim != 2 or hkl.shape[1] != 3:
        raise ValueError(f"hkl must have shape (m, 3), not {tuple(hkl.shape)}")
    h = xp.astype(hkl, xp.float64)
    m = hkl.shape[0]
    products = h[:, 0:1] * h
    quadratic = xp.stack(
        [products[:, 0], h[:, 1] ** 2, h[:, 2] ** 2, products[:, 1], products[:, 2], h[:, 1] * h[:, 2]], axis=1
    )
    s2 = quadratic @ xp.asarray(crystal.reciprocal_metric[_ROW, _COLUMN] * _TWICE / 4)
    # h = 0 exactly, whatever the rounding of the metric
    s2 = xp.where(xp.all(hkl == 0, axis=1), xp.asarray(0.0, dtype=s2.dtype), s2)
    atoms = _Atoms.of(crystal)
    total = xp.zeros(m, dtype=xp.complex128)
    for number, isotope, start, stop in atoms.elements:
        positions = xp.asarray(atoms.positions[start:stop].T)
        exponents = xp.asarray(2 * np.pi**2 * _TWICE[:, None] * atoms.beta[start:stop].T)
        occupancy = xp.asarray(atoms.occupancy[start:stop])
        step = max(1, _BLOCK // (stop - start))
        sums = []
        for first in range(0, m, step):
            rows = slice(first, min(first + step, m))
            phase = 2 * np.pi * (h[rows, :] @ positions)
            weight = occupancy * xp.exp(-(quadratic[rows, :] @ exponents))
            real, imaginary = xp.sum(weight * xp.cos(phase), axis=1), xp.sum(weight * xp.sin(phase), axis=1)
            sums.append(as_complex(real, imaginary))
        if sums:
            total = total + form_factor(number, s2, xp=xp, isotope=isotope, probe=probe) * xp.concat(sums)
    return total


def structure_factor_grid(
    crystal: Crystal, shape: Shape, d_min: float, *, probe: Probe = Probe.XRAY, xp: Module = np
) -> Array:
    """F on the half grid with l ≥ 0, in single precision; zero outside the sphere 1/d ≤ 1/d_min.

    exp(2πi h·x) is a product of one factor an axis, so the sum over atoms is a matrix product of
    one axis with the plane of the other two. The displacement factor splits likewise where some
    axis is uncoupled from the other two, or all atoms move alike. Otherwise the sum climbs along
    l: the terms of a layer are those of the layer below times one factor.

    Parameters
    ----------
    shape : (nx, ny, nz)
        Of the density grid. Reflections with |h_i| ≥ n_i/2 do not fit and are left out
        (`grid.complete_d_min` says whether there are any).
    d_min : float
        Å.
    xp : array module
        Computes and holds the result.

    Returns
    -------
    (nx, ny, nz // 2 + 1) complex64 array, electrons
        In FFT order. `maps.density_from_half_grid` makes the density of it.
    """
    if not d_min > 0:
        raise ValueError(f"d_min must be over 0 Å, not {d_min}")
    atoms = _Atoms.of(crystal)
    reach = np.minimum((crystal.cell[:3] / d_min * (1 + 1e-9)).astype(int), (np.asarray(shape) - 1) // 2)
    common_u = 0.0
    if crystal.u_aniso is None and crystal.n_atoms:
        # what all atoms have in common is applied to the sum instead
        common_u = float(crystal.u_iso.min())
        atoms = atoms._replace(beta=atoms.beta - common_u * crystal.reciprocal_metric[_ROW, _COLUMN])
    box = _Box(reach, crystal.reciprocal_metric, d_min, common_u, probe, xp)
    hk, hl, kl = _coupling(atoms.beta, reach)
    coupling = np.array([hk + hl, hk + kl, hl + kl])
    axis = int(np.argmin(coupling))
    if coupling[axis] < _NEGLIGIBLE:
        return _on_half_grid(_by_products(atoms, box, axis), shape, xp)
    if hl + kl < _STEEP:
        return _by_recurrence(atoms, box, shape)
    return _by_direct_summation(crystal, box, shape)


class _Atoms(NamedTuple):
    """Atoms sorted by element."""

    positions: Floats  # (n, 3)
    occupancy: Floats  # (n,)
    beta: Floats  # (n, 6) dimensionless, U_ij a*_i a*_j: T = exp(-2π² Σ β_ij h_i h_j)
    elements: list[tuple[int, int, int, int]]  # atomic number, isotope, first atom, one past the last

    @classmethod
    def of(cls, crystal: Crystal) -> _Atoms:
        u = crystal.u_aniso if crystal.u_aniso is not None else isotropic_u_aniso(crystal.cell, crystal.u_iso)
        lengths = np.sqrt(np.diag(crystal.reciprocal_metric))
        beta = u * (lengths[_ROW] * lengths[_COLUMN])
        key = crystal.numbers * 1000 + crystal.isotopes
        order = np.argsort(key, kind="stable")
        key = key[order]
        edges = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)] if len(key) else []
        elements = [(*divmod(int(key[a]), 1000), a, b) for a, b in pairwise(edges)]
        return cls(crystal.positions[order], crystal.occupancy[order], beta[order], elements)

    def slice(self, start: int, stop: int) -> _Atoms:
        some = np.s_[start:stop]
        return _Atoms(self.positions[some], self.occupancy[some], self.beta[some], [])


class _Box:
    """Reflections |h_i| ≤ reach_i, l ≥ 0: those of the sphere and what a separable sum adds."""

    def __init__(self, reach: Ints, metric: Floats, d_min: float, common_u: float, probe: Probe, xp: Module) -> None:
        h, k, n_l = (int(r) for r in reach)
        # FFT order, so that whole blocks can be copied to the grid
        self.indices = [np.r_[0 : h + 1, -h:0], np.r_[0 : k + 1, -k:0], np.arange(n_l + 1)]
        self.d_min, self.common_u, self.probe, self.xp = d_min, common_u, probe, xp
        h_, k_, l_ = self.indices[0][:, None, None], self.indices[1][:, None], self.indices[2]
        g = metric / 4
        plane = g[0, 0] * h_ * h_ + g[1, 1] * k_ * k_ + 2 * g[0, 1] * h_ * k_
        self.s2 = plane + l_ * (2 * g[0, 2] * h_ + 2 * g[1, 2] * k_ + g[2, 2] * l_)
        self.inside = self.s2 <= 0.25 / d_min**2 * (1 + 1e-9)

    def axis_factor(self, atoms: _Atoms, axis: int, weight: Floats | None = None) -> Array:
        """(n, N) complex64: weight (n,) times exp(2πi h x) exp(-2π² β h²) along one axis."""
        xp, index = self.xp, self.indices[axis]
        # turns are reduced in double precision, so that single precision holds the angle
        turns = atoms.positions[:, axis, None] * index
        angle = xp.asarray((2 * np.pi * (turns - np.round(turns))).astype(np.float32))
        damping = np.exp(-2 * np.pi**2 * atoms.beta[:, axis, None] * (index * index))
        if weight is not None:
            damping *= weight[:, None]
        size = xp.asarray(damping.astype(np.float32))
        return as_complex(size * xp.cos(angle), size * xp.sin(angle))

    def weigh(self, sums: Sequence[Array], atoms: _Atoms, s2: Floats, inside: NDArray[np.bool_]) -> Array:
        """Σ over elements of form factor times sum over its atoms; 0 outside the sphere."""
        xp = self.xp
        s2_xp = xp.asarray(s2.astype(np.float32))
        total = None
        for (number, isotope, _, _), sum_ in zip(atoms.elements, sums, strict=True):
            term = form_factor(number, s2_xp, xp=xp, isotope=isotope, probe=self.probe) * sum_
            total = term if total is None else total + term
        if total is None:
            return xp.zeros(s2.shape, dtype=xp.complex64)
        cut = np.where(inside, np.exp(-8 * np.pi**2 * self.common_u * s2), 0.0) if self.common_u else inside
        return total * xp.asarray(cut.astype(np.float32))


def _coupling(beta: Floats, reach: Ints) -> Floats:
    """Largest exponents, over atoms, that tie h to k, h to l, k to l within the box."""
    if not len(beta):
        return np.zeros(3)
    largest: Floats = 4 * np.pi**2 * np.abs(beta[:, 3:]).max(0) * (reach[[0, 0, 1]] * reach[[1, 2, 2]])
    return largest


def _by_products(atoms: _Atoms, box: _Box, axis: int) -> Array:
    """F in the box, (H, K, L), where β ties `axis` to neither of the others."""
    xp = box.xp
    first, second = (i for i in range(3) if i != axis)
    v, w = box.indices[first], box.indices[second]
    tie = atoms.beta[:, 3 + first + second - 1]
    tied = np.abs(tie).max(initial=0) * v.max() * w.max() * 4 * np.pi**2 > _NEGLIGIBLE
    sums: list[Array] = [None] * len(atoms.elements)
    step = max(1, _BLOCK // (len(v) * len(w)))
    for begin in range(0, len(atoms.occupancy), step):
        some = atoms.slice(begin, begin + step)
        line = box.axis_factor(some, axis, some.occupancy)
        plane = box.axis_factor(some, first)[:, :, None] * box.axis_factor(some, second)[:, None, :]
        if tied:
            exponent = (-4 * np.pi**2 * tie[begin : begin + step, None, None]) * (v[:, None] * w)
            plane = plane * xp.exp(xp.asarray(exponent.astype(np.float32)))
        plane = xp.reshape(plane, (plane.shape[0], -1))
        for i, (_, _, start, stop) in enumerate(atoms.elements):
            own = slice(max(start - begin, 0), min(max(stop - begin, 0), len(some.occupancy)))
            if own.start < own.stop:
                part = xp.matrix_transpose(line[own, :]) @ plane[own, :]
                sums[i] = part if sums[i] is None else sums[i] + part
    sums = [xp.reshape(sum_, (-1, len(v), len(w))) for sum_ in sums]
    order = (axis, first, second)
    back = tuple(np.argsort(order).tolist())
    weighed = box.weigh(sums, atoms, np.transpose(box.s2, order), np.transpose(box.inside, order))
    return xp.permute_dims(weighed, back)


def _by_recurrence(atoms: _Atoms, box: _Box, shape: Shape) -> Array:
    """F on the half grid for any β, layer by layer in l."""
    xp = box.xp
    h, k = (a.ravel() for a in np.meshgrid(box.indices[0], box.indices[1], indexing="ij"))
    inside = box.inside.reshape(len(h), -1)
    # columns sorted by their last layer: each layer then needs only the first so many
    layers = np.where(inside.any(1), inside.shape[1] - inside[:, ::-1].argmax(1), 0)
    order = np.argsort(-layers, kind="stable")[: int((layers > 0).sum())]
    h, k, layers = h[order], k[order], layers[order]
    ih, ik = xp.asarray(h % len(box.indices[0])), xp.asarray(k % len(box.indices[1]))
    widths = [int((layers > level).sum()) for level in range(int(layers.max()))]
    sums: list[Array] = []
    step = max(1, _BLOCK // len(h))
    for begin in range(0, len(atoms.occupancy), step):
        some = atoms.slice(begin, begin + step)
        beta = -2 * np.pi**2 * some.beta
        share = np.zeros((len(atoms.elements), len(some.occupancy)), np.float32)
        for row, (_, _, start, stop) in enumerate(atoms.elements):
            share[row, max(start - begin, 0) : max(stop - begin, 0)] = 1
        share *= some.occupancy
        tie = xp.asarray(np.exp(2 * beta[:, 3, None] * (h * k)).astype(np.float32))
        term = xp.take(box.axis_factor(some, 0), ih, axis=1) * xp.take(box.axis_factor(some, 1), ik, axis=1) * tie
        turns = 2 * np.pi * some.positions[:, 2, None]
        climb = xp.asarray(np.exp(2 * (beta[:, 4, None] * h + beta[:, 5, None] * k)).astype(np.float32))
        factor = climb * xp.asarray(np.exp(1j * turns).astype(np.complex64))
        for level, width in enumerate(widths):
            if level:
                term = term[:, :width] * factor[:, :width]
            weight = xp.asarray((share * np.exp(beta[:, 2] * level**2)).astype(np.complex64))
            part = weight @ term
            if begin:
                sums[level] = sums[level] + part
            else:
                sums.append(part)
    every = xp.concat(sums, axis=1)
    column = np.concatenate([order[:width] for width in widths])
    layer = np.repeat(np.arange(len(widths)), widths)
    s2, keep = box.s2.reshape(inside.shape)[column, layer], inside[column, layer]
    weighed = box.weigh([every[row, :] for row in range(every.shape[0])], atoms, s2, keep)
    h, k = box.indices[0][column // len(box.indices[1])], box.indices[1][column % len(box.indices[1])]
    return _gathered(weighed, np.stack([h, k, layer], 1), shape, xp)


def _by_direct_summation(crystal: Crystal, box: _Box, shape: Shape) -> Array:
    """F on the half grid where displacements are so large that the recurrence might overflow."""
    where = np.argwhere(box.inside)
    hkl = np.stack([index[where[:, i]] for i, index in enumerate(box.indices)], 1)
    values = structure_factors(crystal, box.xp.asarray(hkl), probe=box.probe)
    return _gathered(box.xp.astype(values, box.xp.complex64), hkl, shape, box.xp)


def _on_half_grid(box: Array, shape: Shape, xp: Module) -> Array:
    """The box (FFT order) with zeros put between its positive and negative indices."""
    grid = xp.zeros(half_shape(shape), dtype=xp.complex64)
    h, k, n_l = (box.shape[0] + 1) // 2, (box.shape[1] + 1) // 2, box.shape[2]
    for to_h, from_h in ((slice(0, h), slice(0, h)), (slice(shape[0] - h + 1, shape[0]), slice(h, 2 * h - 1))):
        for to_k, from_k in ((slice(0, k), slice(0, k)), (slice(shape[1] - k + 1, shape[1]), slice(k, 2 * k - 1))):
            grid[to_h, to_k, :n_l] = box[from_h, from_k, :]
    return grid


def _gathered(values: Array, hkl: Ints, shape: Shape, xp: Module) -> Array:
    """Values (m,) at their places hkl (m, 3) of the half grid, 0 elsewhere."""
    half = half_shape(shape)
    source = np.full(half, len(hkl))
    source[hkl[:, 0], hkl[:, 1], hkl[:, 2]] = np.arange(len(hkl))
    padded = xp.concat([values, xp.zeros(1, dtype=values.dtype)])
    return xp.reshape(xp.take(padded, xp.asarray(source.ravel())), half)
