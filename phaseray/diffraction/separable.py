"""Structure factors inside a box of reflections, by the separability of exp(2πi h·x): the fast way.

Letters: n atoms, t elements; u the axis that is split off, v and w the other two; r nodes.

exp(2πi h·x) is a product of one factor an axis, so the sum over atoms is a matrix product of one
axis with the plane of the other two. The displacement factor splits likewise but for

    exp(-4π² u (β_uv v + β_uw w)),

which is interpolated along u between a few Chebyshev nodes: a sum of as many separable terms. What
the β of all atoms have in common (the middle of their range) is left out of the sum and multiplies
it afterwards, so that few nodes do; none are needed where all atoms move alike.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, factorial, pi
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, Module
from phaseray.diffraction.atoms import Atoms
from phaseray.diffraction.box import Box, plane_products
from phaseray.diffraction.grid import Shape
from phaseray.diffraction.scattering import Probe

Floats = NDArray[np.float64]

BLOCK = 200_000  # numbers of a plane held at once: they should stay in the cache
NEGLIGIBLE = 1e-6  # exponents that change no amplitude in single precision
_ACCURACY = 3e-6  # of the interpolation at the corners of the box; inside the sphere it is far better
_MOST_NODES = 24
_NOTHING = np.zeros(3)
STEEP = 60.0  # exponents over which single precision might overflow

# β_uv, β_uw, β_vw among β_12, β_13, β_23, for u = h, k, l
_REST = ((1, 2), (0, 2), (0, 1))
_BACK = ((0, 1, 2), (1, 0, 2), (1, 2, 0))  # (u, v, w) to (h, k, l)
_TIES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))


class Split(NamedTuple):
    """How a sum is split: which axis, and by how many nodes."""

    axis: int
    nodes: int
    tied: bool  # v and w are coupled
    common: Floats  # (3,) β_12, β_13, β_23 left out of the sum


def split(atoms: Atoms, box: Box) -> Split | None:
    """The cheapest split; None where displacements differ so much that there is none."""
    ties = couplings(atoms, box.reach)
    if ties is None:
        return None
    exponents, common = ties
    h_size, k_size, l_size = box.shape
    sizes = (k_size * l_size, h_size * l_size, h_size * k_size)
    if not any(exponents):
        return Split(sizes.index(min(sizes)), 1, False, common)
    best = None
    for axis, size in enumerate(sizes):
        uv, uw, vw = (exponents[i] for i in _TIES[axis])
        # l runs from 0 only: half the length to interpolate over
        nodes = count_nodes((uv + uw) / (2 if axis == 2 else 1))
        if nodes and (best is None or nodes * size < best[0]):
            best = (nodes * size, Split(axis, nodes, vw > NEGLIGIBLE, common))
    return best[1] if best else None


def couplings(atoms: Atoms, reach: Shape) -> tuple[tuple[float, float, float], Floats] | None:
    """Largest exponents that tie h to k, h to l and k to l, and the (3,) β_12, β_13, β_23 common to all atoms.

    The exponents are those left when the common ones are taken off. None where they are too large.
    """
    off = atoms.beta[:, 3:]
    if atoms.still or not off.any():
        return (0.0, 0.0, 0.0), _NOTHING
    low, high = off.min(0), off.max(0)
    common = (low + high) / 2
    h, k, n_l = reach
    area = (h * k, h * n_l, k * n_l)
    hk, hl, kl = (2 * pi**2 * s * r for s, r in zip((high - low).tolist(), area, strict=True))
    middle = sum(4 * pi**2 * abs(c) * r for c, r in zip(common.tolist(), area, strict=True))
    return ((hk, hl, kl), common) if hk + hl + kl + middle < STEEP else None


def count_nodes(exponent: float) -> int:
    """Chebyshev nodes that interpolate exp(t y) for |t| ≤ 1, |y| ≤ exponent; 0 if more than are worth it.

    The error is about 2 I_r(y), I_r the modified Bessel function.
    """
    if exponent < NEGLIGIBLE:
        return 1
    for r in range(2, _MOST_NODES + 1):
        if 2 * (exponent / 2) ** r / factorial(r) * exp(exponent**2 / (4 * r + 4)) < _ACCURACY:
            return r
    return 0


@lru_cache(maxsize=1024)
def chebyshev(low: int, high: int, nodes: int) -> tuple[Floats, NDArray[np.float32]]:
    """Nodes (r,) on [low, high], and the Lagrange polynomials (r, N) at the indices in FFT order."""
    at = (low + high) / 2 + (high - low) / 2 * np.cos(pi * (np.arange(nodes) + 0.5) / nodes)
    index = np.concatenate([np.arange(high + 1), np.arange(low, 0)])
    basis = np.ones((nodes, len(index)))
    for r in range(nodes):
        for s in range(nodes):
            if s != r:
                basis[r] *= (index - at[s]) / (at[r] - at[s])
    return at, basis.astype(np.float32)


def summed(atoms: Atoms, box: Box, how: Split, probe: Probe, xp: Module, common_u: float) -> Array:
    """F inside the box, complex64 in FFT order; 0 outside the sphere.

    `common_u` (Å²) is a displacement left out of the atoms' β and applied to the sum instead.
    """
    axis = how.axis
    first, second = _REST[axis]
    u, v, w = box.shape[axis], box.shape[first], box.shape[second]
    kinds = [element[:2] for element in atoms.elements]
    number_of = {kind: i for i, kind in enumerate(kinds)}
    sums: list[Array | None] = [None] * len(kinds)
    step = max(1, BLOCK // (2 * how.nodes * v * w))
    n = len(atoms.weight)
    for begin in range(0, n, step):
        some = atoms if step >= n else atoms.slice(begin, begin + step)
        line, plane = _factors(some, box, how, xp)
        for number, isotope, start, stop in some.elements:
            row = number_of[number, isotope]
            own = slice(start * how.nodes, stop * how.nodes)
            part = line[own, :].mT @ plane[own, :]
            if atoms.centric:
                part = xp.real(part)
            before = sums[row]
            sums[row] = part if before is None else before + part
    f = xp.reshape(box.form_factors(kinds, probe, common_u, (axis, first, second), xp), (len(kinds), u, v * w))
    total = None
    for i, part in enumerate(sums):
        scattered = part * f[i, ...]
        total = scattered if total is None else total + scattered
    total = xp.permute_dims(xp.reshape(total, (u, v, w)), _BACK[axis])
    if not atoms.still and np.abs(how.common).max() * 4 * pi**2 * max(box.reach) ** 2 > NEGLIGIBLE:
        total = total * box.off_diagonal(how.common, xp)
    return xp.astype(total, xp.complex64, copy=False)


def _factors(atoms: Atoms, box: Box, how: Split, xp: Module) -> tuple[Array, Array]:
    """Complex matrices (n·r, U) and (n·r, VW) of which the sum over atoms and nodes is F."""
    axis, nodes, n = how.axis, how.nodes, len(atoms.weight)
    first, second = _REST[axis]
    waves = box.waves(atoms, xp)
    at = [slice(a, b) for a, b in box.ranges]
    line = waves[:, at[axis]] * xp.asarray(atoms.weight.astype(np.float32)[:, None])
    plane = xp.reshape(waves[:, at[first], None] * waves[:, None, at[second]], (n, -1))
    if nodes == 1 and not how.tied:
        return line, plane
    beta = (-4 * pi**2) * (atoms.beta[:, 3:] - how.common)[:, _TIES[axis]]
    low = 0 if axis == 2 else -box.reach[axis]
    at_u, basis = chebyshev(low, box.reach[axis], nodes)
    # (n, r, 3) by (3, VW): u β_uv v + u β_uw w + β_vw v w
    slopes = np.ones((nodes, 3))
    slopes[:, :2] = at_u[:, None] if nodes > 1 else 0.0
    slopes_xp = xp.asarray((slopes * beta[:, None]).astype(np.float32).reshape(-1, 3))
    exponent = xp.exp(slopes_xp @ xp.asarray(plane_products(box.reach, first, second)))
    plane = plane[:, None, :] * xp.reshape(exponent, (n, nodes, -1))
    if nodes > 1:
        line = xp.reshape(line[:, None, :] * xp.asarray(basis), (nodes * n, -1))
    return line, xp.reshape(plane, (nodes * n, -1))
