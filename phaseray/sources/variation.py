"""Real geometries with other elements: each exchanged for one of its size, the cell strained, atoms moved."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Crystal, Floats

Ints = NDArray[np.int64]

_RADIUS = np.array([0.0, *(gemmi.Element(z).covalent_r for z in range(1, 119))])
_SIMILAR = 1.15  # ratio of radii up to which one element stands for another
# never exchanged (hydrogen), or too rare to be what stands for another
_LEFT_OUT = frozenset({1, 2, 10, 18, 36, 43, 54, 61, *range(84, 90), 91, *range(93, 119)})
_MOST_STRAIN = 0.03
_MOST_SHIFT = 0.05  # Å


def variation(crystal: Crystal, seed: int, index: int = 0) -> Crystal:
    """A crystal like this one, of other elements.

    Every element but hydrogen becomes another of covalent radius within 15 %, one to one, metals metals
    and non-metals non-metals; lengths are scaled by the mean ratio of radii; the cell is strained by up
    to 3 % (a random symmetric strain), and every atom moved by up to 0.05 Å. The symmetry is lost: P1.
    Of u_aniso the isotropic part is kept. The same crystal, seed and index give the same bytes.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, *crystal.id.encode()], spawn_key=(3,)))
    exchanged = _exchange(rng, np.unique(crystal.numbers))
    numbers = np.array([exchanged[z] for z in crystal.numbers.tolist()], np.int64)
    scale = float(_RADIUS[numbers].mean() / _RADIUS[crystal.numbers].mean())
    strain = rng.uniform(-1, 1, (3, 3))
    strain = (strain + strain.T) / 2
    strain *= rng.uniform(0, _MOST_STRAIN) / np.abs(np.linalg.eigvalsh(strain)).max()
    m = scale * (np.eye(3) + strain) @ crystal.orthogonalization
    lengths = np.linalg.norm(m, axis=0)
    cosines = np.array([m[:, 1] @ m[:, 2], m[:, 2] @ m[:, 0], m[:, 0] @ m[:, 1]]) * lengths / lengths.prod()
    shifts = rng.standard_normal((crystal.n_atoms, 3))
    shifts *= (rng.uniform(0, _MOST_SHIFT, crystal.n_atoms) / np.linalg.norm(shifts, axis=1))[:, None]
    return replace(
        crystal,
        cell=np.concatenate([lengths, np.degrees(np.arccos(cosines))]),
        numbers=numbers,
        # one shift in Å for all, whichever way the new axes are turned
        positions=crystal.positions + shifts @ np.linalg.inv(m).T,
        u_aniso=None,
        isotopes=np.zeros(crystal.n_atoms, np.int64),
        space_group="P 1",
        space_group_number=1,
        id=f"{crystal.id}~{seed}.{index}",
        notes=(*crystal.notes, "Elements exchanged, cell strained and atoms moved at random: not a real crystal."),
    )


def _exchange(rng: np.random.Generator, elements: Ints) -> dict[int, int]:
    exchanged: dict[int, int] = {}
    for z in rng.permutation(elements).tolist():
        choice = [other for other in _alike(z) if other not in exchanged.values()]
        exchanged[z] = int(rng.choice(choice)) if choice else z
    return exchanged


@lru_cache(maxsize=128)
def _alike(z: int) -> tuple[int, ...]:
    """Elements of similar radius and the same kind, without itself."""
    if z in (1, 2):
        return ()
    ratios: Floats = _RADIUS[1:] / _RADIUS[z]
    metal = gemmi.Element(z).is_metal
    return tuple(
        other
        for other in (np.flatnonzero((ratios < _SIMILAR) & (ratios > 1 / _SIMILAR)) + 1).tolist()
        if other != z and other not in _LEFT_OUT and gemmi.Element(other).is_metal == metal
    )
