"""solve_map: from a list of amplitudes to a density, by any of the methods."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from phaseray.diffraction.grid import Shape
from phaseray.phasing import scoring
from phaseray.phasing.atom_model import HEAVIEST
from phaseray.phasing.completion import METHOD as ATOMS
from phaseray.phasing.placing import FORMULA, GUESSES
from phaseray.phasing.problem import PhaseProblem, Starts
from phaseray.phasing.rounds import FLIPPED, ROUNDS, hybrid, network_rounds, placed_first
from phaseray.phasing.symmetrised import averaged
from phaseray.phasing.verdict import verdict

Method = Literal["network", "charge_flipping", "rrr", "zero", "hybrid"]
METHODS: tuple[Method, ...] = get_args(Method)
WITH_FORMULA: tuple[Method, ...] = ("network", "hybrid")
"""Those that know what to do with one."""
STARTS: dict[Method, int] = {"network": 8, "hybrid": 8, "charge_flipping": FLIPPED, "rrr": 16, "zero": 1}

DOUBLING = {"misfit": 0.1, "residual": 0.01}
"""Share of the network's misfit, or else of charge flipping's residual, that a doubling of the group may cost.

The residual knows atoms less well: a false centre of inversion between nearly equal halves hardly changes it.
"""
IN_QUESTION = 0.1
"""Share of the best odds from which on atoms are in question: among them the criterion decides, not the probability."""
_SURE = 1e-6


@dataclass(frozen=True, eq=False)
class Solution:
    """What `solve_map` found: the best of its starts, chosen without the truth.

    Attributes
    ----------
    density : (nx, ny, nz) float32
        e/Å³ on the scale of the amplitudes, the mean 0, as F(000) is not measured; the whole cell in P1, its
        origin and hand as they came.
    grid : (nx, ny, nz)
    phases : (n,) float64
        Degrees in [0, 360), of each reflection as given; NaN beyond d_min.
    score : float
        The log-odds of `probability`.
    probability : float
        That the map is right (map_cc ≥ 0.8), calibrated on crystals of which the truth is known. The network's
        takes in what else was found, alike and not (`verdict`).
    seconds : float
    method : str
    features : name → float
        What the score was made of.
    starts : int
        Random beginnings that were tried: 0 where the atoms of the formula were enough.
    agreeing : int
        Starts that arrived at the same map (correlation ≥ 0.8), this one among them.
    start : int
        Which of the starts, or after them of those with their symmetry put in, this is.
    """

    density: NDArray[np.float32]
    grid: Shape
    phases: NDArray[np.float64]
    score: float
    probability: float
    seconds: float
    method: str
    features: dict[str, float]
    starts: int
    agreeing: int
    start: int = 0


def solve_map(
    cell: ArrayLike,
    hkl: ArrayLike,
    amplitude: ArrayLike,
    *,
    method: Method = "network",
    starts: int | None = None,
    seed: int = 0,
    time_limit: float | None = None,
    device: str | torch.device | None = None,
    d_min: float | None = None,
    sigma: ArrayLike | None = None,
    formula: str | Mapping[str, float] | None = None,
) -> Solution:
    """The electron density of a crystal from the amplitudes of its reflections alone, whatever its space group.

    Parameters
    ----------
    cell : (6,)
        Å and degrees.
    hkl : (n, 3)
        Whole numbers; all reflections of the P1 sphere, or one of each Friedel pair.
    amplitude : (n,)
        |F| on any scale, not intensities.
    method
        "network": learned cleaning of maps, and atoms fitted to the amplitudes where its maps show them, or
        where a guess leads to them; "charge_flipping"; "rrr"; "hybrid": charge flipping with such atoms, then the
        network; "zero": all phases 0.
    starts : int, optional
        Random beginnings, all at once; without: as many as suit the method. The network then tries 8, and up to 24
        more where none of them is probably right.
    seed : int
        The same seed gives the same result on the CPU, unless `time_limit` cuts it.
    time_limit : float, optional
        Seconds.
    device : optional
        Of torch: "cpu" (without), "cuda", …
    d_min : float, optional
        Å; reflections beyond are not used. Without: all are.
    sigma : (n,), optional
        Standard uncertainties of the amplitudes.
    formula : optional
        What the crystal is made of, "Mg2SiO4" or {"Mg": 2, "Si": 1, "O": 4}, for "network" and "hybrid": before
        the network is asked its atoms are placed in the space groups that the amplitudes allow, fitted to them and
        completed. How many formula units the cell holds need not be known. Equivalents that were not merged want
        their `sigma`: without, they seem to differ.

    Raises
    ------
    ValueError
        Input that cannot be phased, or a method that is not known; the message says why.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; there are: {', '.join(METHODS)}")
    if starts is not None and starts < 1:
        raise ValueError(f"starts must be at least 1, not {starts}")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be above 0 s, not {time_limit}")
    if formula is not None and method not in WITH_FORMULA:
        raise ValueError(f"a formula helps {' and '.join(WITH_FORMULA)} only, not {method}: leave it out")
    began = time.perf_counter()
    contents = None if formula is None else atoms_of(formula)
    problem = PhaseProblem.of(cell, hkl, amplitude, d_min=d_min, sigma=sigma, device=device)
    with torch.no_grad():
        found = solve_starts(problem, method, starts, seed, time_limit, contents)
        return judged(problem, found, method, began)


