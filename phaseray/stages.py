"""All stages one after the other: ingest, generate, tune where that is asked for, train, evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseray.comparison import evaluate
from phaseray.config import Config, ConfigError, TrackingConfig, TrainConfig, load
from phaseray.pipeline import cluster
from phaseray.pipeline.catalogue import begin_ingest, ingest
from phaseray.pipeline.shards import generate
from phaseray.tables import print_facts, print_scores, print_sweep
from phaseray.training.ray_train import train

TUNED = "tuned"  # the name of the model that a search chose


@dataclass(frozen=True)
class Trained:
    """What stands before models are compared.

    Attributes
    ----------
    catalogue, shards : what the summary.json of each says
    models : name to folder
    tracking : the store that all of them wrote to
    """

    catalogue: dict[str, Any]
    shards: dict[str, Any]
    models: dict[str, Path]
    tracking: TrackingConfig


def pipeline(config: Config, out: str | Path) -> dict[str, Any]:
    """Everything, into catalogue, shards, models and scores below `out`; goes on where an earlier run stopped.

    Returns
    -------
    dict
        What the summary.json of evaluate holds.
    """
    trained = ingest_to_train(config, out)
    summary = evaluate(config, Path(out) / "shards", trained.models, Path(out) / "scores")
    print_scores(summary)
    return summary


def ingest_to_train(config: Config, out: str | Path) -> Trained:
    """The stages that need Ray.

    Every one of `config.models` is trained, or `config.train` where there are none. With `config.pipeline.tune` a
    search comes first, and what it finds best is trained, for all its epochs, in place of `config.train`.

    Raises
    ------
    ConfigError
        A search is asked for, and one of `config.models` has the name of what it finds.
    """
    out = Path(out).absolute()
    if config.pipeline.tune and TUNED in config.models:
        raise ConfigError(f"models.{TUNED} is the name of what the search of pipeline.tune finds: take another")
    tracking = config.tracking
    if tracking.uri is None:
        tracking = TrackingConfig(uri=f"sqlite:///{out / 'mlflow.db'}", experiment=tracking.experiment)
    with (
        begin_ingest(config, out / "catalogue") as begun,
        cluster.connected(config.ray, dashboard=config.pipeline.tune),
    ):
        catalogue = ingest(config, out / "catalogue", begun=begun)
        print_facts("catalogue", catalogue)
        shards = generate(config, out / "catalogue", out / "shards")
        print_facts("shards", shards)
        models = dict(config.models)
        if config.pipeline.tune:
            models[TUNED] = _best(config.model_copy(update={"tracking": tracking}), out)
        models = models or {config.train.model.kind: config.train}
        folders = {name: out / "models" / name for name in models}
        for name, training in models.items():
            train(
                training, out / "shards", folders[name], seed=config.seed, ray=config.ray, tracking=tracking, name=name
            )
    return Trained(catalogue, shards, folders, tracking)


def _best(config: Config, out: Path) -> TrainConfig:
    """What a search over `config.tune` finds best."""
    from phaseray.tuning.sweep import tune

    print_sweep(tune(config, out / "shards", out / "sweep"))
    return load(out / "sweep" / "best.yaml").train
