"""Which elements meet in a crystal, in what ratio, and how near they come: as in inorganic crystals, roughly."""

from __future__ import annotations

from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Ionic radii in Å (Shannon 1976, six neighbours; N, P, C, As and H as commonly taken), and how often each is the anion.
_ANION_RADII = {
    "O": 1.38, "F": 1.31, "S": 1.84, "Cl": 1.81, "Se": 1.98, "Br": 1.96, "N": 1.46, "I": 2.20, "Te": 2.21,
    "H": 1.30, "P": 1.90, "As": 2.00, "C": 1.60,
}  # fmt: skip
_ANION_SHARES = {
    "O": 55, "F": 7, "S": 11, "Cl": 8, "Se": 6, "Br": 4, "N": 4, "I": 3, "Te": 3, "H": 1, "P": 2, "As": 1, "C": 1,
}  # fmt: skip
_ANIONS = frozenset(gemmi.Element(symbol).atomic_number for symbol in _ANION_RADII)
# never a cation, and rare in alloys
_NON_METALS = frozenset(gemmi.Element(symbol).atomic_number for symbol in ("O", "F", "Cl", "Br", "I", "N", "H", "He"))
_RADIUS = np.array([0.0, *(gemmi.Element(z).covalent_r for z in range(1, 119))])
_ANION_RADIUS = _RADIUS * 1.5
for _symbol, _radius in _ANION_RADII.items():
    _ANION_RADIUS[gemmi.Element(_symbol).atomic_number] = _radius


@dataclass(frozen=True, eq=False)
class Composition:
    """What a crystal is to be made of.

    Attributes
    ----------
    numbers : (k,) atomic numbers; shares : (k,) of the atoms, adding up to 1
    contact : (k, k) least distances in Å
    bond : (k, k) lengths in Å up to which two are neighbours; 0 for like charges
    volume : Å³ an atom, at a density that is usual
    """

    numbers: Ints
    shares: Floats
    contact: Floats
    bond: Floats
    volume: float


def draw_composition(rng: np.random.Generator, pool: Ints, how_many: tuple[int, int], ionic: float) -> Composition:
    """Cations with anions (with probability `ionic`), an alloy, or elements of any kind.

    Parameters
    ----------
    pool : atomic numbers to choose from
    how_many : fewest and most elements
    """
    wanted = int(rng.integers(how_many[0], how_many[1] + 1))
    kind = rng.random()
    anions = np.array([z for z in pool if z in _ANIONS])
    metals = np.array([z for z in pool if z not in _NON_METALS])
    if kind < ionic and len(anions) and len(metals) > 1 and wanted > 1:
        return _ionic(rng, anions, metals, wanted)
    # the rest: three alloys to one of anything
    any_kind = kind > 1 - (1 - ionic) / 4 or len(metals) == 0
    choice = pool if any_kind else metals
    numbers = rng.choice(choice, size=min(wanted, len(choice)), replace=False)
    scale = rng.uniform(0.88, 1.02)
    contact = np.maximum(scale * (_RADIUS[numbers][:, None] + _RADIUS[numbers]), 1.1)
    return _composition(rng, numbers, np.ones(len(numbers)), contact, 1.2 * contact, rng.uniform(0.5, 0.66))


def _ionic(rng: np.random.Generator, anions: Ints, metals: Ints, wanted: int) -> Composition:
    weights = np.array([_ANION_SHARES[gemmi.Element(int(z)).name] for z in anions], float)
    n_anions = min(1 + (wanted > 2 and rng.random() < 0.25), len(anions))
    chosen = rng.choice(anions, size=n_anions, replace=False, p=weights / weights.sum())
    metals = metals[~np.isin(metals, chosen)]
    cations = rng.choice(metals, size=min(wanted - n_anions, len(metals)), replace=False)
    numbers = np.concatenate([cations, chosen])
    negative = np.arange(len(numbers)) >= len(cations)
    radius = np.where(negative, _ANION_RADIUS[numbers], _RADIUS[numbers])
    covalent = _RADIUS[numbers]
    scale = rng.uniform(0.92, 1.02)
    bond = scale * (covalent[:, None] + covalent)
    anion_contact = rng.uniform(0.80, 0.95) * (radius[:, None] + radius)
    cation_contact = np.maximum(rng.uniform(0.95, 1.15) * (covalent[:, None] + covalent), 2.4)
    unlike = negative[:, None] != negative
    contact = np.where(unlike, bond, np.where(negative[:, None] & negative, anion_contact, cation_contact))
    anion_share = rng.uniform(0.45, 0.8)
    rough = np.where(negative, anion_share / n_anions, (1 - anion_share) / len(cations))
    return _composition(rng, numbers, rough, contact, np.where(unlike, 1.25 * bond, 0.0), rng.uniform(0.5, 0.72))


def _composition(
    rng: np.random.Generator, numbers: Ints, rough: Floats, contact: Floats, bond: Floats, filling: float
) -> Composition:
    shares = rough * np.exp(0.5 * rng.standard_normal(len(numbers)))
    shares /= shares.sum()
    # spheres that touch where atoms of one kind do, except that small cations hide between anions
    radius = np.minimum(contact.diagonal(), contact.min(0) * 1.15) / 2
    volume = float(shares @ (4 / 3 * np.pi * radius**3)) / filling
    return Composition(numbers, shares, contact, bond, volume)
