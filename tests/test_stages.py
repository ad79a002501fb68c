"""pipeline with a search in it: what the search finds best is what is trained and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phaseray.config import ConfigError, load
from phaseray.stages import pipeline
from phaseray.training.checkpoint import load_checkpoint

SMALL = [
    "ingest.sources=[{kind: synthetic, count: 40, max_atoms: 20}]", "generate.grid.n=8", "generate.d_min=2.4",
    "ray.num_cpus=4", "pipeline.tune=true", "tune.trials=3", "tune.max_concurrent=2",
    "tune.spaces={mlp: {train: {model: {kind: mlp, hidden: [4]}, epochs: 2}, search: {learning_rate: [0.001, 0.03]}}}",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_best_of_a_search_is_trained_and_compared(
    tmp_path: Path, private_home: Path, capsys: pytest.CaptureFixture[str]
):
    from mlflow import MlflowClient

    config = load(None, SMALL)
    summary = pipeline(config, tmp_path / "out")
    assert set(summary["models"]) == {"zero phases", "tuned"}
    sweep = json.loads((tmp_path / "out" / "sweep" / "summary.json").read_text())
    assert sweep["trials"] == 3
    best = load(tmp_path / "out" / "sweep" / "best.yaml").train
    _, meta = load_checkpoint(tmp_path / "out" / "models" / "tuned" / "last")
    assert meta.config == best
    assert meta.config.learning_rate == sweep["best"]["values"]["learning_rate"]
    assert meta.epoch == 2
    client = MlflowClient(f"sqlite:///{tmp_path}/out/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "phaseray"]
    stages = [run.data.tags["stage"] for run in client.search_runs([experiment.experiment_id])]
    assert sorted(stages) == ["train"] + ["tune"] * 4
    assert "tuned" in capsys.readouterr().out


def test_a_model_of_the_name_of_what_is_found_is_refused_before_any_work(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"models\.tuned"):
        pipeline(load(None, [*SMALL, "models.tuned={}"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
