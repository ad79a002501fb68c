"""How Tune stops poor trials, or has them go on from better ones."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from phaseray.config import Choice, TuneConfig
from phaseray.tuning.space import is_base

__all__ = ["Explore", "scheduler"]

# what a training that runs may change without being another network, or reading other batches
CHANGEABLE = {"learning_rate", "weight_decay", "l2", "gradient_clip"}


def scheduler(config: TuneConfig, seed: int) -> TrialScheduler:
    """By the share of its epochs that a trial has done, so that a quick network of many epochs meets a slow one."""
    if config.scheduler == "asha":
        return _SparingTheBase(
            time_attr="percent", metric="score", mode="max", max_t=100,
            grace_period=max(1, int(100 * config.grace)), reduction_factor=config.reduction_factor,
        ).sparing(config)  # fmt: skip
    if config.scheduler == "pbt":
        # all wait for one another: left to itself, a trial takes over from one that waits its turn, again and again
        return PopulationBasedTraining(
            time_attr="epoch", metric="now", mode="max", perturbation_interval=config.perturbation_epochs,
            custom_explore_fn=Explore(config, seed), synch=True,
        )  # fmt: skip
    return FIFOScheduler()


class _SparingTheBase(ASHAScheduler):  # type: ignore[misc]
    """ASHA that lets the base trials come to their end, as what all others are compared with."""

    config: TuneConfig | None = None

    def sparing(self, config: TuneConfig) -> _SparingTheBase:
        self.config = config if config.first_the_base else None
        return self

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if self.config and is_base(self.config, trial.config.get("point", trial.config)):
            return str(self.CONTINUE)
        return decision


class Explore:
    """A trial that goes on from a better one takes its point, with what may change a fifth up or down."""

    def __init__(self, config: TuneConfig, seed: int) -> None:
        self.config = config
        self.rng = np.random.default_rng(seed)

    def __call__(self, sampled: dict[str, Any]) -> dict[str, Any]:
        sampled = copy.deepcopy(sampled)
        point = sampled["point"]
        name = point["space"]
        for key, domain in self.config.spaces[name].search.items():
            if key in CHANGEABLE and not isinstance(domain, Choice):
                moved = point[name][key] * float(self.rng.choice([0.8, 1.25]))
                point[name][key] = min(max(moved, domain.low), domain.high)
        return sampled
