"""F and density of several crystals of one grid shape at once: few large operations, which a GPU wants.

The sum of `separable.py` over groups: the atoms of one element in one crystal, cut into groups of at
most GROUP atoms and padded with atoms of no weight, so that all groups are one array.

Letters: b crystals, g groups, n atoms of a group, r nodes, m reflections of the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, Module, as_complex
from phaseray.crystal import Crystal
from phaseray.diffraction.atoms import COLUMN, ROW, Atoms
from phaseray.diffraction.box import axes, plane_products, quadratic_products, reach_of, spread
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.maps import density_from_half_grid
from phaseray.diffraction.scattering import Probe, gaussian_coefficients
from phaseray.diffraction.separable import STEEP, chebyshev, count_nodes, couplings
from phaseray.diffraction.structure_factors import structure_factor_grid

Floats = NDArray[np.float64]

GROUP = 16  # atoms
BLOCK = 16_000_000  # numbers of the planes held at once
_TWICE = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])  # how often U11 U22 U33 U12 U13 U23 occur in hᵀUh
_MOST_NODES = 12  # of a batch; a crystal that needs more is done by itself


class _Member(NamedTuple):
    crystal: Crystal
    atoms: Atoms
    reach: Shape
    common: Floats  # (3,) β_12, β_13, β_23 left out of the sum
    slope: float  # the largest exponent that ties h to k and l, an index h


class Groups(NamedTuple):
    """Atoms of several crystals as padded groups."""

    positions: Floats  # (g, n, 3)
    weight: Floats  # (g, n), 0 where padded
    beta: Floats  # (g, n, 6), less the middle of the crystal's β_12, β_13, β_23
    owner: NDArray[np.int64]  # (g,) the crystal
    kinds: list[tuple[int, int]]  # (g,) atomic number and isotope


def structure_factors_and_densities(
    crystals: Sequence[Crystal], shape: Shape, d_min: float, *, probe: Probe = Probe.XRAY, xp: Module = np
) -> tuple[Array, Array]:
    """What `maps.structure_factors_and_density` gives, for all crystals of a sequence.

    Parameters
    ----------
    shape : (nx, ny, nz)
        Of every crystal's density grid.
    d_min : float
        Å.
    xp : array module
        Computes and holds the results.

    Returns
    -------
    (b, nx, ny, nz // 2 + 1) complex64 array, electrons; (b, nx, ny, nz) float32 array, e/Å³

    Raises
    ------
    Rejection
        (unknown_element) Of the first crystal with an element that the tables do not hold.
    """
    if not d_min > 0:
        raise ValueError(f"d_min must be over 0 Å, not {d_min}")
    f: list[Array | None] = [None] * len(crystals)
    waiting: dict[int, _Member] = {}
    for i, crystal in enumerate(crystals):
        if crystal.n_atoms:
            atoms, reach = Atoms.folded(crystal), reach_of(crystal.cell, shape, d_min)
            ties = couplings(atoms, reach)
            slope = (ties[0][0] + ties[0][1]) / max(reach[0], 1) if ties else 0.0
            if ties and 0 < count_nodes(slope * reach[0]) <= _MOST_NODES:
                waiting[i] = _Member(crystal, atoms, reach, ties[1], slope)
                continue
        f[i] = structure_factor_grid(crystal, shape, d_min, probe=probe, xp=xp)
    # alike in size, so that little is padded
    order = sorted(waiting, key=lambda i: waiting[i].reach)
    while order:
        taken, reach, nodes = _next_batch([waiting[i] for i in order])
        some, order = order[:taken], order[taken:]
        grids = spread(_boxes([waiting[i] for i in some], reach, nodes, d_min, probe, xp), shape, xp)
        for row, i in enumerate(some):
            f[i] = grids[row, ...]
    if not f:
        return xp.zeros((0, *half_shape(shape)), dtype=xp.complex64), xp.zeros((0, *shape), dtype=xp.float32)
    together = xp.stack(f)
    volumes = xp.asarray(np.array([c.volume for c in crystals], np.float32))[:, None, None, None]
    return together, density_from_half_grid(together, shape, volumes)


def _next_batch(members: Sequence[_Member]) -> tuple[int, Shape, int]:
    """How many from the front make a batch whose planes keep within BLOCK; its reach and nodes."""
    rows, slope, reach, nodes = 0, 0.0, (0, 0, 0), 1
    for taken, member in enumerate(members):
        rows += GROUP * sum(-(-(stop - start) // GROUP) for _, _, start, stop in member.atoms.elements)
        h, k, n_l = (max(a, b) for a, b in zip(reach, member.reach, strict=True))
        slope = max(slope, member.slope)
        more = count_nodes(slope * h)
        full = rows * more * 4 * (2 * k + 1) * (n_l + 1) > BLOCK
        if taken and (full or not 0 < more <= _MOST_NODES):
            return taken, reach, nodes
        reach, nodes = (h, k, n_l), more
    return len(members), reach, nodes


def _boxes(batch: Sequence[_Member], reach: Shape, nodes: int, d_min: float, probe: Probe, xp: Module) -> Array:
    """F (b, H, K, L) complex64 in the box that holds all spheres of the batch."""
    indices, _, _, _, (size_h, size_k, size_l) = axes(reach)
    groups = _grouped(batch)
    g, n = groups.weight.shape
    centric = np.array([member.atoms.centric for member in batch])[groups.owner]

    waves = [_waves(groups, axis, indices[axis], xp) for axis in range(3)]
    line = waves[0] * xp.asarray(groups.weight.astype(np.float32)[:, :, None, None])
    c, s = line[:, :, 0, :], line[:, :, 1, :]
    # the imaginary part of a centric crystal is nothing
    acentric = xp.asarray((~centric).astype(np.float32)[:, None, None])
    line = xp.stack([xp.concat([c, s * acentric], axis=2), xp.concat([-s, c * acentric], axis=2)], axis=2)
    products = waves[1][:, :, :, None, :, None] * waves[2][:, :, None, :, None, :]
    plane = xp.stack(
        [products[:, :, 0, 0, ...] - products[:, :, 1, 1, ...], products[:, :, 0, 1, ...] + products[:, :, 1, 0, ...]],
        axis=2,
    )
    plane = xp.reshape(plane, (g, n, 1, 2, -1))
    at, basis = chebyshev(-reach[0], reach[0], nodes)
    slopes = np.ones((nodes, 3))
    slopes[:, :2] = at[:, None] if nodes > 1 else 0.0
    slopes = slopes * (-4 * np.pi**2 * groups.beta[:, :, 3:])[:, :, None, :]
    exponent = xp.asarray(slopes.astype(np.float32)) @ xp.asarray(plane_products(reach, 1, 2))
    # far outside the sphere of a small cell they would overflow, and 0 times infinity is no number
    exponent = xp.clip(exponent, max=STEEP)
    plane = plane * xp.exp(exponent)[:, :, :, None, :]
    line = line[:, :, None, :, :] * xp.asarray(np.tile(basis, 2))[:, None, :]
    sums = xp.matrix_transpose(xp.reshape(line, (g, n * nodes * 2, -1))) @ xp.reshape(plane, (g, n * nodes * 2, -1))

    metric = np.array([member.crystal.reciprocal_metric[ROW, COLUMN] for member in batch])
    products = xp.asarray(quadratic_products(reach))
    s2 = xp.asarray(metric * _TWICE / 4) @ products
    inside = s2 <= 0.25 / d_min**2 * (1 + 1e-9)
    ties = xp.asarray(-4 * np.pi**2 * np.array([member.common for member in batch])) @ products[3:, :]
    ties = xp.exp(xp.astype(xp.where(inside, ties, xp.zeros_like(ties)), xp.float32))
    f = _form_factors(groups.kinds, xp.take(xp.astype(s2, xp.float32), xp.asarray(groups.owner), axis=0), probe, xp)
    sums = xp.reshape(sums, (g, 2, -1)) * f[:, None, :]
    # (b, g) of 0 and 1: which groups make which crystal
    share = xp.asarray((groups.owner == np.arange(len(batch))[:, None]).astype(np.float32))
    total = xp.reshape(share @ xp.reshape(sums, (g, -1)), (len(batch), 2, -1))
    total = total * (xp.astype(inside, xp.float32) * ties)[:, None, :]
    return xp.reshape(as_complex(total[:, 0, :], total[:, 1, :]), (len(batch), size_h, size_k, size_l))


def _form_factors(kinds: Sequence[tuple[int, int]], s2: Array, probe: Probe, xp: Module) -> Array:
    """f(s²) (g, m) float32 of the element of each group at the s² (g, m) of its crystal."""
    tables = [gaussian_coefficients(number, isotope, probe) for number, isotope in kinds]
    a, b, c = (xp.asarray(np.array(column, np.float32)) for column in zip(*tables, strict=True))
    f = xp.zeros_like(s2) + c[:, None]
    for i in range(a.shape[1]):
        f = f + a[:, i, None] * xp.exp(-b[:, i, None] * s2)
    if probe is Probe.XRAY:
        # 000 is the first; the tables' fit misses it
        f[:, 0] = xp.asarray(np.array([number for number, _ in kinds], np.float32))
    return f


def _grouped(batch: Sequence[_Member]) -> Groups:
    kinds: list[tuple[int, int]] = []
    owner: list[int] = []
    taken: list[slice] = []
    for i, member in enumerate(batch):
        for number, isotope, start, stop in member.atoms.elements:
            for begin in range(start, stop, GROUP):
                kinds.append((number, isotope))
                owner.append(i)
                taken.append(slice(begin, min(begin + GROUP, stop)))
    n = max(t.stop - t.start for t in taken)
    positions, weight = np.zeros((len(taken), n, 3)), np.zeros((len(taken), n))
    beta = np.zeros((len(taken), n, 6))
    for row, (i, own) in enumerate(zip(owner, taken, strict=True)):
        size, atoms = own.stop - own.start, batch[i].atoms
        positions[row, :size], weight[row, :size], beta[row, :size] = (
            atoms.positions[own], atoms.weight[own], atoms.beta[own]
        )  # fmt: skip
        beta[row, :size, 3:] -= batch[i].common
    return Groups(positions, weight, beta, np.array(owner), kinds)


def _waves(groups: Groups, axis: int, index: NDArray[np.int64], xp: Module) -> Array:
    """(g, n, 2, N) float32: cosine and sine of 2π h x, times exp(-2π² β h²)."""
    turns = groups.positions[:, :, axis, None] * index
    turns = 2 * np.pi * (turns - np.rint(turns))
    damping = -2 * np.pi**2 * groups.beta[:, :, axis, None] * (index * index)
    angle = xp.asarray(turns.astype(np.float32))
    return (
        xp.stack([xp.cos(angle), xp.sin(angle)], axis=2) * xp.exp(xp.asarray(damping.astype(np.float32)))[:, :, None, :]
    )
