"""Artificial crystals with the symmetry of any space group, in general and special positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.config import SymmetricSource
from phaseray.crystal import Crystal
from phaseray.sources.chemistry import Composition, draw_composition
from phaseray.sources.periodic import lattice_vectors, nearest_images, orthogonalization_of
from phaseray.sources.space_groups import SpaceGroup, inorganic_frequencies, shape, space_group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUND = 16  # places tried at once
_MOST_ROUNDS = 60
_SOFT = 0.72  # of the contact distances: how near atoms may be put; then they push one another away
_PRESSING = ((5, 0.75), (7, 0.83), (7, 0.9))  # steps, and the closest contact to which the cell is made then
_LONGEST_STEP = 0.25  # Å
_LOOSEST = 2.0  # times the volume an atom that is usual
_FAILURES = 6  # rounds in a row without a place for a further atom: it is full
_SAME = 1e-4  # Å: an atom and its image are one
_SNAPS = 6


def symmetric_crystal(config: SymmetricSource, seed: int, index: int) -> Crystal:
    """Crystal `index` of the stream `seed`; the same bytes whoever makes it, and in whatever order.

    The operators of the space group drawn hold exactly. Where all atoms are in special positions the
    crystal may have more symmetry than that. Atoms keep the contact distances of their elements from
    one another and from all their images; where they do not all fit there are fewer, at least one site.
    `space_group` is None for cells on primitive axes of a centred lattice.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=(1,)))
    for _ in range(_MOST_ROUNDS):
        composition = draw_composition(rng, _pool(config.elements), config.elements_per_crystal, config.ionic_fraction)
        group = _space_group(config, rng)
        cell, m = _cell(config, rng, group)
        sites = _sites(config, rng, group, m, composition)
        if not config.min_atoms <= len(sites.site) <= config.max_atoms:
            continue
        positions, growth = _packed(rng, group, m, composition, sites)
        edges, volume = growth * cell[:3], growth**3 * np.linalg.det(m)
        loose = volume / len(sites.site) / composition.volume
        if not config.volume[0] <= volume <= config.volume[1] or loose > _LOOSEST:
            continue
        if config.edge[0] <= edges.min() and edges.max() <= config.edge[1]:
            cell[:3] = edges
            break
    else:
        raise ValueError(
            f"no artificial crystal of {config.min_atoms} to {config.max_atoms} atoms came about: widen volume or atoms"
        )
    numbers, site = composition.numbers[sites.element], sites.site
    return Crystal(
        cell=cell,
        numbers=numbers[site],
        positions=positions,
        u_iso=_displacements(config, rng, numbers)[site],
        space_group=group.symbol,
        space_group_number=group.number,
        id=f"symmetric/{seed}/{index}",
        source="symmetric",
    )


def _space_group(config: SymmetricSource, rng: np.random.Generator) -> SpaceGroup:
    numbers = config.space_groups or tuple(range(1, 231))
    weights = None if rng.random() < config.uniform_fraction else inorganic_frequencies(numbers)
    number = int(rng.choice(numbers, p=weights))
    return space_group(number, bool(rng.random() < config.primitive_fraction))


def _cell(config: SymmetricSource, rng: np.random.Generator, group: SpaceGroup) -> tuple[Floats, Floats]:
    """Cell and orthogonalization matrix; of sixteen tries the first, else the best, as to the range of edges."""
    low, high = config.edge
    best, least = None, np.inf
    for attempt in range(16):
        volume = np.exp(rng.uniform(*np.log(config.volume)))
        edges, angles = shape(group.number, rng, config.edge_spread * (1 - attempt / 16))
        m = orthogonalization_of(edges, angles) @ group.axes
        m = m * (volume / np.linalg.det(m)) ** (1 / 3)
        lengths = np.linalg.norm(m, axis=0)
        outside = max(low / lengths.min(), lengths.max() / high)
        if outside < least:
            best, least = m, outside
        if outside <= 1:
            break
    assert best is not None
    a, b, c = best.T
    lengths = np.linalg.norm(best, axis=0)
    cosines = np.array([b @ c, c @ a, a @ b]) * lengths / lengths.prod()
    angles = np.degrees(np.arccos(cosines))
    # right angles to the last digit
    angles = np.where(np.abs(angles - np.rint(angles)) < 1e-9, np.rint(angles), angles)
    return np.concatenate([lengths, angles]), orthogonalization_of(lengths, angles)


