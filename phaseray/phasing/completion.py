"""From a map to the atoms that explain the amplitudes: peaks in, least squares, difference map, peaks out.

As crystallographers complete a structure, with SHELXL and its list of peaks, but by no hand. For each space group that
the amplitudes make likely, and each that the map shows: the strongest peaks become atoms, the fit to the amplitudes
alone decides whether they stay (Bayes' criterion), and the difference map shows those that are missing, until nothing
improves. Of all groups the model with the best criterion is taken. Where few atoms explain all amplitudes they are
right, and so are their phases, however wrong the phases of the map were.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from phaseray.phasing import scoring
from phaseray.phasing.atom_model import EXACT, AtomModel, Complexes, Frame, Reflections
from phaseray.phasing.problem import PhaseProblem, Starts, resampled, unit
from phaseray.phasing.space_groups import AllowedGroups
from phaseray.phasing.symmetry import AmplitudeSymmetry, Group

Floats = NDArray[np.float64]

METHOD = "atoms"
"""Under which its maps are judged."""
MAPS, MAPS_AT_LEAST = 6, 3
"""Maps of their own that are tried at most, and before an explanation is taken: another one may be simpler."""
EXPLAINED = 3 * EXACT
"""Misfit from which on the amplitudes are explained, with at most FEW parameters an amplitude."""
FEW, MOST = 0.5, 0.8
ALMOST_MANY = 0.45
"""Parameters an amplitude from which on a good fit begins to tell nothing."""
PLAIN = -6.0
"""Criterion from which on wrong models become rare."""
EFFORT = 1e9
"""Multiplications that a map is worth, a second or two: models of many atoms are left as they then are."""
LIKELY = 4
"""Groups that the amplitudes allow that are tried on a map."""
_LEAST = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)  # correlations of a map with its image, for an operation
_SAME = 0.97  # correlation of maps from which on the second tells nothing new
_BATCH, _EQUALS = 3, 0.6  # orbits taken at once, of at least this share of the strongest peak
_ROUNDS = 30
_DISTANCES = (0.7, 4.0)  # Å, shortest ones that are told apart
_SPACE = 17.0  # Å³ of an atom as usual; hydrogen, which models do not show, left out


@dataclass
class Effort:
    """What is left of it, in multiplications, and until when."""

    left: float
    until: float | None = None

    def spent(self, model: AtomModel, cycles: int) -> bool:
        """Count steps of a fit; whether nothing is left."""
        m, g = len(model.frame), len(model.frame.rotations)
        self.left -= cycles * m * (model.parameters**2 + 40.0 * g * (len(model) + 1))
        return self.gone

    @property
    def gone(self) -> bool:
        return self.left < 0 or (self.until is not None and time.perf_counter() > self.until)


class Completion:
    """The completion of the maps of one problem, one after the other: it remembers which were tried.

    Attributes
    ----------
    models : the best of each map tried, in the order of the maps
    """

    def __init__(self, problem: PhaseProblem, symmetry: AmplitudeSymmetry | None = None) -> None:
        self.problem = problem
        self.reflections = Reflections.of(problem)
        loose = symmetry or AmplitudeSymmetry(problem)
        self.allowed = AllowedGroups(loose.problem, self.reflections)
        exact = self.allowed.symmetry
        # heavy atoms may seem to be centred where light ones are not; and amplitudes of which no σ is known, and whose
        # equivalents were not merged, seem to have no symmetry
        alike = len(exact.centrings) == len(loose.centrings) and not len(exact.rotations) == 2 < len(loose.rotations)
        self._symmetries = [exact] if alike else [exact, loose]
        self.models: list[AtomModel] = []
        self._tried = torch.zeros((0, *problem.amplitude.shape), dtype=torch.complex64, device=problem.device)

    def criterion(self, model: AtomModel) -> float:
        """`AtomModel.criterion` for all amplitudes that the symmetry of the amplitudes does not relate."""
        return model.criterion(self.allowed.independent)

    def explains(self, model: AtomModel, misfit: float = EXPLAINED) -> bool:
        """Whether few atoms leave next to nothing of the amplitudes unexplained."""
        return model.misfit < misfit and model.share(self.allowed.independent) <= FEW

    def complete(
        self, phases: torch.Tensor, probability: NDArray[np.float64], until: float | None = None
    ) -> Starts | None:
        """Models from the maps of unit phases (S, nx, ny, nz'), the most probable first, until one explains it all.

        Parameters
        ----------
        probability : (S,) of the starts
        until : of `time.perf_counter`, after which no map is begun

        Returns
        -------
        Starts with the phases of the models, whose `parent` counts the starts given, and their `features`; None where
        there is no model.
        """
        began = time.perf_counter()
        models: list[AtomModel] = []
        parents: list[int] = []
        for start in (-probability).argsort():
            over = until is not None and time.perf_counter() > until
            if over or len(models) >= MAPS or (len(models) >= MAPS_AT_LEAST and any(map(self.explains, models))):
                break
            if self._known(phases[start]):
                continue
            self._tried = torch.cat([self._tried, phases[start : start + 1]])
            model = self.model(phases[start], until)
            # what has about as many parameters as there are amplitudes says nothing
            if model is not None and model.share(self.allowed.independent) <= MOST:
                models.append(model)
                parents.append(int(start))
        if not models:
            return None
        self.models += models
        return Starts(
            phases=torch.stack([self.phases(model) for model in models]),
            features=self.features(models),
            seconds=time.perf_counter() - began,
            parent=np.array(parents, np.int64),
        )

    def features(self, models: Sequence[AtomModel]) -> dict[str, Floats]:
        """Each (number of models,): what a model says of itself.

        criterion : the less the better
        excess : parameters over independent amplitudes, as far as above ALMOST_MANY
        explained : how far the criterion is below PLAIN, at most 1.5, where the excess is small
        shortest : logarithm of the shortest distance between atoms over 1 Å, held to between 0.7 and 4 Å
        space : how far the logarithm of the volume an atom is from the usual one, at most 2
        orbits : logarithm of their number
        amplitudes : logarithm of how many the symmetry of the amplitudes does not relate, the same for all
        """
        criterion = np.array([self.criterion(model) for model in models])
        share = np.array([model.share(self.allowed.independent) for model in models])
        excess = np.maximum(share - ALMOST_MANY, 0.0)
        explained = np.clip(PLAIN - criterion, 0, 1.5) * np.clip(1 - excess / 0.1, 0, 1)
        shortest = np.array([model.distances().min() for model in models])
        space = np.array([self.problem.volume / model.atoms for model in models])
        return {
            "criterion": criterion,
            "excess": excess,
            "explained": explained,
            "shortest": np.log(np.clip(shortest, *_DISTANCES)),
            "space": np.clip(abs(np.log(space / _SPACE)), 0, 2),
            "orbits": np.log([len(model) for model in models]),
            "amplitudes": np.full(len(models), np.log(self.allowed.independent)),
        }

    def model(self, phases: torch.Tensor, until: float | None = None) -> AtomModel | None:
        """The best model of one map, of unit phases (nx, ny, nz')."""
        effort = Effort(EFFORT, until)
        best = self._best(phases, effort)
        # its phases are better than those of the map it came from, even where it is not all, and show more symmetry
        if best is not None and not self.explains(best, EXACT) and not effort.gone:
            again = self._best(self.phases(best), effort)
            if again is not None and self.criterion(again) < self.criterion(best):
                best = again
        return best

    def _best(self, phases: torch.Tensor, effort: Effort) -> AtomModel | None:
        f = self.problem.structure_factors(phases)
        values = self.reflections.values(f)
        best: AtomModel | None = None
        for group, centrings in self._groups(f):
            if best is not None and self.explains(best, EXACT):
                break
            frame = Frame(self.reflections, group, centrings)
            found = completed(frame, self.reflections.mean(values, frame.group), effort)
            if len(found) and (best is None or self.criterion(found) < self.criterion(best)):
                best = found
            if effort.gone:
                break
        return best

    def _groups(self, f: torch.Tensor) -> Iterator[tuple[Group, Floats]]:
        """Groups to try, with the centrings of their lattice.

        First those that the amplitudes allow, about the origin where the map fits them best; then those that the map
        shows, as not every symmetry of the amplitudes is one of the crystal.
        """
        exact = self.allowed.symmetry
        small = resampled(f, self.problem.shape, exact.problem.shape)
        placed = [exact.placed(small, group) for group in self.allowed.likely]
        placed.sort(key=lambda each: (round(each[1], 1), len(each[0])), reverse=True)
        yield from ((group, exact.centrings) for group, _ in placed[:LIKELY])
        for symmetry in self._symmetries:
            small = resampled(f, self.problem.shape, symmetry.problem.shape)
            yield from ((group, symmetry.centrings) for group in _shown(symmetry, small))

    def _known(self, phases: torch.Tensor) -> bool:
        if not len(self._tried):
            return False
        alike = scoring.correlations(self.problem, torch.cat([phases[None], self._tried]), 0)[1:]
        return bool((alike > _SAME).any())

    def phases(self, model: AtomModel) -> torch.Tensor:
        """(nx, ny, nz') unit phases, 1 where nothing is measured."""
        half = self.reflections.on_half_grid(model.everywhere())
        phases = unit(torch.as_tensor(half.astype(np.complex64), device=self.problem.device))
        return torch.where(self.problem.measured, phases, torch.ones_like(phases))


def _shown(symmetry: AmplitudeSymmetry, f: torch.Tensor) -> list[Group]:
    """The groups that the map of a half grid f (nx, ny, nz') shows, large ones first, and none at all."""
    alone = Group(np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)))
    return [*sorted(symmetry.groups(f, _LEAST), key=len, reverse=True), alone]


