"""The other ways to search: at random, a population, and trials of several workers; on one Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phaseray.config import Config, RayConfig, load
from phaseray.pipeline.cluster import connected
from phaseray.training.checkpoint import load_checkpoint
from phaseray.tuning.space import random_points
from phaseray.tuning.sweep import tune
from tests.conftest import own_home
from tests.shards import write_shards

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

EPOCHS = 4
SPACES = f"""tune.spaces={{
  mlp: {{train: {{model: {{kind: mlp, hidden: [8]}}, epochs: {EPOCHS}}},
        search: {{learning_rate: {{loguniform: [1.0e-4, 0.1]}}}}}},
  unet: {{train: {{model: {{kind: unet, width: 2, depth: 2}}, epochs: {EPOCHS}}},
         search: {{learning_rate: {{loguniform: [1.0e-4, 0.1]}}, model.width: [2, 4]}}}}}}"""
WORKERS = """tune.spaces={unet: {
  train: {model: {kind: unet, width: 2, depth: 2}, epochs: 2, workers: 2, checkpoint_every_steps: 1},
  search: {learning_rate: [0.001, 0.01]}}}"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("kinds") / "shards", {"train": 16, "val": 4})


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with own_home(), connected(RayConfig(num_cpus=4), dashboard=True):
        yield


def swept(options: list[str], shards: Path, out: Path) -> tuple[Config, dict[str, Any], list[dict[str, Any]]]:
    config = load(None, options)
    summary = tune(config, shards, out)
    _model, meta = load_checkpoint(out / "best")
    assert meta.epoch == summary["best"]["best_epoch"]
    return config, summary, json.loads((out / "trials.json").read_text())


def epochs_of(out: Path, trial: dict[str, Any]) -> list[int]:
    record = out / "ray" / "sweep" / trial["trial_id"] / "result.json"
    return [json.loads(line)["epoch"] for line in record.read_text().splitlines()]


def test_random_trials_are_those_of_the_seed(shards: Path, tmp_path: Path):
    options = [SPACES, "tune.trials=4", "tune.search=random", "tune.scheduler=none"]
    config, summary, trials = swept(options, shards, tmp_path / "out")
    wanted = [point[point["space"]] for point in random_points(config.tune, config.seed)]
    assert sorted(map(str, wanted)) == sorted(str(t["values"]) for t in trials)
    assert summary["statuses"]["done"] == 4


def test_a_population_goes_on_from_its_best(shards: Path, tmp_path: Path):
    options = [SPACES, "tune.trials=4", "tune.search=random", "tune.scheduler=pbt", "tune.max_concurrent=4"]
    options += ["tune.perturbation_epochs=1"]
    config, summary, trials = swept(options, shards, tmp_path / "out")
    assert summary["statuses"]["done"] == len(trials) == 4
    started = [str(point) for point in random_points(config.tune, config.seed)]
    # who lags behind takes the network, the epochs and, somewhat changed, the values of one that leads
    assert [t for t in trials if str({"space": t["space"], t["space"]: t["values"]}) not in started]
    assert all(epochs_of(tmp_path / "out", t)[-1] == EPOCHS for t in trials)


def test_a_trial_may_have_several_workers(shards: Path, tmp_path: Path):
    _, summary, trials = swept([WORKERS, "tune.trials=2", "tune.max_concurrent=1"], shards, tmp_path / "out")
    assert summary["statuses"]["done"] == 2
    assert all(epochs_of(tmp_path / "out", t) == [1, 2] for t in trials)
