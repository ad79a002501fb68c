"""All stages one after the other: ingest, generate, train, evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseray.comparison import evaluate
from phaseray.config import Config, TrackingConfig
from phaseray.pipeline import cluster
from phaseray.pipeline.catalogue import ingest
from phaseray.pipeline.shards import generate
from phaseray.tables import print_facts, print_scores
from phaseray.training.ray_train import train


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
    """The stages that need Ray. Every one of `config.models` is trained, or `config.train` where there are none."""
    out = Path(out).absolute()
    tracking = config.tracking
    if tracking.uri is None:
        tracking = TrackingConfig(uri=f"sqlite:///{out / 'mlflow.db'}", experiment=tracking.experiment)
    models = config.models or {config.train.model.kind: config.train}
    folders = {name: out / "models" / name for name in models}
    with cluster.connected(config.ray):
        catalogue = ingest(config, out / "catalogue")
        print_facts("catalogue", catalogue)
        shards = generate(config, out / "catalogue", out / "shards")
        print_facts("shards", shards)
        for name, training in models.items():
            train(
                training, out / "shards", folders[name], seed=config.seed, ray=config.ray, tracking=tracking, name=name
            )
    return Trained(catalogue, shards, folders, tracking)
