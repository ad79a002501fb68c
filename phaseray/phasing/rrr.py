"""RRR: relaxed reflect-reflect, a difference map with an atomicity constraint, as a second method beside flipping.

    ρ ← ρ + β [P_A(2 P_B(ρ) - ρ) - P_B(ρ)]

P_A puts the measured amplitudes back; P_B keeps the densest share of the points, as far as they are positive,
and sets all others to 0: atoms fill little of a cell (Elser, Lan & Bendory 2018, SIAM J. Imaging Sci. 11, 2429).
The starts differ in that share and in how normalised the amplitudes are. Milestones are those of charge flipping.
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
    """How RRR works.

    Attributes
    ----------
    beta : length of a step; 1 is the difference map's
    shares : of the points that atoms may fill; the starts take them in turn
    sharpening : as for charge flipping
    schedule, points_per_d_min : as for charge flipping
    """

    beta: float = 0.7
    shares: tuple[float, ...] = (0.05, 0.1, 0.15, 0.25)
    sharpening: tuple[float, ...] = (0.0, 1.0)
    schedule: Schedule = SCHEDULE
    points_per_d_min: float = 2.1


def solve_starts(
    problem: PhaseProblem,
    starts: int = 16,
    seed: int = 0,
    time_limit: float | None = None,
    settings: Settings | None = None,
) -> Starts:
    """RRR from `starts` random beginnings at once; see `charge_flipping.solve_starts`."""
    settings = settings or Settings()
    return until_solved(problem, _Reflector(problem, starts, seed, settings), settings.schedule, time_limit)


class _Reflector:
    def __init__(self, problem: PhaseProblem, starts: int, seed: int, settings: Settings) -> None:
        self.problem = problem = problem.on_grid(grid_shape(problem.cell, problem.d_min, settings.points_per_d_min))
        pairs = [(share, x) for x in settings.sharpening for share in settings.shares]
        chosen = [pairs[i % len(pairs)] for i in range(starts)]
        points = problem.shape[0] * problem.shape[1] * problem.shape[2]
        places = [[min(points - 1, round((1 - share) * points))] for share, _ in chosen]
        self.place = torch.tensor(places, device=problem.device)
        self.beta = settings.beta
        tables = {x: sharpened(problem, x) for _, x in chosen}
        self.amplitude = torch.stack([tables[x] for _, x in chosen])
        self.rho = self._map(self.amplitude * problem.random_phases(starts, seed))

    def run(self, cycles: int) -> None:
        for _ in range(cycles):
            atoms = self._atoms(self.rho)
            self.rho += self.beta * (self._measured(2 * atoms - self.rho) - atoms)

    def phases(self) -> Tensor:
        return unit(torch.fft.rfftn(self._atoms(self.rho), dim=AXES, norm="forward"))

    def _atoms(self, rho: Tensor) -> Tensor:
        flat = rho.flatten(1)
        limit = flat.sort(1).values.gather(1, self.place).clamp_min(0)
        return torch.where(flat >= limit, flat, 0).reshape(rho.shape)

    def _measured(self, rho: Tensor) -> Tensor:
        g = torch.fft.rfftn(rho, dim=AXES, norm="forward")
        size = torch.view_as_real(g).square().sum(-1)
        f = g * (self.amplitude * torch.rsqrt(size + 1e-24) + self.problem.missing)
        f[:, 0, 0, 0] = g[:, 0, 0, 0]
        return self._map(f)

    def _map(self, f: Tensor) -> Tensor:
        shape: Shape = self.problem.shape
        rho: Tensor = torch.fft.irfftn(f, s=shape, dim=AXES, norm="forward")
        return rho
