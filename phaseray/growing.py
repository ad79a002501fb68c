"""Crystals solved by the network of the package, and what their maps looked like on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phaseray.crystal import Crystal
from phaseray.diffraction.grid import Shape
from phaseray.diffraction.maps import density
from phaseray.evaluation.growth_figure import Growth, Maps
from phaseray.evaluation.metrics import map_cc
from phaseray.phasing import network
from phaseray.phasing.benchmark import FINER
from phaseray.phasing.completion import METHOD as ATOMS
from phaseray.phasing.problem import PhaseProblem, density_of, half_grid_of, resampled
from phaseray.phasing.rounds import ROUNDS, network_rounds
from phaseray.phasing.solve import judged
from phaseray.sources import prototypes

CYCLES = (0, 2, 5, 10, 20, 40, 60)


class Grown(NamedTuple):
    """A crystal solved: its maps on the way, and the outcome."""

    growth: Growth
    map_cc: float
    probability: float
    seconds: float


def grow(crystal: Crystal, d_min: float, *, seed: int = 0, starts: int = 8) -> Grown:
    """Phase the amplitudes of a known crystal with the network of the package, keeping what is seen on the way."""
    began = time.perf_counter()
    problem = PhaseProblem.from_crystal(crystal, d_min)
    kept: list[dict[int, Tensor]] = []

    def watch(cycle: int, maps: Tensor) -> None:
        if cycle == 0:
            kept.append({})
        if cycle in CYCLES:
            kept[-1][cycle] = maps.clone()

    with torch.no_grad():
        found = network_rounds(problem, starts, ROUNDS, seed, None, watch=watch)
        solution = judged(problem, found, "network", began)
    parent = int(found.parents[solution.start])
    shape = network.on_network_grid(problem).shape
    # maps compared by whole points of this grid can be half a point off, which costs a tenth of the correlation
    fine: Shape = tuple(FINER * n for n in shape)  # type: ignore[assignment]

    def finer(f: Tensor, old: Shape) -> Maps:
        rho: Maps = density_of(resampled(f, old, fine), fine).numpy()
        return rho

    maps = {c: finer(half_grid_of(rho[parent % starts]), shape) for c, rho in sorted(kept[parent // starts].items())}
    last = ""
    if solution.start != parent:
        of_atoms = found.makers[solution.start] == ATOMS
        last = "atoms" if of_atoms else f"symmetry ({round(2 ** solution.features['order'])})"
        f = problem.structure_factors(found.phases[solution.start])
        maps[max(maps) + network.Settings().settling] = finer(f, problem.shape)
    final = maps[max(maps)]
    truth = density(crystal, final.shape, d_min)
    growth = Growth(crystal.id, crystal.cell, crystal.positions, crystal.numbers, truth, maps, last)
    return Grown(growth, map_cc(final, truth), solution.probability, solution.seconds)


def examples(ids: Sequence[str], d_min: float, seed: int = 0) -> list[Grown]:
    """AFLOW prototypes by their ids, one after the other."""
    every = {crystal.id: crystal for crystal in map(prototypes.prototype, range(prototypes.count()))}
    return [grow(every[id].with_default_u_iso(0.02), d_min, seed=seed) for id in ids]