@dataclass(frozen=True, eq=False)
class _Sites:
    """`x` (s, 3) independent places, `element` (s,) of the composition; `site`, `operator` (n,) of every atom."""

    x: Floats
    element: Ints
    site: Ints
    operator: Ints

    def positions(self, group: SpaceGroup, x: Floats) -> Floats:
        """(n, 3) atoms when the independent ones are at `x`."""
        r, t = group.rotations[self.operator], group.translations[self.operator]
        atoms: Floats = np.einsum("nij,nj->ni", r, x[self.site]) + t
        return atoms


def _sites(
    config: SymmetricSource, rng: np.random.Generator, group: SpaceGroup, m: Floats, composition: Composition
) -> _Sites:
    """Places at least _SOFT of the contact distances apart."""
    contact, bond = _SOFT * composition.contact, 1.1 * composition.bond
    images = lattice_vectors(m, float(max(contact.max(), bond.max())))
    wanted = min(
        max(round(float(np.linalg.det(m)) / composition.volume / rng.uniform(0.75, 1.15)), 1), config.max_atoms
    )
    special = rng.random() ** 0.7  # how readily atoms go to special positions
    bonded = rng.random() < 0.75
    slabs = _slabs(rng) if rng.random() < config.layered_fraction else None
    placed = np.empty((0, 3))
    x: list[Floats] = []
    element: list[int] = []
    site: list[int] = []
    operator: list[int] = []
    failures = 0
    for _ in range(_MOST_ROUNDS):
        kind = _next_element(rng, composition, np.array(element, int), np.array(site, int), wanted)
        new, sizes = _candidates(rng, group, m, images, contact[kind, kind], special, failures)
        fits = sizes <= wanted - len(placed)
        if not len(placed) and failures == _FAILURES - 1:
            fits[:] = True  # nothing small enough is to be had
        if slabs is not None and len(placed):
            fits &= np.cos(2 * np.pi * (new @ slabs[0] + slabs[1])) > slabs[2]
        new = new[fits]
        neighbours = np.zeros(len(new), int)
        if len(placed) and len(new):
            kinds = np.array(element)[site]
            apart = nearest_images(new[:, None] - placed, m, images)
            fits = (apart >= contact[kind, kinds]).all(1)
            neighbours = (apart < bond[kind, kinds]).sum(1)[fits]
            new = new[fits]
        if not len(new):
            failures += 1
            if failures == _FAILURES:
                break
            continue
        failures = 0
        best = int(np.minimum(neighbours, 4).argmax()) if bonded else 0
        orbit, operators = _orbit(new[best], group)
        placed = np.concatenate([placed, orbit])
        site += [len(element)] * len(orbit)
        operator += operators.tolist()
        x.append(new[best])
        element.append(kind)
        if len(placed) >= wanted:
            break
    return _Sites(np.array(x).reshape(-1, 3), np.array(element, int), np.array(site, int), np.array(operator, int))


def _packed(
    rng: np.random.Generator, group: SpaceGroup, m: Floats, composition: Composition, sites: _Sites
) -> tuple[Floats, float]:
    """(n, 3) positions after atoms made room for one another, and by how much the edges then have to grow."""
    pull = float(rng.choice([0.0, 0.15]))  # bonds that are too long shorten, or not
    x, growth = sites.x, 1.0
    for turns, target in _PRESSING:
        x, closest = _pushed_apart(group, growth * m, composition, sites, x, pull, turns)
        growth *= max(0.8, target / closest)
    return sites.positions(group, x) % 1.0, growth


def _pushed_apart(
    group: SpaceGroup, m: Floats, composition: Composition, sites: _Sites, x: Floats, pull: float, turns: int
) -> tuple[Floats, float]:
    """Independent places after so many steps, and the closest contact there over what it should be.

    What moves an atom has the symmetry of its site, so special positions are kept.
    """
    kinds = sites.element[sites.site]
    contact = composition.contact[sites.element[:, None], kinds]
    bond = composition.bond[sites.element[:, None], kinds]
    images = lattice_vectors(m, float(composition.contact.max() * 1.25))
    to_fractions = np.linalg.inv(m).T
    for turn in range(turns + 1):
        delta = x[:, None] - sites.positions(group, x)
        vectors = ((delta - np.rint(delta)) @ m.T)[:, :, None] + images
        lengths = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
        lengths[lengths < _SAME] = np.inf
        if turn == turns:
            break
        lacking = contact[..., None] - lengths
        push = np.where(lacking > 0, 0.3 * lacking, 0.0)
        if pull:
            push += np.where((lengths < bond[..., None]) & (lacking < 0), pull * lacking, 0.0)
        step = np.einsum("snix,sni->sx", vectors, push / lengths)
        length = np.linalg.norm(step, axis=1)
        step *= (_LONGEST_STEP / np.maximum(length, _LONGEST_STEP))[:, None]
        x = x + step @ to_fractions
    return x, float((lengths / contact[..., None]).min())


