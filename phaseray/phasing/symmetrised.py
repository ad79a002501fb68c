"""Starts with the symmetry that their maps turned out to have: found, put in, and settled under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseray.phasing import scoring
from phaseray.phasing.problem import PhaseProblem, Starts, resampled, unit
from phaseray.phasing.space_groups import AllowedGroups
from phaseray.phasing.symmetry import AmplitudeSymmetry, Projection

MOST = 4
"""Starts whose symmetry is looked for: the most probable ones with maps of their own."""
LEAST = (0.6, 0.75, 0.85, 0.92)
"""Correlation of a map with its image from which an operation is taken for one, each tried."""
SAME = 0.95
"""Correlation from which on two starts are one map, of which one is enough."""
GROUPS = 12
"""Likely space groups that a map may fit."""

Settle = Callable[[Tensor, Sequence[Projection]], Starts]
"""From unit phases (S, nx, ny, nz') and a projection for each to the starts that come of it."""


def told(problem: PhaseProblem, symmetry: AmplitudeSymmetry, allowed: AllowedGroups, found: Starts) -> Starts:
    """The same starts with three features more.

    symmetry
        Mean over the pairs R, -R of rotations of the amplitudes, of the larger correlation of the map with its
        images: 1 for the truth (`AmplitudeSymmetry.shown`).
    rotations
        log₂ of how many such pairs there are: how much `symmetry` says.
    allowed
        Correlation of the map with its images under that of the likely space groups which it fits best: a wrong map
        may show operations that the absences forbid. 1 where P1 is likely, and of starts that are under such a group.
    """
    f = resampled(problem.amplitude * found.phases, problem.shape, symmetry.problem.shape)
    rotations = np.full(len(found), np.log2(len(symmetry.rotations) / 2))
    fits = allowed.symmetry.fits(f, allowed.likely[:GROUPS])
    more = {"symmetry": symmetry.shown(f), "rotations": rotations, "allowed": fits}
    return replace(found, features={**found.features, **more})


def with_symmetry(
    problem: PhaseProblem,
    symmetry: AmplitudeSymmetry,
    found: Starts,
    probability: NDArray[np.float64],
    settle: Settle,
    most: int = MOST,
) -> Starts | None:
    """The maps of some starts with their symmetry put in; None where they have none.

    Parameters
    ----------
    symmetry : of the problem, on the grid that the projections of `settle` work on
    probability : (S,) of the starts, which decides whose symmetry is looked for

    Returns
    -------
    Starts with the feature "order", whose `parent` counts the starts of `found`.
    """
    alike = scoring.likeness(problem, found.phases).cpu().numpy()
    chosen: list[int] = []
    for start in (-probability).argsort():
        if len(chosen) < most and all(alike[start, other] < SAME for other in chosen):
            chosen.append(int(start))
    small = resampled(problem.amplitude * found.phases[chosen], problem.shape, symmetry.problem.shape)
    groups = [(start, group) for start, f in zip(chosen, small, strict=True) for group in symmetry.groups(f, LEAST)]
    if not groups:
        return None
    parents = [start for start, _ in groups]
    settled = settle(found.phases[parents], [symmetry.projection(group) for _, group in groups])
    order = np.log2([len(group) for _, group in groups])
    return replace(settled, features={**settled.features, "order": order}, parent=np.array(parents, np.int64))


def averaged(problem: PhaseProblem, found: Starts, method: str) -> Starts:
    """The starts of a method without a network, and after them the best one with its symmetry put in."""
    symmetry = AmplitudeSymmetry(problem)

    def settle(phases: Tensor, projections: Sequence[Projection]) -> Starts:
        means = [p(problem.structure_factors(phi)) for p, phi in zip(projections, phases, strict=True)]
        return Starts(torch.stack([torch.where(problem.measured, unit(f), 1) for f in means]))

    probability = scoring.judge(problem, found, method)[0]
    more = with_symmetry(problem, symmetry, found, probability, settle, most=1)
    return found if more is None else joined([found], [more])


def joined(found: Sequence[Starts], cleared: Sequence[Starts] = ()) -> Starts:
    """All starts one after the other, and then what was made of them, whose parents count all starts."""
    parts = [*(_with_order(f) for f in found), *cleared]
    starts = sum(map(len, found))
    solved = None
    if all(f.solved is not None for f in found):
        own = np.concatenate([np.asarray(f.solved) for f in found])
        solved = np.concatenate([own, *(own[f.parents] for f in cleared)])
    return Starts(
        phases=torch.cat([f.phases for f in parts]),
        features={name: np.concatenate([f.features[name] for f in parts]) for name in parts[0].features},
        solved=solved,
        cycles=sum(f.cycles for f in parts),
        seconds=sum(f.seconds for f in parts),
        parent=np.concatenate([np.arange(starts), *(f.parents for f in cleared)]),
    )


def _with_order(found: Starts) -> Starts:
    if "order" in found.features:
        return found
    return replace(found, features={**found.features, "order": np.zeros(len(found))})
