"""Charge flipping: from random phases to a solution by changing the sign of what is small in the map.

A cycle (Oszlányi & Sütő 2004, Acta Cryst. A60, 134): the map of measured amplitudes and present phases; every
point below δ = kσ changes its sign, σ being the spread of the map at hand; its transform gives the next phases.
F(000) is what comes of it. The phases of the weakest reflections are moved by 90° and their amplitudes
left as they come (Oszlányi & Sütő 2005, Acta Cryst. A61, 147). Half of the starts work with normalised amplitudes E.
What suits one crystal fails on the next, so the starts of a batch differ in k and in the amplitudes, all in one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phaseray.diffraction.grid import Shape
from phaseray.phasing.milestones import SCHEDULE, Schedule, until_solved
from phaseray.phasing.problem import AXES, PhaseProblem, Starts, grid_shape, unit
from phaseray.phasing.wilson import sharpened


@dataclass(frozen=True)
class Settings:
    """How charge flipping works.

    Attributes
    ----------
    thresholds : k in δ = kσ; the starts take them in turn
    sharpening : exponents x of the amplitudes |F| (|E| / |F|)^x: 0 plain, 1 normalised; in turn, too
    weak : share of the reflections whose phases are moved by 90°
    schedule : milestones
    points_per_d_min : of the grid that flipping works on: coarser than that of the map, for speed
    """

    thresholds: tuple[float, ...] = (0.9, 1.0, 1.1, 1.2)
    sharpening: tuple[float, ...] = (0.0, 1.0)
    weak: float = 0.2
    schedule: Schedule = SCHEDULE
    points_per_d_min: float = 2.1


def solve_starts(
    problem: PhaseProblem,
    starts: int = 16,
    seed: int = 0,
    time_limit: float | None = None,
    settings: Settings | None = None,
) -> Starts:
    """Charge flipping from `starts` random beginnings at once; `milestones.until_solved` says when it ends."""
    settings = settings or Settings()
    return until_solved(problem, Flipper(problem, starts, seed, settings), settings.schedule, time_limit)


class Flipper:
    """The state of all starts: half grids of F, on a grid of its own."""

    def __init__(self, problem: PhaseProblem, starts: int, seed: int, settings: Settings) -> None:
        self.problem = problem = problem.on_grid(grid_shape(problem.cell, problem.d_min, settings.points_per_d_min))
        pairs = [(k, x) for x in settings.sharpening for k in settings.thresholds]
        chosen = [pairs[i % len(pairs)] for i in range(starts)]
        self.k = torch.tensor([k for k, _ in chosen], device=problem.device).reshape(-1, 1, 1, 1)
        amplitudes = {x: sharpened(problem, x) for _, x in chosen}
        weak = {x: weakest(problem, amplitude, settings.weak) for x, amplitude in amplitudes.items()}
        start = torch.stack([amplitudes[x] for _, x in chosen])
        weak_s = torch.stack([weak[x] for _, x in chosen])
        self.strong = start * ~weak_s
        # what a reflection's own value is multiplied with: i for the weak, 1 for those not measured, 0 for others
        self.own: Tensor = weak_s * 1j + problem.missing
        self.own[:, 0, 0, 0] = 1
        self.f = start * problem.random_phases(starts, seed)

    def run(self, cycles: int) -> None:
        shape: Shape = self.problem.shape
        for _ in range(cycles):
            rho = torch.fft.irfftn(self.f, s=shape, dim=AXES, norm="forward")
            delta = self.k * rho.flatten(1).std(1).reshape(-1, 1, 1, 1)
            g = torch.fft.rfftn(torch.where(rho > delta, rho, -rho), dim=AXES, norm="forward")
            square = torch.view_as_real(g).square().sum(-1)
            self.f = g * (self.strong * torch.rsqrt(square + 1e-24) + self.own)

    def phases(self) -> Tensor:
        return unit(self.f)


def weakest(problem: PhaseProblem, amplitude: Tensor, share: float) -> Tensor:
    """Half grid, True for this share of the measured reflections, the smallest."""
    values = amplitude[problem.measured].sort().values
    limit = values[min(int(share * len(values)), len(values) - 1)]
    return problem.measured & (amplitude < limit)
