"""All phases zero: the stop-gap that any method must beat."""

from __future__ import annotations

import torch

from phaseray.phasing.problem import PhaseProblem, Starts


def solve_starts(problem: PhaseProblem) -> Starts:
    """One start, all of whose phases are 0."""
    phases = torch.ones((1, *problem.amplitude.shape), dtype=torch.complex64, device=problem.device)
    return Starts(phases)
