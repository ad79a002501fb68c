"""How good a finished start is, from what is known without the truth.

Every feature is a number a start. A method may know more about its starts than is computed here (the misfit of a
network's amplitudes): features are a dictionary, and a calibration names those it uses.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseray.phasing import calibration
from phaseray.phasing.problem import AXES, PhaseProblem, Starts, grid_shape, resampled

Features = dict[str, NDArray[np.float64]]

SAME_MAP = 0.8
"""Correlation from which on two maps are taken for the same."""
_FLAT = 1e-5  # spread over size, below which all amplitudes are equal
_ROUGH = 3.0  # points per d_min of the grid on which all pairs of starts are compared


def features(problem: PhaseProblem, phases: Tensor, parents: NDArray[np.int64] | None = None) -> Features:
    """Features of unit phases (S, nx, ny, nz'), each (S,).

    `parents` are those of `Starts`, the starts themselves first: what was made of one start does not confirm it. What
    was made of none stands for itself.

    residual
        R of the amplitudes of the positive part of the map against the measured ones: what charge flipping
        calls its residual. Small for a solution, whose map hardly changes.
    skewness, kurtosis
        Of the map: atoms stand out of a flat ground in a solution, chance has neither.
    top
        Share of Σρ² in the densest 2 % of the points.
    negative
        Share of Σρ² below the mean.
    sayre
        Correlation of the measured amplitudes with those of the squared map (Sayre 1952): squaring a map of
        atoms leaves it a map of the same atoms.
    patterson
        Correlation of the Patterson of the positive part of the map with the measured one, the origin peak left out.
    agreement
        Largest correlation with the map of another start under any origin and hand; 0 with one start.
    following
        Share of the other starts whose maps are the same (correlation ≥ SAME_MAP); 0 with one start.
    """
    shape = problem.shape
    rho = torch.fft.irfftn(problem.amplitude * phases, s=shape, dim=AXES, norm="forward")
    size = rho.flatten(1).square().mean(1).clamp_min(1e-30)
    z = rho / size.sqrt().reshape(-1, 1, 1, 1)
    flat = z.flatten(1)
    square = flat.square()
    n_top = max(1, round(0.02 * flat.shape[1]))
    positive = torch.fft.rfftn(z.clamp_min(0), dim=AXES, norm="forward").abs()
    squared = torch.fft.rfftn(z.square(), dim=AXES, norm="forward").abs()
    weight = problem.weight * problem.measured
    every = np.arange(len(phases))
    own = every if parents is None else np.where(parents < 0, every, parents)
    starts = int((own == every).sum())
    alike = likeness(problem, phases, starts)
    alike = alike * torch.as_tensor(own[:, None] != own[:starts], device=phases.device)
    found = {
        "residual": _residual(problem.amplitude, positive, weight),
        "skewness": (square * flat).mean(1),
        "kurtosis": square.square().mean(1),
        "top": flat.topk(n_top, 1).values.square().sum(1) / flat.shape[1],
        "negative": (square * (flat < 0)).mean(1),
        "sayre": _correlation(problem.amplitude, squared, weight),
        "patterson": _correlation(problem.amplitude.square(), positive.square(), weight),
        "agreement": alike.amax(1),
        "following": (alike >= SAME_MAP).float().sum(1) / max(1, starts - 1),
    }
    return {name: value.double().cpu().numpy() for name, value in found.items()}


def judge(problem: PhaseProblem, found: Starts, method: str) -> tuple[NDArray[np.float64], Features]:
    """(S,) probability that each start is right, and the features it was made of: computed here, or the method's own.

    A method has the calibration of its name where the package has one, and that of charge flipping otherwise. Starts of
    several methods are judged each with its like.
    """
    if found.made_by:
        judged = [judge(problem, own, by) for by, own in found.of_each_method()]
        names = {name for _, table in judged for name in table}
        whole = {name: np.concatenate([t.get(name, np.full(len(p), np.nan)) for p, t in judged]) for name in names}
        return np.concatenate([p for p, _ in judged]), whole
    table = features(problem, found.phases, found.parents)
    table |= {name: np.asarray(values, float) for name, values in found.features.items()}
    named = method if (calibration.FOLDER / f"{method}.json").exists() else "charge_flipping"
    return probability(table, d_min=problem.d_min, named=named), table


def probability(table: Mapping[str, NDArray[np.float64]], *, d_min: float, named: str) -> NDArray[np.float64]:
    """(S,) probability that each start is right, by a calibration of the package or a JSON file."""
    return calibration.load(named).probability({**table, "d_min": np.float64(d_min)})


def correlations(problem: PhaseProblem, phases: Tensor, one: int) -> Tensor:
    """(S,) correlation of the map of start `one` with each, under the best origin and hand; 1 with itself."""
    f = problem.amplitude * phases
    norm = (problem.weight * problem.amplitude.square()).sum().clamp_min(1e-30)
    pair = torch.stack([f[one] * f.conj(), f[one] * f], 1)
    peaks = torch.fft.irfftn(pair, s=problem.shape, dim=AXES, norm="forward").flatten(1).amax(1)
    best: Tensor = peaks / norm
    return best


def likeness(problem: PhaseProblem, phases: Tensor, starts: int | None = None, block: int = 8) -> Tensor:
    """(S, starts) correlations of all maps with the first ones, over translations and inversion; 0 on the diagonal.

    Without `starts`: with all of them, (S, S).
    """
    shape = grid_shape(problem.cell, problem.d_min, _ROUGH)
    f = resampled(problem.amplitude * phases, problem.shape, shape)
    norm = (problem.weight * problem.amplitude.square()).sum().clamp_min(1e-30)
    starts = len(f) if starts is None else starts
    table = torch.zeros((len(f), starts), device=f.device)
    for i in range(starts):
        for first in range(i + 1, len(f), block):
            others = f[first : first + block]
            pair = torch.cat([f[i] * others.conj(), f[i] * others])
            peaks = torch.fft.irfftn(pair, s=shape, dim=AXES, norm="forward").flatten(1).amax(1)
            best = peaks.reshape(2, -1).amax(0) / norm
            table[first : first + block, i] = best
            table[i, first : min(first + block, starts)] = best[: max(0, starts - first)]
    return table.clamp(-1, 1)


def _residual(observed: Tensor, calculated: Tensor, weight: Tensor) -> Tensor:
    """Σ|k|Fc| - |Fo|| / Σ|Fo| with the least-squares k; the calculated (S, …), the rest (…)."""
    power = (weight * calculated.square()).sum(AXES).clamp_min(1e-30)
    scale = (weight * calculated * observed).sum(AXES) / power
    misfit = (weight * (scale.reshape(-1, 1, 1, 1) * calculated - observed).abs()).sum(AXES)
    return misfit / (weight * observed).sum()


def _correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Pearson correlation of a (…) with each of b (S, …), weighted; 0 where one of them does not vary."""
    total = weight.sum()
    da = a - (weight * a).sum() / total
    db = b - ((weight * b).sum(AXES) / total).reshape(-1, 1, 1, 1)
    spread_a, spread_b = ((weight * d.square()).sum(AXES).sqrt() for d in (da, db))
    # what is left of equal amplitudes is rounding
    flat_a, flat_b = (_FLAT * (weight * v.square()).sum(AXES).sqrt() for v in (a, b))
    found = (weight * da * db).sum(AXES) / (spread_a * spread_b).clamp_min(1e-30)
    return torch.where((spread_a > flat_a) & (spread_b > flat_b), found, 0.0)