def atoms_of(formula: str | Mapping[str, float]) -> dict[int, int]:
    """Atomic number → number of atoms, whole and without common divisor, the heavy ones first.

    Parts are rounded to twelfths at the least: Fe0.95O is FeO. ValueError if it is no formula.
    """
    from pymatgen.core import Composition, Element

    try:
        composition = Composition(formula).element_composition
        if not all(isinstance(element, Element) for element in composition):
            raise ValueError("it has symbols of no element")
        whole = Composition(composition.get_integer_formula_and_factor(max_denominator=12)[0])
        found = {int(element.Z): round(amount) for element, amount in whole.items()}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{formula!r} is no chemical formula, such as Mg2SiO4: {error}") from None
    if not found:
        raise ValueError("the formula is empty; write it as Mg2SiO4, or leave it out")
    lost = [element.symbol for element in composition if not found.get(element.Z)]
    if lost:
        raise ValueError(f"there is too little of {', '.join(lost)} in {formula!r} to be placed: leave it out")
    if max(found) > HEAVIEST:
        raise ValueError(f"the formula {formula!r} has an element beyond number {HEAVIEST}, which has no form factor")
    divisor = gcd(*found.values())
    return {z: n // divisor for z, n in sorted(found.items(), reverse=True)}


def solve_starts(
    problem: PhaseProblem,
    method: Method,
    starts: int | None,
    seed: int,
    time_limit: float | None,
    formula: Mapping[int, int] | None = None,
) -> Starts:
    """All starts of one method; without a number, as many as suit it. The formula is `atoms_of` what the user gave."""
    if formula is not None and method == "network":
        return placed_first(
            problem, formula, seed, time_limit, lambda left: solve_starts(problem, method, starts, seed, left)
        )
    rounds = ROUNDS if starts is None else 1
    starts = starts or STARTS[method]
    if method == "zero":
        from phaseray.phasing import zero_phase

        return zero_phase.solve_starts(problem)
    if method == "charge_flipping":
        from phaseray.phasing import charge_flipping

        return averaged(problem, charge_flipping.solve_starts(problem, starts, seed, time_limit), method)
    if method == "rrr":
        from phaseray.phasing import rrr

        return averaged(problem, rrr.solve_starts(problem, starts, seed, time_limit), method)
    if method == "hybrid":
        return hybrid(problem, starts, rounds, seed, time_limit, formula)
    return network_rounds(problem, starts, rounds, seed, time_limit)


def judged(problem: PhaseProblem, found: Starts, method: str, began: float) -> Solution:
    """The start that is most probably right, as a solution; of what was made of it, the one of `finest`."""
    probability, table = scoring.judge(problem, found, method)
    best = finest(found.parents, probability, table, found.makers)
    density = problem.density(found.phases[best]).cpu().numpy()
    starts = found.parents == np.arange(len(found))
    alike = scoring.correlations(problem, found.phases, best)
    p, beside = verdict(found, probability, alike, best)
    same = alike.cpu().numpy() >= scoring.SAME_MAP
    return Solution(
        density=density,
        grid=problem.shape,
        phases=problem.phases_of_hkl(found.phases[best]),
        score=float(np.log(p / (1 - p))),
        probability=p,
        seconds=time.perf_counter() - began,
        method=method,
        features={name: float(v[best]) for name, v in table.items() if np.isfinite(v[best])} | beside,
        starts=int(starts.sum()),
        start=best,
        agreeing=int((same & starts).sum()),
    )


def finest(
    parents: NDArray[np.int64],
    probability: NDArray[np.float64],
    table: scoring.Features,
    makers: NDArray[np.str_] | None = None,
) -> int:
    """Which start to take: the best of the atoms that are in question, or else the finest map of the most probable.

    Atoms, found in a map, of a formula or guessed, stand for themselves. Where their odds are at least IN_QUESTION of
    those of the most probable start they come before maps, and of several those with the best criterion are taken:
    where both are right the map of the atoms has the smaller errors, and what explains the amplitudes of one crystal
    better is right more often, whatever crystals of other sizes say of its probability.

    A map and the same map with its symmetry are right or wrong together, and the probability hardly tells them
    apart; the true symmetry leaves the misfit much as it is, a false one does not. Each doubling of the group may
    cost DOUBLING of it.
    """
    makers = np.full(len(parents), "") if makers is None else makers
    of_atoms = np.isin(makers, (ATOMS, FORMULA, GUESSES))
    clipped = probability.clip(_SURE, 1 - _SURE)
    odds = clipped / (1 - clipped)
    in_question = of_atoms & (odds >= IN_QUESTION * odds.max())
    if in_question.any():
        return int(np.where(in_question, table["criterion"], np.inf).argmin())
    best = int(probability.argmax())
    family = np.flatnonzero((parents == parents[best]) & (makers == makers[best]))
    name = "misfit" if "misfit" in table and np.isfinite(table["misfit"][family]).all() else "residual"
    misfit = np.asarray(table[name])[family]
    order = np.nan_to_num(np.asarray(table.get("order", np.zeros(len(parents))))[family])
    return int(family[(np.log(misfit.clip(1e-6)) - np.log1p(DOUBLING[name]) * order).argmin()])