def completed(frame: Frame, values: Complexes, effort: Effort) -> AtomModel:
    """The model that a map of values (n,), already a mean over the group of the frame, leads to."""
    model = _grown(AtomModel.without_atoms(frame), values, effort)
    model = _pruned(model, effort)
    model = _pruned(_grown(model, None, effort), effort)
    return model if effort.spent(model, 15) else model.refined(15, 1e-3)


def _grown(model: AtomModel, values: Complexes | None, effort: Effort) -> AtomModel:
    """With the atoms that a map shows beside those of the model; without values, the difference map of the model."""
    best = now = model
    failed = 0
    for _ in range(_ROUNDS):
        fc = now.everywhere()
        # of what is not in the phases a difference map shows half
        shown = values - fc if values is not None else 1.5 * (abs(now.frame.reflections.amplitude) / _size(fc) - 1) * fc
        then = now.extended(shown, _BATCH, _EQUALS)
        if then.share() > MOST:
            then = now.extended(shown, 1, 1.0)
        if len(then) == len(now) or then.share() > MOST or effort.spent(then, 5):
            break
        now = then.refined(4)
        there = np.flatnonzero(now.electrons > 0.01 * now.electrons.max())
        if len(there) < len(now):
            now = now.only(there).refined(2)
        if now.criterion() < best.criterion():
            best, failed = now, 0
            continue
        failed += 1
        if failed > 1:
            break
    return best


def _pruned(model: AtomModel, effort: Effort) -> AtomModel:
    """Without the atoms that the criterion does not ask for, the least needed first."""
    while len(model) > 1:
        frame, each = model.frame, model.contributions()
        rest = abs(each.sum(1)[:, None] - each)
        power = np.maximum(frame.weight @ rest**2, 1e-30)
        scale = (frame.weight * frame.amplitude) @ rest / power
        cost = frame.weight @ (frame.amplitude[:, None] - scale * rest) ** 2
        for i in cost.argsort()[:3]:
            if effort.spent(model, 4):
                return model
            without = model.only(np.delete(np.arange(len(model)), i)).refined(4)
            if without.criterion() < model.criterion():
                model = without
                break
        else:
            return model
    return model


def _size(values: Complexes) -> Floats:
    size: Floats = np.maximum(abs(values), 1e-12)
    return size
