"""What a trial is drawn from: one space of several, and in it a value for every searched key.

A point is {"space": "unet", "unet": {"learning_rate": 0.003, …}}. Optuna knows its values under the
names "space" and "unet/learning_rate": TPE then models each space by itself.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from phaseray.config import Choice, Domain, LogUniform, RandInt, TrainConfig, TuneConfig

__all__ = ["Suggest", "base_points", "distribution", "encoded", "random_points", "sampler", "training", "trial_name"]

Point = Mapping[str, Any]


def distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    """The domain in Optuna's words. Values that are no scalars are choices by their JSON."""
    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution([encoded(v) for v in domain.values])
    if isinstance(domain, RandInt):
        return optuna.distributions.IntDistribution(domain.low, domain.high)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))


def encoded(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


class Suggest:
    """Optuna's define-by-run function; returns nothing, for what is suggested is the point."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config

    def __call__(self, trial: optuna.Trial) -> None:
        name = trial.suggest_categorical("space", list(self.config.spaces))
        for key, domain in self.config.spaces[name].search.items():
            where = f"{name}/{key}"
            if isinstance(domain, Choice):
                trial.suggest_categorical(where, [encoded(v) for v in domain.values])
            elif isinstance(domain, RandInt):
                trial.suggest_int(where, domain.low, domain.high)
            else:
                trial.suggest_float(where, domain.low, domain.high, log=isinstance(domain, LogUniform))


def training(config: TuneConfig, point: Point) -> TrainConfig:
    """The training that a point stands for."""
    space = config.spaces[point["space"]]
    values = point.get(point["space"], {})
    return space.with_values({key: _decoded(space.search[key], value) for key, value in values.items()})


def base_points(config: TuneConfig) -> list[dict[str, Any]]:
    """The training of each space as it stands, under Optuna's flat names."""
    return [
        {"space": name, **{f"{name}/{key}": encoded(value) for key, value in space.values().items()}}
        for name, space in config.spaces.items()
    ]


def is_base(config: TuneConfig, point: Point) -> bool:
    return training(config, point) == config.spaces[point["space"]].train


def random_points(config: TuneConfig, seed: int) -> list[dict[str, Any]]:
    """`config.trials` points, nested, the base ones first where they are asked for."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for point in base_points(config) if config.first_the_base else ():
        study.enqueue_trial(point)
    points = []
    suggest = Suggest(config)
    for _ in range(config.trials):
        trial = study.ask()
        suggest(trial)
        values = dict(trial.params)
        name = values.pop("space")
        points.append({"space": name, name: {key.partition("/")[2]: value for key, value in values.items()}})
    return points


def sampler(config: TuneConfig, seed: int) -> optuna.samplers.BaseSampler:
    """TPE over conditional spaces; random for the first third of few trials, for the first 10 of many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=max(1, min(10, config.trials // 3)),
            multivariate=True,
            group=True,  # keys of one space together, each space by itself
            constant_liar=True,  # trials that run are not tried again
        )


def trial_name(config: TuneConfig, point: Point) -> str:
    """What varied: "unet depth=3 width=16 learning_rate=1.2e-3"."""
    values = point.get(point["space"], {})
    parts = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items()]
    return " ".join([point["space"], *parts])


def _decoded(domain: Domain, value: Any) -> Any:
    structured = isinstance(domain, Choice) and any(isinstance(v, list | tuple | dict) for v in domain.values)
    return json.loads(value) if structured and isinstance(value, str) else value


def _short(value: Any) -> str:
    if isinstance(value, float):
        if value == 0 or 0.01 <= abs(value) < 1000:
            return f"{value:.3g}"
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return str(value).replace(" ", "")
