"""The network in rounds of starts, each with the symmetry of its best maps put in, alone and after charge flipping."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from phaseray.phasing import charge_flipping, network, placing, scoring
from phaseray.phasing.completion import METHOD as ATOMS
from phaseray.phasing.completion import PLAIN, Completion
from phaseray.phasing.problem import PhaseProblem, Starts
from phaseray.phasing.symmetrised import averaged, joined, told, with_symmetry
from phaseray.phasing.symmetry import AmplitudeSymmetry, Group, Projection

ROUNDS = 4
"""As often the network tries so many starts anew, unless told how many: until one of them is ENOUGH."""
ENOUGH = 0.9
"""Probability at which a start is taken for the solution."""
FLIPPED = 16
"""Starts of charge flipping before those of the network."""
PLACING, COMPLETING = 0.4, 0.15
"""Shares of the time for atoms of a formula, and for completing what they leave, before anything else is tried."""
GUESSING = 0.3
"""Share of the time for atoms of no formula, where none explain what the first round of the network has found."""


def network_rounds(
    problem: PhaseProblem,
    starts: int,
    rounds: int,
    seed: int,
    time_limit: float | None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Starts:
    """All starts of all rounds, those with their symmetry, and the atoms found in them, until one is probably right.

    Every second start is under one of the space groups that the amplitudes make likely, about an origin of its own;
    the others are free. Where no atoms explain what the first round has found, some are guessed too (`placing.guess`):
    right phases need not come from a map.

    `watch` is that of `network.solve_starts`, once a round; whoever watches the network wants no guesses.
    """
    began = time.perf_counter()
    until = None if time_limit is None else began + time_limit
    symmetry = AmplitudeSymmetry(network.on_network_grid(problem))
    completion = Completion(problem, symmetry)
    found: list[Starts] = []
    cleared: list[Starts] = []
    models: Starts | None = None
    guesses: Starts | None = None
    likely = [group for group in completion.allowed.likely if len(group) > 1]

    def left() -> float | None:
        return None if until is None else until - time.perf_counter()

    def settle(phases: Tensor, projections: Sequence[Projection]) -> Starts:
        return told(problem, symmetry, completion.allowed, network.settle(problem, phases, projections, left()))

    for number in range(rounds):
        remaining = left()
        # a round cut short is worth nothing
        if found and remaining is not None and remaining < found[0].seconds:
            break
        own = seed if not number else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        under = [None if not i % 2 else _in_turn(likely, number * (starts // 2) + i // 2) for i in range(starts)]
        projections = [None if group is None else completion.allowed.symmetry.projection(group) for group in under]
        new = network.solve_starts(
            problem, starts, own, remaining, problem.device, watch=watch, projections=projections
        )  # fmt: skip
        order = np.log2([1 if group is None else len(group) for group in under])
        found.append(
            told(problem, symmetry, completion.allowed, replace(new, features={**new.features, "order": order}))
        )
        probable = scoring.judge(problem, joined(found), "network")[0][-starts:]
        remaining = left()
        if remaining is None or remaining > 0:
            free = np.flatnonzero(order == 0)
            more = with_symmetry(problem, symmetry, found[-1].only(free), probable[free], settle)
            if more is not None:
                cleared.append(replace(more, parent=free[more.parents] + number * starts))
        maps = joined(found, cleared)
        models = _models(completion, maps, scoring.judge(problem, maps, "network")[0], models, until)
        together = _with_models("network", maps, models, guesses)
        if number == 0 and watch is None and not explained(problem, together, "network"):
            guesses = _guesses(problem, seed, time_limit, until)
            together = _with_models("network", maps, models, guesses)
        if scoring.judge(problem, together, "network")[0].max() >= ENOUGH:
            break
    return together


def _in_turn(groups: Sequence[Group], number: int) -> Group | None:
    return groups[number % len(groups)] if groups else None


def _models(
    completion: Completion, maps: Starts, probability: NDArray[np.float64], so_far: Starts | None, until: float | None
) -> Starts | None:
    """The atoms found so far and those in maps not tried before, whose parents are starts."""
    made = completion.complete(maps.phases, probability, until)
    if made is None:
        return so_far
    # what is made of starts of later rounds comes before what was made of the first: only starts keep their numbers
    made = replace(made, parent=maps.parents[made.parents])
    return made if so_far is None else replace(Starts.of_methods((ATOMS, so_far), (ATOMS, made)), made_by=())


def _guesses(problem: PhaseProblem, seed: int, time_limit: float | None, until: float | None) -> Starts | None:
    if time_limit is None or until is None:
        return placing.guess(problem, seed)
    now = time.perf_counter()
    return placing.guess(problem, seed, min(now + GUESSING * time_limit, until), until)


def _with_models(method: str, maps: Starts, models: Starts | None, guesses: Starts | None = None) -> Starts:
    others = ((ATOMS, models), (placing.GUESSES, guesses))
    return Starts.of_methods((method, maps), *((by, made) for by, made in others if made is not None))


def hybrid(
    problem: PhaseProblem,
    starts: int,
    rounds: int,
    seed: int,
    time_limit: float | None,
    formula: Mapping[int, int] | None = None,
) -> Starts:
    """Charge flipping, for half of the time; where it has no probable solution, the atoms of a formula, if one is
    told, and the network as well."""
    began = time.perf_counter()
    half = None if time_limit is None else time_limit / 2
    flipped = charge_flipping.solve_starts(problem, FLIPPED, seed, half)
    flipped = averaged(problem, flipped, "charge_flipping")
    probable = scoring.judge(problem, flipped, "charge_flipping")[0]
    until = None if half is None else began + half
    first = _with_models("charge_flipping", flipped, _models(Completion(problem), flipped, probable, None, until))
    if scoring.judge(problem, first, "charge_flipping")[0].max() >= ENOUGH:
        return first
    rest = None if time_limit is None else max(began + time_limit - time.perf_counter(), 1e-3)
    second = (
        network_rounds(problem, starts, rounds, seed, rest)
        if formula is None
        else placed_first(
            problem, formula, seed, rest, lambda left: network_rounds(problem, starts, rounds, seed, left)
        )
    )
    second = replace(second, parent=np.where(second.parents < 0, -1, second.parents + len(first)))
    return Starts.of_methods(("", first), ("", second))


def explained(problem: PhaseProblem, found: Starts, method: str) -> bool:
    """Whether atoms that are ENOUGH explain the amplitudes so well that nothing else need be looked for."""
    probability, table = scoring.judge(problem, found, method)
    criterion = table.get("criterion", np.full(len(found), np.nan))
    return bool(((probability >= ENOUGH) & (criterion < PLAIN)).any())


def placed_first(
    problem: PhaseProblem,
    formula: Mapping[int, int],
    seed: int,
    time_limit: float | None,
    otherwise: Callable[[float | None], Starts],
) -> Starts:
    """The atoms of a formula; where they do not explain it all, also what `otherwise` finds in the seconds left."""
    began = time.perf_counter()
    until = completed = None
    if time_limit is not None:
        until = began + PLACING * time_limit
        completed = until + COMPLETING * time_limit
    placed = placing.place(problem, formula, seed, until, completed)
    if placed is not None:
        placed = Starts.of_methods((placing.FORMULA, placed))
        # heavy atoms make a map probable before the light ones are where they belong
        if explained(problem, placed, placing.FORMULA):
            return placed
    left = None if time_limit is None else max(began + time_limit - time.perf_counter(), 1e-3)
    found = otherwise(left)
    return found if placed is None else Starts.of_methods(("", found), ("", placed))
