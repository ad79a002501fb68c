"""Methods of phasing on crystals of which the truth is known: a case is one crystal, resolution and method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseray.crystal import Crystal
from phaseray.diffraction.grid import Shape
from phaseray.diffraction.scattering import Probe
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.evaluation.metrics import correlation_maps, solved, trivial
from phaseray.evaluation.peaks import atoms_found, moved_onto
from phaseray.phasing.problem import PhaseProblem, density_of, resampled, unit
from phaseray.phasing.solve import METHODS, WITH_FORMULA, atoms_of, judged, solve_starts

TOLD = "+formula"
NAMES = tuple(name for method in METHODS for name in ((method, method + TOLD) if method in WITH_FORMULA else (method,)))
"""Of the methods, and of those that are told the formula."""
FINER = 2
"""Points of the grid that maps are compared on, for each of the grid they are phased on, along each axis."""


@dataclass(frozen=True)
class Task:
    """One crystal at one resolution, to be phased by several methods.

    `measured` holds indices, amplitudes and, where known, their σ, of the whole P1 sphere; None: those of the crystal.
    `methods`: a name that ends in TOLD is the method that is told the formula of the crystal.
    """

    crystal: Crystal
    d_min: float
    methods: tuple[str, ...]
    group: str
    seed: int = 0
    time_limit: float | None = 10.0
    starts: int | None = None
    measured: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64] | None] | None = None
    probe: Probe = Probe.XRAY


@dataclass(frozen=True)
class Case:
    """Outcome of one method on one task; the scores are those of SCIENCE.md.

    `solvable`: the map with the true phases is itself `solved`. Where it is not, atoms are nearer than the
    resolution tells apart, or too light beside the others, and no method can be `solved`.
    `solved_by_maxima`: with the raw maxima of the map for its peaks, ripples among them.
    `map_cc_best` is that of the best start by the truth, as far as a perfect choice of start could get.
    """

    id: str
    group: str
    method: str
    d_min: float
    n_atoms: int
    volume: float
    map_cc: float
    map_cc_best: float
    atoms_found: float | None
    solved: bool
    solved_by_maxima: bool
    trivial: bool
    solvable: bool
    probability: float
    starts: int
    seconds: float


def has_c_and_h(crystal: Crystal) -> bool:
    """What is counted as organic: carbon and hydrogen in it."""
    return "C" in crystal.composition and "H" in crystal.composition


def run_task(task: Task) -> list[Case]:
    """All methods on one crystal, one after the other."""
    crystal = task.crystal
    if task.measured is None:
        problem = PhaseProblem.from_crystal(crystal, task.d_min)
    else:
        problem = _measured(task)
    # maps are compared on a finer grid than they are phased on, so that the best origin is not missed between points
    fine: Shape = tuple(FINER * n for n in problem.shape)  # type: ignore[assignment]
    d_min = problem.d_min * (1 - 1e-6)
    f_true = torch.as_tensor(structure_factor_grid(crystal, problem.shape, d_min, probe=task.probe)).clone()
    f_true[0, 0, 0] = 0

    def map_of(f: Tensor) -> NDArray[np.float32]:
        rho: NDArray[np.float32] = (density_of(resampled(f, problem.shape, fine), fine) / problem.volume).numpy()
        return rho

    def maps(phases: Tensor) -> NDArray[np.float64]:
        """At the origin and hand of the truth."""
        return moved_onto(map_of(problem.structure_factors(phases)), truth)

    truth = map_of(f_true)

    known = resampled(problem.measured, problem.shape, fine).numpy()

    def scores(density: NDArray[np.float64], peaks: Literal["clean", "maxima"] = "clean") -> tuple[float, float | None]:
        table = correlation_maps(density, truth)
        atoms = (crystal.cell, crystal.positions, crystal.numbers)
        match = atoms_found(
            density, truth, *atoms, d_min=problem.d_min, observed=known, correlations=table, peaks=peaks
        )
        return float(table.max()), match.recall

    is_trivial = trivial(scores(maps(torch.ones_like(f_true)))[0])
    is_solvable = solved(*scores(maps(unit(f_true))))
    cases = []
    for method in task.methods:
        began = time.perf_counter()
        plain: Any = method.removesuffix(TOLD)
        formula = atoms_of(crystal.composition) if plain != method else None
        with torch.no_grad():
            found = solve_starts(problem, plain, task.starts, task.seed, task.time_limit, formula)
            solution = judged(problem, found, plain, began)
        chosen = maps(found.phases[solution.start])
        cc, recall = scores(chosen)
        best = max(float(correlation_maps(maps(phases), truth).max()) for phases in found.phases)
        cases.append(
            Case(
                id=crystal.id, group=task.group, method=method, d_min=task.d_min, n_atoms=crystal.n_atoms,
                volume=crystal.volume, map_cc=cc, map_cc_best=best, atoms_found=recall, solved=solved(cc, recall),
                solved_by_maxima=solved(*scores(chosen, "maxima")),
                trivial=is_trivial, solvable=is_solvable, probability=solution.probability, starts=solution.starts,
                seconds=solution.seconds,
            )
        )  # fmt: skip
    return cases


def _measured(task: Task) -> PhaseProblem:
    """With what the space group extinguishes, as `phaseray solve` has it."""
    from phaseray.sources.reflections import Merged, with_absences

    assert task.measured is not None
    hkl, amplitude, sigma = task.measured
    cell, group = task.crystal.cell, task.crystal.space_group
    merged = Merged(hkl, amplitude, sigma, n_unique=0, n_absent=0, r_int=None)
    if group is not None:
        reach = max(task.d_min, PhaseProblem.of(cell, hkl, amplitude).d_min)
        merged = with_absences(merged, cell, group, reach)
    return PhaseProblem.of(cell, merged.hkl, merged.amplitude, d_min=task.d_min, sigma=merged.sigma)


def run_tasks(tasks: Sequence[Task], workers: int) -> Iterator[list[Case]]:
    """Outcomes in the order of the tasks; workers are processes with one thread each."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(run_task, tasks)


def _one_thread() -> None:
    torch.set_num_threads(1)
