"""The learning rate over the steps of a training: a function of the step alone, so that going on needs no state."""

from __future__ import annotations

from math import cos, pi

from phaseray.config import TrainConfig

__all__ = ["rate_factor"]


def rate_factor(config: TrainConfig, step: int, total: int) -> float:
    """What `learning_rate` is multiplied with at a step.

    Parameters
    ----------
    step : 0 for the first
    total : steps of the whole training; past its end the last value holds

    Notes
    -----
    constant and cosine rise from 1 / (warmup_steps + 1) by equal parts in `warmup_steps`; the cosine then falls
    to 0 at `total` (Loshchilov & Hutter 2017, eq. 5, without restarts). one_cycle is that of Smith & Topin (2018) with
    the defaults of `torch.optim.lr_scheduler.OneCycleLR`: from 1/25 to 1 and on to 4e-6, both by half a cosine.
    """
    if config.schedule == "one_cycle":
        peak = float(config.warmup_steps or 0.3 * total) - 1
        if step <= peak:
            return _between(1 / 25, 1.0, step / peak if peak > 0 else 1.0)
        return _between(1.0, 1e-4 / 25, min(1.0, (step - peak) / max(1.0, total - 1 - peak)))
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "cosine":
        return _between(1.0, 0.0, min(1.0, (step - config.warmup_steps) / max(1, total - config.warmup_steps)))
    return 1.0


def _between(first: float, last: float, part: float) -> float:
    return last + (first - last) * (1 + cos(pi * part)) / 2
