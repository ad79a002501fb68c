"""Atoms of a known formula, placed in the space groups that the amplitudes allow; no network is asked.

A crystal of few independent atoms has fewer unknowns than amplitudes even at low resolution, once it is known which
atoms there are: each space group has few special positions, few ways to share them out to the elements of the formula
give its ratios, and few coordinates are left. Of each way, the simplest first, many positions are tried at
once, from tables of their structure factors, and then least squares (`AtomModel`) from the best of them. What they
leave unexplained tells the right one from all others where there are enough amplitudes.

Legend: n samples of sites; m reflections that the group does not relate; o orbits; T trials; e elements.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from math import comb
from typing import NamedTuple

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.evaluation.atoms_in_maps import overall_b
from phaseray.phasing.atom_model import AtomModel, Frame
from phaseray.phasing.completion import MOST
from phaseray.phasing.sites import Ints, Sites, Way, contents, freedom, ways

_TRIALS, _FINALISTS, _REFINED = 3000, 24, 5
_WAYS_LOOKED_AT = 3000  # in one group
_FREEDOM = 14  # coordinates, beyond which trials at random find nothing
_PROMISING = 0.03  # misfit
_NEXT_TO_NOTHING, _MUCH = (
    0.025,
    0.6,
)  # of the squares of all electrons: what hydrogen has at most, and heavy atoms at least
_TOO_NEAR = 0.65  # of the sum of the covalent radii
_ROOMY = 8  # places an orbit, from which on draws need not look at each other
_UNUSUAL = 1.0  # coordinate that each step from the usual volume of an atom counts as, in the order of ways
_ORBIT = 0.5  # the same, each orbit


class Part(NamedTuple):
    """The elements of a formula that are placed.

    Attributes
    ----------
    atoms : atomic number → number of atoms, of all elements that count
    elements : those that are placed
    """

    atoms: Mapping[int, int]
    elements: tuple[int, ...]

    @property
    def whole(self) -> bool:
        return len(self.elements) == len(self.atoms)


def parts(formula: Mapping[int, int]) -> list[Part]:
    """All atoms but hydrogen, where it is next to nothing; and where they are much of it the heavy ones alone.

    Each atom that need not be placed leaves fewer ways and fewer coordinates; the completion finds it.
    """
    power = {z: n * z**2 for z, n in sorted(formula.items(), reverse=True)}
    total = sum(power.values())
    atoms = {z: n for z, n in formula.items() if z > 1 or power[z] > _NEXT_TO_NOTHING * total}
    heavy, share = [], 0
    for z, own in power.items():
        heavy.append(z)
        share += own
        if share > _MUCH * total:
            break
    found = [Part(atoms, tuple(atoms))]
    return found if len(heavy) >= len(atoms) else [*found, Part(atoms, tuple(heavy))]


class SiteSearch:
    """For the atoms of one formula in one group."""

    def __init__(self, frame: Frame, part: Part, rng: np.random.Generator) -> None:
        self.frame, self.part, self.rng = frame, part, rng
        self.sites = Sites.of(frame, rng)
        r = frame.reflections
        power = np.array(list(part.atoms.values())) @ r.factors[list(part.atoms)] ** 2
        self.b = max(overall_b(r.amplitude / np.sqrt(power), r.s2), 0.1)
        self._heights = (frame.factors[list(part.elements)] * np.exp(-self.b * frame.s2)).astype(np.float32)  # (e, m)
        self._observed, self._weight = frame.amplitude.astype(np.float32), frame.weight.astype(np.float32)

    def ways(self, volume: float, centrings: int, independent: int) -> list[Way]:
        """To share the sites out, of less freedom than there are amplitudes, the simple and usual ones first."""
        found: list[tuple[float, Way]] = []
        placed = [list(self.part.atoms).index(z) for z in self.part.elements]
        for unusual, counts in enumerate(contents(self.part.atoms, volume, centrings)):
            own = tuple(counts[e] for e in placed)
            for way in itertools.islice(ways(self.sites.kinds, own), _WAYS_LOOKED_AT):
                free = freedom(way)
                # with the scale and b
                if free <= _FREEDOM and (free + 2) / independent <= MOST:
                    found.append((free + _ORBIT * len(way) + _UNUSUAL * unusual, way))
        found.sort(key=lambda each: each[0])
        return [way for _, way in found]

    def solve(self, way: Way) -> AtomModel | None:
        """The best model of one way; None where it puts atoms too near each other."""
        best: AtomModel | None = None
        for chosen in self.trials(way)[:_REFINED]:
            model = self.model(way, chosen).refined(12, 1e-2)
            if model.misfit < _PROMISING:
                model = model.refined(20, 1e-4)
            if (best is None or model.misfit < best.misfit) and apart(model):
                best = model
        if best is None or best.misfit > _PROMISING:
            return best
        before, best = best, best.refined(40, 1e-6)
        each = replace(best, shared_b=False).refined(40, 1e-6)
        return min((m for m in (before, best, each) if apart(m)), key=lambda m: m.criterion())

    def trials(self, way: Way) -> Ints:
        """(T, o) samples, those first that explain the most."""
        # orbits that may be exchanged for each other are chosen together, in one order
        alike = [(self.sites.kinds[kind], len(list(same))) for (_, kind), same in itertools.groupby(way)]
        total = np.prod([float(comb(len(pool), times)) for pool, times in alike])
        if total <= _TRIALS:
            every = itertools.product(*(itertools.combinations(pool, times) for pool, times in alike))
            chosen = np.array([list(itertools.chain(*each)) for each in every], np.int64).reshape(-1, len(way))
        else:
            chosen = self._drawn(way)
        chosen = _distinct(way, chosen)
        f = np.zeros((len(chosen), len(self._observed)), np.complex64)
        for j, (e, _) in enumerate(way):
            f += self.sites.waves[chosen[:, j]] * self._heights[e]
        order = self._misfit(f).argsort()[:_FINALISTS]
        if total > _TRIALS and len(way) > 1 and len(order):
            return self._improved(way, chosen[order], f[order])
        return chosen[order]

    def _drawn(self, way: Way) -> Ints:
        """(_TRIALS, o) samples at random, of which few take a place twice; none where there are not places for all."""
        chosen = np.empty((_TRIALS, len(way)), np.int64)
        for kind in dict.fromkeys(kind for _, kind in way):
            pool, own = self.sites.kinds[kind], [j for j, (_, k) in enumerate(way) if k == kind]
            if len(own) > len(pool):
                return chosen[:0]
            if len(pool) > _ROOMY * len(own):
                chosen[:, own] = self.rng.choice(pool, (_TRIALS, len(own)))
            else:
                chosen[:, own] = pool[self.rng.random((_TRIALS, len(pool))).argsort(1)[:, : len(own)]]
        return chosen

    def _improved(self, way: Way, chosen: Ints, f: NDArray[np.complex64]) -> Ints:
        """One orbit after the other moved to the best of its samples, the others held."""
        pools = [self.sites.kinds[kind] for _, kind in way]
        found = self._misfit(f)
        for _ in range(3):
            before = found
            for j, (e, _) in enumerate(way):
                waves = self.sites.waves[pools[j]] * self._heights[e]
                rest = f - self.sites.waves[chosen[:, j]] * self._heights[e]
                table = self._misfit(rest[:, None] + waves)
                for i, (_, kind) in enumerate(way):
                    if i != j and kind == way[j][1]:  # where another orbit is
                        table[np.arange(len(table)), np.searchsorted(pools[j], chosen[:, i])] = np.inf
                best = table.argmin(1)
                chosen[:, j], f, found = pools[j][best], rest + waves[best], table.min(1)
            if (found > before - 1e-3).all():
                break
        return _distinct(way, chosen[found.argsort()])

    def _misfit(self, f: NDArray[np.complex64]) -> NDArray[np.float32]:
        """(…,) unexplained share of the squares of the amplitudes, at the best scale of structure factors (…, m)."""
        size = abs(f)
        along, power = size @ (self._weight * self._observed), (size**2) @ self._weight
        explained = along**2 / np.maximum(power, 1e-20)
        found: NDArray[np.float32] = 1 - explained / (self._weight @ self._observed**2)
        return found

    def model(self, way: Way, chosen: Ints) -> AtomModel:
        """With the orbits of one trial."""
        model = AtomModel(
            self.frame, self.sites.positions[chosen], np.array([self.part.elements[e] for e, _ in way], float),
            np.full(len(way), self.b), self.sites.keeping[chosen].astype(float), self.sites.free[chosen],
            known=True, shared_b=True,
        )  # fmt: skip
        size = abs(model.contributions().sum(1))
        weight = self.frame.weight
        return replace(model, scale=float(weight @ (self.frame.amplitude * size) / max(weight @ size**2, 1e-30)))


def _distinct(way: Way, chosen: Ints) -> Ints:
    """The trials (T, o) that use no place twice, each once and in the order of the first; equal orbits in one order."""
    first = 0
    chosen = chosen.copy()
    for _, same in itertools.groupby(way):
        times = len(list(same))
        chosen[:, first : first + times].sort(1)
        first += times
    good = np.ones(len(chosen), bool)
    for i, j in itertools.combinations(range(len(way)), 2):
        if way[i][1] == way[j][1]:
            good &= chosen[:, i] != chosen[:, j]
    chosen = chosen[good]
    distinct: Ints = chosen[np.sort(np.unique(chosen, axis=0, return_index=True)[1])]
    return distinct


def apart(model: AtomModel) -> bool:
    """Whether all atoms are as far from each other as atoms of their elements are."""
    radius = np.array([gemmi.Element(int(z)).covalent_r for z in model.electrons])
    return bool((model.distances() >= _TOO_NEAR * (radius[:, None, None] + radius)).all())
