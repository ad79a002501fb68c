"""Models of atoms placed from amplitudes alone, of a formula or of any crystal, and what completes them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from phaseray.phasing import scoring
from phaseray.phasing.atom_model import AtomModel, Frame
from phaseray.phasing.completion import MOST, Completion
from phaseray.phasing.problem import PhaseProblem, Starts
from phaseray.phasing.site_search import Part, SiteSearch, parts
from phaseray.phasing.symmetry import Group

FORMULA, GUESSES = "formula", "guesses"
"""Under which the maps of `place` and of `guess` are judged."""
MODELS = 4
"""That are given back, each another map."""
AS_GOOD = 0.7
"""Of the criterion, by which two models may differ that explain equally well."""
GUESSED = (Part({26: 1, 8: 2}, (26, 8)), Part({26: 1}, (26,)))
"""In place of a formula: a heavy atom and two light ones, and one kind of atoms. What matters is where they are."""
_FIRST = 0.6  # of the time for the first part, where another is tried after it
_GROUPS, _WAYS = 24, 60  # tried, and ways in each
_GUESSED_GROUPS, _GUESSED_WAYS = 8, 20
_PLAIN = -7.5  # criterion, below which no other group is tried
_KEPT, _KEPT_OF_PART = 0.2, 0.4  # misfit of models that are worth a map


def place(
    problem: PhaseProblem,
    formula: Mapping[int, int],
    seed: int,
    until: float | None = None,
    completed_until: float | None = None,
) -> Starts | None:
    """Models of the atoms of a formula, the best first; those that do not explain the amplitudes are completed.

    Atoms at wrong places, or the right ones of a group that is too large, give phases that are good enough to see the
    others by: what `Completion.model` makes of them is held to the same criterion.

    Parameters
    ----------
    formula : atomic number → number of atoms, whole numbers without common divisor
    until, completed_until : of `time.perf_counter`, after which no way, and no completion, is begun

    Returns
    -------
    Starts with the phases of at most MODELS models, of which each is another map; None where there are none. Features
    as of `Completion.complete`, and

    margin
        How far the criterion is below that of the best other model, at most 3, as where there is none; below 0 for
        the others.
    rival
        Whether another model is as good: 1 where its criterion is the same, 0 where it is AS_GOOD or more away.
    """
    return _search(problem, parts(formula), seed, until, completed_until, _GROUPS, _WAYS)


def guess(
    problem: PhaseProblem, seed: int, until: float | None = None, completed_until: float | None = None
) -> Starts | None:
    """The same where no formula is known: GUESSED atoms in few ways, which the completion makes those of the crystal.

    Few atoms in special positions have phases that are right for many reflections, whichever elements they are.
    """
    return _search(problem, GUESSED, seed, until, completed_until, _GUESSED_GROUPS, _GUESSED_WAYS)


def _search(
    problem: PhaseProblem,
    every: Sequence[Part],
    seed: int,
    until: float | None,
    completed_until: float | None,
    groups: int,
    ways: int,
) -> Starts | None:
    began = time.perf_counter()
    work = Completion(problem)
    rng = np.random.default_rng(seed)
    found: list[AtomModel] = []
    made: list[AtomModel] = []
    tried: list[AtomModel] = []

    def explained() -> bool:
        return any(_settled(work, model) for model in (*found, *made))

    for part, limit in _limits(every, began, until):
        for group, _ in work.allowed.groups[:groups]:
            found += _placed(work, group, part, rng, limit, ways)
            best = min(found, key=work.criterion, default=None)
            if best is not None and best not in tried and not _settled(work, best):
                # the best so far of all groups: where it can be completed no other need be tried
                tried.append(best)
                made += _completed(work, [best], completed_until)
            if _over(limit) or explained():
                break
        if explained():
            break
    chosen = _different(work, [*found, *made])
    if not chosen:
        return None
    if not _settled(work, chosen[0]):
        rest = [model for model in chosen if model not in tried and model not in made]
        chosen = _different(work, [*chosen, *_completed(work, rest, completed_until)])
    features = work.features(chosen)
    criterion = features["criterion"]
    rival = np.where(np.arange(len(chosen)) > 0, criterion[0], np.append(criterion, np.inf)[1])
    margin = rival - criterion
    features |= {"margin": np.clip(margin, -3.0, 3.0), "rival": np.clip(1 - abs(margin) / AS_GOOD, 0.0, 1.0)}
    return Starts(
        phases=torch.stack([work.phases(model) for model in chosen]),
        features=features,
        seconds=time.perf_counter() - began,
        parent=np.full(len(chosen), -1),
    )


def _limits(every: Sequence[Part], began: float, until: float | None) -> Iterator[tuple[Part, float | None]]:
    """Until when each is tried: the last until the end, another _FIRST of the time."""
    for part in every:
        yield part, until if until is None or part is every[-1] else began + _FIRST * (until - began)


def _over(until: float | None) -> bool:
    return until is not None and time.perf_counter() > until


def _placed(
    work: Completion, group: Group, part: Part, rng: np.random.Generator, until: float | None, most: int
) -> Iterator[AtomModel]:
    """The models of one group that are worth a map."""
    if _over(until):
        return
    symmetry, independent = work.allowed.symmetry, work.allowed.independent
    search = SiteSearch(Frame(work.reflections, group, symmetry.centrings), part, rng)
    ways = search.ways(work.problem.volume, len(symmetry.centrings), independent)
    for way in itertools.islice(ways, most):
        if _over(until):
            return
        model = search.solve(way)
        if model is not None and model.misfit < (_KEPT if part.whole else _KEPT_OF_PART):
            yield model


def _settled(work: Completion, model: AtomModel) -> bool:
    return work.explains(model) or work.criterion(model) < _PLAIN


def _completed(work: Completion, models: Iterable[AtomModel], until: float | None) -> list[AtomModel]:
    """What the maps of models lead to, of no more parameters than say something."""
    made = (work.model(work.phases(m), until) for m in models if not _over(until))
    return [model for model in made if model is not None and model.share(work.allowed.independent) <= MOST]


def _different(work: Completion, models: list[AtomModel]) -> list[AtomModel]:
    """The best models whose maps are not the same, the best first."""
    problem = work.problem
    chosen: list[AtomModel] = []
    phases = torch.zeros((0, *problem.amplitude.shape), dtype=torch.complex64, device=problem.device)
    for model in sorted(models, key=work.criterion)[: 5 * MODELS]:
        own = work.phases(model)[None]
        if len(chosen) == MODELS:
            break
        if not len(phases) or scoring.correlations(problem, torch.cat([own, phases]), 0)[1:].max() < scoring.SAME_MAP:
            chosen.append(model)
            phases = torch.cat([phases, own])
    return chosen
