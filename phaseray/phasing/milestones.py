"""Iterating until a solution is there: at milestones a finished copy of every start is scored without the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from phaseray.phasing import scoring
from phaseray.phasing.problem import AXES, PhaseProblem, Starts, resampled, unit

_BETWEEN_CLOCKS = 20


class Iteration(Protocol):
    """All starts of one method, on a grid of their own."""

    problem: PhaseProblem

    def run(self, cycles: int) -> None:
        """Go on for so many cycles."""

    def phases(self) -> Tensor:
        """Unit phases (S, nx, ny, nz') as they are."""


@dataclass(frozen=True)
class Schedule:
    """When to look, and when to end.

    Attributes
    ----------
    first : cycles before the first milestone; each next one is at twice as many
    cycles : at most
    finishing : cycles of low-density elimination at a milestone
    enough : probability at which the run ends
    """

    first: int = 50
    cycles: int = 3200
    finishing: int = 40
    enough: float = 0.95


SCHEDULE = Schedule()


def until_solved(
    problem: PhaseProblem, iteration: Iteration, schedule: Schedule, time_limit: float | None = None
) -> Starts:
    """Run, look, and go on until a start is probably right, the cycles are used up, or the time is.

    Parameters
    ----------
    time_limit : float, optional
        Seconds. The result then depends on the speed of the machine; without, the same seed gives the same bytes.

    Returns
    -------
    Starts
        The finished copy of each start at the milestone where it scored best; `solved` where its probability
        is `schedule.enough` or more.
    """
    began = time.perf_counter()
    work = iteration.problem
    best: Tensor | None = None
    probability = np.empty(0)
    done, stop = 0, min(schedule.first, schedule.cycles)

    def late() -> bool:
        return time_limit is not None and time.perf_counter() - began > time_limit

    while True:
        while done < stop and not late():
            steps = min(_BETWEEN_CLOCKS, stop - done)
            iteration.run(steps)
            done += steps
        phases = finish(problem, resampled(iteration.phases(), work.shape, problem.shape), schedule.finishing)
        now = scoring.probability(scoring.features(problem, phases), d_min=problem.d_min, named="charge_flipping")
        if best is None:
            best, probability = phases, now
        else:
            better = torch.as_tensor(now > probability, device=phases.device).reshape(-1, 1, 1, 1)
            best, probability = torch.where(better, phases, best), np.maximum(now, probability)
        if done >= schedule.cycles or probability.max() >= schedule.enough or late():
            break
        stop = min(2 * stop, schedule.cycles)
    return Starts(
        # methods work in the hand that saves them the conjugates
        phases=torch.conj_physical(best),
        solved=probability >= schedule.enough,
        cycles=done,
        seconds=time.perf_counter() - began,
    )


def finish(problem: PhaseProblem, phases: Tensor, cycles: int) -> Tensor:
    """Low-density elimination: what is below the mean of the map is set to 0, measured amplitudes put back, and again.

    Shiono & Woolfson (1992), Acta Cryst. A48, 451, in its plainest form. Reflections beyond d_min are taken
    as they come of it ("free lunch", Caliandro et al. 2005, Acta Cryst. D61, 556): a map of atoms cut off at d_min has
    ripples below zero, which is no fault of its phases.
    """
    beyond = (~problem.measured).to(problem.amplitude.dtype)
    beyond[0, 0, 0] = 0
    f = problem.amplitude * phases
    for _ in range(cycles):
        rho = torch.fft.irfftn(f, s=problem.shape, dim=AXES, norm="forward")
        g = torch.fft.rfftn(rho.clamp_min_(0), dim=AXES, norm="forward")
        f = g * (problem.amplitude * torch.rsqrt(torch.view_as_real(g).square().sum(-1) + 1e-30) + beyond)
    return unit(f)
