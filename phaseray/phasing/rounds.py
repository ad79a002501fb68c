"""The network in rounds of starts, each with the symmetry of its best maps put in, alone and after charge flipping."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseray.phasing import charge_flipping, network, scoring
from phaseray.phasing.problem import PhaseProblem, Starts
from phaseray.phasing.symmetrised import averaged, joined, told, with_symmetry
from phaseray.phasing.symmetry import AmplitudeSymmetry, Projection

ROUNDS = 4
"""As often the network tries so many starts anew, unless told how many: until one of them is ENOUGH."""
ENOUGH = 0.9
"""Probability at which a start is taken for the solution."""
FLIPPED = 16
"""Starts of charge flipping before those of the network."""


def network_rounds(
    problem: PhaseProblem,
    starts: int,
    rounds: int,
    seed: int,
    time_limit: float | None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Starts:
    """All starts of all rounds, and after them those with their symmetry, until one is probably right.

    `watch` is that of `network.solve_starts`, once a round.
    """
    began = time.perf_counter()
    symmetry = AmplitudeSymmetry(network.on_network_grid(problem))
    found: list[Starts] = []
    cleared: list[Starts] = []

    def left() -> float | None:
        return None if time_limit is None else time_limit - (time.perf_counter() - began)

    def settle(phases: Tensor, projections: Sequence[Projection]) -> Starts:
        return told(problem, symmetry, network.settle(problem, phases, projections, left()))

    for number in range(rounds):
        remaining = left()
        # a round cut short is worth nothing
        if found and remaining is not None and remaining < found[0].seconds:
            break
        own = seed if not number else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        new = network.solve_starts(problem, starts, own, remaining, problem.device, watch=watch)
        found.append(told(problem, symmetry, new))
        probable = scoring.judge(problem, joined(found), "network")[0][-starts:]
        remaining = left()
        if remaining is None or remaining > 0:
            more = with_symmetry(problem, symmetry, found[-1], probable, settle)
            if more is not None:
                cleared.append(replace(more, parent=more.parents + number * starts))
        together = joined(found, cleared)
        if number + 1 < rounds and scoring.judge(problem, together, "network")[0].max() >= ENOUGH:
            break
    return together


def hybrid(problem: PhaseProblem, starts: int, rounds: int, seed: int, time_limit: float | None) -> Starts:
    """Charge flipping, for half of the time; where it has no probable solution, the network as well."""
    half = None if time_limit is None else time_limit / 2
    flipped = charge_flipping.solve_starts(problem, FLIPPED, seed, half)
    flipped = averaged(problem, flipped, "charge_flipping")
    if scoring.judge(problem, flipped, "charge_flipping")[0].max() >= ENOUGH:
        return flipped
    rest = None if time_limit is None else max(time_limit - flipped.seconds, 1e-3)
    learned = network_rounds(problem, starts, rounds, seed, rest)
    n = len(flipped)
    return Starts(
        phases=torch.cat([flipped.phases, learned.phases]),
        features=_of_both(flipped, learned),
        cycles=flipped.cycles + learned.cycles,
        seconds=flipped.seconds + learned.seconds,
        parent=np.concatenate([flipped.parents, learned.parents + n]),
        made_by=(("charge_flipping", n), ("network", len(learned))),
    )


def _of_both(first: Starts, second: Starts) -> dict[str, NDArray[np.float64]]:
    def values(starts: Starts, name: str) -> NDArray[np.float64]:
        return np.asarray(starts.features.get(name, np.full(len(starts), np.nan)), float)

    names = {**first.features, **second.features}
    return {name: np.concatenate([values(first, name), values(second, name)]) for name in names}
