"""Artificial crystals: random atoms of random elements in random cells, each one from its own seed."""

from __future__ import annotations

from functools import lru_cache
from math import floor, sqrt

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.config import SyntheticSource
from phaseray.crystal import Crystal
from phaseray.sources.periodic import lattice_vectors, orthogonalization_of, shortest_translation, too_near

Floats = NDArray[np.float64]

# Random packing of spheres jams (Rényi), so the number of attempts is bounded, by atoms asked for.
_ATTEMPTS_PER_ATOM = 40
_LARGEST_ROUND = 512
# cos-determinant under which three angles are no cell, or a needlessly flat one
_FLATTEST = 1e-3


def synthetic_crystal(config: SyntheticSource, seed: int, index: int) -> Crystal:
    """Crystal `index` of the stream `seed`; the same bytes whoever makes it, and in whatever order.

    Atoms keep the crystal's least distance from one another and from all their images. Where
    the cell cannot hold the atoms that `volume_per_atom` asks for, there are fewer, at least one.
    A least distance over the shortest lattice vector is lowered to that. Centrosymmetric crystals
    have their inversion centre at the origin: atoms come in pairs x, -x. In half of them an atom
    that would lie too near to its own inverse is put on a centre, in the other half it is dropped,
    so that both kinds are common (an atom on a centre makes the phases easy when it is heavy).
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    min_distance = rng.uniform(*config.min_distance)
    cell, orthogonalization, min_distance = _cell(config, rng, min_distance)
    volume = float(orthogonalization[0, 0] * orthogonalization[1, 1] * orthogonalization[2, 2])
    wanted = min(max(round(volume / rng.uniform(*config.volume_per_atom)), 1), config.max_atoms)
    centrosymmetric = bool(rng.random() < config.centrosymmetric_fraction)

    positions, site = _positions(rng, orthogonalization, wanted, min_distance, centrosymmetric)

    n_sites = site[-1] + 1
    pool = _atomic_numbers(config.elements)
    low, high = (min(n, len(pool)) for n in config.elements_per_crystal)
    elements = rng.choice(pool, size=rng.integers(low, high + 1), replace=False)
    # the first sites take one of each element, so that none is left out while there are sites
    element = rng.integers(0, len(elements), n_sites)
    element[: len(elements)] = np.arange(min(len(elements), n_sites))
    return Crystal(
        cell=cell,
        numbers=elements[element][site],
        positions=positions,
        u_iso=rng.uniform(*config.u_iso, n_sites)[site],
        space_group="P -1" if centrosymmetric else "P 1",
        space_group_number=2 if centrosymmetric else 1,
        id=f"synthetic/{seed}/{index}",
        source="synthetic",
    )


def _cell(config: SyntheticSource, rng: np.random.Generator, min_distance: float) -> tuple[Floats, Floats, float]:
    """Cell, orthogonalization matrix, and the least distance that the cell's own translations allow."""
    shortest = 0.0
    for _ in range(8):
        edges = rng.uniform(*config.edge, 3)
        if rng.random() < config.orthogonal_fraction:
            angles = np.full(3, 90.0)
        else:
            angles = _angles(config, rng)
        m = orthogonalization_of(edges, angles)
        shortest = shortest_translation(m)
        if shortest >= min_distance:
            break
    return np.concatenate([edges, angles]), m, min(min_distance, shortest)


def _angles(config: SyntheticSource, rng: np.random.Generator) -> Floats:
    draws = rng.uniform(*config.angle, (64, 3))
    cosines = np.cos(np.radians(draws))
    possible = 1 - (cosines**2).sum(1) + 2 * cosines.prod(1) > _FLATTEST
    # three equal angles of the low end always make a cell (config.py sees to it)
    return draws[possible.argmax()] if possible.any() else np.full(3, config.angle[0])


def _positions(
    rng: np.random.Generator, orthogonalization: Floats, wanted: int, min_distance: float, centrosymmetric: bool
) -> tuple[Floats, NDArray[np.int64]]:
    """(n, 3) fractions, and (n,) the independent site that each belongs to. Random sequential addition."""
    m, squared = orthogonalization, min_distance**2
    images = lattice_vectors(m, min_distance)
    placed = np.empty((wanted, 3))
    site = np.empty(wanted, np.int64)
    n = n_sites = 0
    on_centres = bool(rng.random() < 0.5)
    densest = sqrt(2) * np.linalg.det(m)  # close packing: one sphere in d³/√2
    if wanted * min_distance**3 > densest:
        wanted = max(1, floor(densest / min_distance**3))
    attempts = _ATTEMPTS_PER_ATOM * wanted
    # an odd atom is left out rather than hunted for a centre
    while wanted - n > centrosymmetric and attempts > 0:
        size = min(_LARGEST_ROUND, 16 + 3 * (wanted - n))
        attempts -= size
        x = rng.random((size, 3))
        paired = np.zeros(size, bool)
        if centrosymmetric:
            paired = ~too_near(2 * x, m, images, squared)
            if on_centres:
                x[~paired] = np.rint(2 * x[~paired]) / 2 % 1.0
            else:
                x, paired = x[paired], paired[paired]
        if n:
            free = ~too_near(x[:, None] - placed[None, :n], m, images, squared).any(1)
            x, paired = x[free], paired[free]
        clash = too_near(x[:, None] - x[None], m, images, squared)
        if centrosymmetric:
            clash |= too_near(x[:, None] + x[None], m, images, squared)
        blocked = np.zeros(len(x), bool)
        for i in range(len(x)):
            size_i = 2 if paired[i] else 1
            if blocked[i] or n + size_i > wanted:
                continue
            placed[n] = x[i]
            if size_i == 2:
                placed[n + 1] = -x[i] % 1.0
            site[n : n + size_i] = n_sites
            n += size_i
            n_sites += 1
            if n == wanted:
                break
            blocked |= clash[i]
    if n == 0:
        placed[0], site[0], n = rng.integers(0, 2, 3) / 2, 0, 1
    return placed[:n], site[:n]


@lru_cache(maxsize=64)
def _atomic_numbers(elements: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([gemmi.Element(symbol).atomic_number for symbol in elements])
