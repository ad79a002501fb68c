"""Normalised amplitudes: |E|² = |F|² over its mean in thin shells of resolution (Wilson 1949)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from phaseray.phasing.problem import PhaseProblem

_SHELL = 60  # points of the half grid in a shell, at least
_SHELLS = 20


def normalised(problem: PhaseProblem) -> Tensor:
    """(nx, ny, nz') float32 |E| where |F| is measured, 0 elsewhere.

    The mean of |F|² is that of shells with equally many reflections, its logarithm linear in s² between them.
    With E all atoms are points, as far as the atoms of a crystal fall off alike.
    """
    amplitude = problem.amplitude[problem.measured].double().cpu().numpy()
    s2 = problem.s2[problem.measured].double().cpu().numpy()
    order = np.argsort(s2, kind="stable")
    shells = np.array_split(order, max(1, min(_SHELLS, len(order) // _SHELL)))
    centre = [s2[shell].mean() for shell in shells]
    floor = 1e-6 * (amplitude**2).mean()
    level = [np.log(max((amplitude[shell] ** 2).mean(), floor)) for shell in shells]
    e = amplitude * np.exp(-np.interp(s2, centre, level) / 2)
    out = torch.zeros_like(problem.amplitude)
    out[problem.measured] = torch.as_tensor(e, dtype=out.dtype, device=out.device)
    return out


def sharpened(problem: PhaseProblem, exponent: float) -> Tensor:
    """|F| (|E| / |F|)^exponent on the scale where Σ|F|² over the sphere is 1: 0 gives |F|, 1 gives |E|."""
    amplitude = problem.amplitude
    if exponent:
        amplitude = amplitude * (normalised(problem) / amplitude.clamp_min(1e-30)) ** exponent
    return amplitude / (problem.weight * amplitude.square()).sum().sqrt()
