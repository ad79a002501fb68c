"""Crystals solved by the network of the package, and what their maps looked like on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from phaseray.crystal import Crystal
from phaseray.diffraction.maps import density
from phaseray.evaluation.growth_figure import Growth
from phaseray.evaluation.metrics import map_cc
from phaseray.phasing import network, scoring
from phaseray.phasing.problem import PhaseProblem
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
    problem = PhaseProblem.from_crystal(crystal, d_min)
    kept: dict[int, Tensor] = {}

    def watch(cycle: int, maps: Tensor) -> None:
        if cycle in CYCLES:
            kept[cycle] = maps.clone()

    found = network.solve_starts(problem, starts, seed, watch=watch)
    probability, _ = scoring.judge(problem, found, "network")
    best = int(np.argmax(probability))
    maps = {cycle: rho[best].numpy() for cycle, rho in sorted(kept.items())}
    last = maps[max(maps)]
    truth = density(crystal, last.shape, d_min)
    growth = Growth(crystal.id, crystal.cell, crystal.positions, crystal.numbers, truth, maps)
    return Grown(growth, map_cc(last, truth), float(probability[best]), found.seconds)


def examples(ids: Sequence[str], d_min: float, seed: int = 0) -> list[Grown]:
    """AFLOW prototypes by their ids, one after the other."""
    every = {crystal.id: crystal for crystal in map(prototypes.prototype, range(prototypes.count()))}
    return [grow(every[id].with_default_u_iso(0.02), d_min, seed=seed) for id in ids]
