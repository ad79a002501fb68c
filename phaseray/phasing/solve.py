"""solve_map: from a list of amplitudes to a density, by any of the methods."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from phaseray.diffraction.grid import Shape
from phaseray.phasing import scoring
from phaseray.phasing.problem import PhaseProblem, Starts

Method = Literal["network", "charge_flipping", "rrr", "zero", "hybrid"]
METHODS: tuple[Method, ...] = get_args(Method)
STARTS: dict[Method, int] = {"network": 8, "hybrid": 8, "charge_flipping": 16, "rrr": 16, "zero": 1}
ROUNDS = 4
"""As often the network tries so many starts anew, unless told how many: until one of them is ENOUGH."""
ENOUGH = 0.9
"""Probability at which a start is taken for the solution."""


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
        That the map is right (map_cc ≥ 0.8), calibrated on crystals of which the truth is known.
    seconds : float
    method : str
    features : name → float
        What the score was made of.
    starts : int
    agreeing : int
        Starts that arrived at the same map (correlation ≥ 0.8), this one among them.
    start : int
        Which of the starts this is.
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
        "network": learned cleaning of maps; "charge_flipping"; "rrr"; "hybrid": the first two in turn;
        "zero": all phases 0.
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
    began = time.perf_counter()
    problem = PhaseProblem.of(cell, hkl, amplitude, d_min=d_min, sigma=sigma, device=device)
    with torch.no_grad():
        found = solve_starts(problem, method, starts, seed, time_limit)
        return judged(problem, found, method, began)


def solve_starts(
    problem: PhaseProblem, method: Method, starts: int | None, seed: int, time_limit: float | None
) -> Starts:
    """All starts of one method; without a number, as many as suit it."""
    rounds = ROUNDS if starts is None else 1
    starts = starts or STARTS[method]
    if method == "zero":
        from phaseray.phasing import zero_phase

        return zero_phase.solve_starts(problem)
    if method == "charge_flipping":
        from phaseray.phasing import charge_flipping

        return charge_flipping.solve_starts(problem, starts, seed, time_limit)
    if method == "rrr":
        from phaseray.phasing import rrr

        return rrr.solve_starts(problem, starts, seed, time_limit)
    if method == "hybrid":
        return _hybrid(problem, starts, rounds, seed, time_limit)
    return _network(problem, starts, rounds, seed, time_limit)


def _network(problem: PhaseProblem, starts: int, rounds: int, seed: int, time_limit: float | None) -> Starts:
    """Rounds of as many starts each, until one of them is probably right."""
    from phaseray.phasing import network

    began = time.perf_counter()
    found: list[Starts] = []
    for number in range(rounds):
        left = None if time_limit is None else time_limit - (time.perf_counter() - began)
        # a round cut short is worth nothing
        if found and left is not None and left < found[0].seconds:
            break
        own = seed if not number else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        found.append(network.solve_starts(problem, starts, own, left, problem.device))
        together = _joined(found)
        if number + 1 < rounds and scoring.judge(problem, together, "network")[0].max() >= ENOUGH:
            break
    return together


def _joined(found: list[Starts]) -> Starts:
    return Starts(
        phases=torch.cat([f.phases for f in found]),
        features={name: np.concatenate([f.features[name] for f in found]) for name in found[0].features},
        cycles=sum(f.cycles for f in found),
        seconds=sum(f.seconds for f in found),
    )


def _hybrid(problem: PhaseProblem, starts: int, rounds: int, seed: int, time_limit: float | None) -> Starts:
    """Charge flipping, for half of the time; where it has no probable solution, the network as well."""
    from phaseray.phasing import charge_flipping

    half = None if time_limit is None else time_limit / 2
    flipped = charge_flipping.solve_starts(problem, STARTS["charge_flipping"], seed, half)
    if flipped.solved is not None and flipped.solved.any():
        return flipped
    rest = None if time_limit is None else max(time_limit - flipped.seconds, 1e-3)
    learned = _network(problem, starts, rounds, seed, rest)
    # features that only one of the two knows cannot judge both
    return Starts(
        phases=torch.cat([flipped.phases, learned.phases]),
        cycles=flipped.cycles + learned.cycles,
        seconds=flipped.seconds + learned.seconds,
    )


def judged(problem: PhaseProblem, found: Starts, method: str, began: float) -> Solution:
    """The start that is most probably right, as a solution."""
    probability, table = scoring.judge(problem, found, method)
    best = int(probability.argmax())
    density = problem.density(found.phases[best]).cpu().numpy()
    p = float(probability[best])
    return Solution(
        density=density,
        grid=problem.shape,
        phases=problem.phases_of_hkl(found.phases[best]),
        score=float(np.log(p / (1 - p))),
        probability=p,
        seconds=time.perf_counter() - began,
        method=method,
        features={name: float(np.broadcast_to(values, probability.shape)[best]) for name, values in table.items()},
        starts=len(found),
        start=best,
        agreeing=int((scoring.correlations(problem, found.phases, best) >= scoring.SAME_MAP).sum()),
    )