def _next_element(rng: np.random.Generator, composition: Composition, element: Ints, site: Ints, wanted: int) -> int:
    """The element that lacks most; now and then another."""
    have = np.bincount(element[site], minlength=len(composition.numbers)) if len(site) else 0
    lacking = composition.shares * wanted - have
    if rng.random() < 0.15:
        return int(rng.integers(len(lacking)))
    return int(lacking.argmax())


def _slabs(rng: np.random.Generator) -> tuple[Floats, float, float]:
    """Layers across one axis: their index, their phase, and the cosine over which a place is inside."""
    axis = np.zeros(3)
    axis[rng.integers(3)] = rng.integers(1, 4)
    return axis, float(rng.choice([0, 0.5, rng.random()])), float(rng.uniform(-0.3, 0.7))


def _candidates(
    rng: np.random.Generator,
    group: SpaceGroup,
    m: Floats,
    images: Floats,
    contact: float,
    special: float,
    failures: int,
) -> tuple[Floats, Ints]:
    """(k, 3) places that keep `contact` from their own images, and (k,) how many of them make up the orbit.

    A place goes to the middle of those of its images that are within a distance drawn for it; after
    a few turns that middle stands still on a special position, the more special the longer the
    distance, or the place is not taken.
    """
    x = rng.random((_ROUND, 3))
    reach = np.where(
        rng.random(_ROUND) < special + 0.25 * failures, rng.uniform(0.5, 1.0 + 3.0 * special + failures, _ROUND), 0.0
    )
    reach[-4:] = contact * rng.uniform(1, 1.6, 4)  # where only special positions are free, some find them
    for _ in range(_SNAPS):
        near = _near_images(x, group)
        within = np.linalg.norm(near @ m.T, axis=-1) < np.maximum(reach, 1e-9)[:, None]
        x = x + (near * within[..., None]).sum(1) / within.sum(1)[:, None]
    x %= 1.0
    delta = _near_images(x, group)
    apart = nearest_images(delta, m, images)
    itself = apart < _SAME
    # an atom's images by the lattice alone: identity stands first
    if len(images) > 1:
        shortest = np.linalg.norm(images[1:], axis=1).min()
        contact = min(contact, shortest)
    good = (itself | (apart >= contact)).all(1)
    return x[good], len(group.rotations) // itself[good].sum(1)


def _orbit(x: Floats, group: SpaceGroup) -> tuple[Floats, Ints]:
    """(k, 3) the places to which the operators bring one, itself first, and an operator for each."""
    orbit = (group.rotations @ x + group.translations) % 1.0
    _, first = np.unique(np.rint(orbit * 1e6).astype(np.int64) % 1_000_000, axis=0, return_index=True)
    first = np.sort(first)
    return orbit[first], first


def _near_images(x: Floats, group: SpaceGroup) -> Floats:
    """(k, m, 3) from each place to the nearest lattice image of each of its symmetry mates."""
    delta = np.einsum("mij,kj->kmi", group.rotations, x) + group.translations - x[:, None]
    nearest: Floats = delta - np.rint(delta)
    return nearest


def _displacements(config: SymmetricSource, rng: np.random.Generator, numbers: Ints) -> Floats:
    """(s,) Å²: one level for the crystal, light atoms move more."""
    low, high = config.u_iso
    level = np.exp(rng.uniform(np.log(max(low, 1e-4)), np.log(max(high, 1e-4))))
    lightness = (20 / (numbers + 5.0)) ** rng.uniform(0, 0.4)
    u: Floats = np.clip(level * lightness * np.exp(0.25 * rng.standard_normal(len(numbers))), low, high)
    return u


@lru_cache(maxsize=16)
def _pool(elements: tuple[str, ...]) -> Ints:
    return np.array([gemmi.Element(symbol).atomic_number for symbol in elements])
