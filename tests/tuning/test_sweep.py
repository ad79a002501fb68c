"""A sweep on a Ray of its own: what it finds, and that it goes on after kill -9 of its driver."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from phaseray.config import Config, ConfigError, load
from phaseray.pipeline.loading import open_dataset
from phaseray.training.checkpoint import load_checkpoint
from phaseray.training.loop import fit
from phaseray.training.state import TrainingState
from tests.conftest import own_home
from tests.shards import write_shards

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
EPOCHS = 25
CONFIG = f"""
seed: 3
ray: {{num_cpus: 4}}
tune:
  trials: 5
  max_concurrent: 2
  spaces:
    mlp:
      train: {{model: {{kind: mlp, hidden: [8]}}, epochs: {EPOCHS}}}
      search: {{learning_rate: {{loguniform: [1.0e-4, 1.0e-2]}}}}
    unet:
      train: {{model: {{kind: unet, width: 2, depth: 2}}, epochs: {EPOCHS}}}
      search: {{model.width: [2, 4], loss: [mse, mse_any_origin]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_shards(folder / "shards", {"train": 16, "val": 4, "test": 2})
    (folder / "tune.yaml").write_text(CONFIG)
    return folder


class Sweep:
    """The command in a process, a HOME and a Ray of its own."""

    def __init__(self, home: Path, folder: Path) -> None:
        program = "import sys; from phaseray.cli import main; main(sys.argv[1:])"
        arguments = ["tune", "--config", "tune.yaml", "--dataset", "shards", "--out", "out"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.home = home
        self.log = (folder / "driver.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=folder, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment | {"HOME": str(home), "RAY_TMPDIR": str(home), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def kill(self) -> None:
        """The driver, and what is left of its Ray: that names a folder below its HOME."""
        self.log.close()
        numbers = [self.process.pid]
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and str(self.home).encode() in (folder / "cmdline").read_bytes():
                    numbers.append(int(folder.name))
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait(10)


def epochs_done(folder: Path) -> dict[str, int]:
    """By Tune's own record of what trials reported."""
    found = {}
    for record in (folder / "out" / "ray" / "sweep").glob("*/result.json"):
        with contextlib.suppress(ValueError):
            lines = [json.loads(line) for line in record.read_text().splitlines()]
            found[record.parent.name] = max((line["epoch"] for line in lines), default=0)
    return found


@pytest.fixture(scope="module")
def finished(folder: Path) -> dict[str, Any]:
    """A sweep killed when one trial had ended and another was under way, and then gone on with."""
    with own_home() as home:
        sweep = Sweep(home, folder)
        until = time.monotonic() + 200
        while True:
            done = epochs_done(folder)
            ended = [e for e in done.values() if e == EPOCHS]
            under_way = [e for e in done.values() if 2 <= e < EPOCHS - 5]
            if ended and under_way:
                break
            assert sweep.process.poll() is None, (folder / "driver.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        sweep.kill()
        before = epochs_done(folder)
        assert not (folder / "out" / "summary.json").exists()
    with own_home() as home:
        sweep = Sweep(home, folder)
        try:
            assert sweep.process.wait(200) == 0, (folder / "driver.log").read_text()
        finally:
            sweep.kill()
    return {"before": before, "summary": json.loads((folder / "out" / "summary.json").read_text())}


def test_a_killed_sweep_ends_with_the_trials_it_was_to_have(folder: Path, finished: dict[str, Any]):
    trials = json.loads((folder / "out" / "trials.json").read_text())
    assert len(trials) == finished["summary"]["trials"] == 5
    assert set(finished["before"]) <= {t["trial_id"] for t in trials}
    assert sum(t["base"] for t in trials) >= 2
    assert {t["status"] for t in trials} <= {"done", "stopped"}
    scores = [t["score"] for t in trials]
    assert scores == sorted(scores, reverse=True)
    assert finished["summary"]["best"]["map_cc"] >= finished["summary"]["base_map_cc"]


def test_finished_trials_are_kept_and_running_ones_go_on(folder: Path, finished: dict[str, Any]):
    for trial_id, epoch in finished["before"].items():
        record = folder / "out" / "ray" / "sweep" / trial_id / "result.json"
        counts = Counter(json.loads(line)["epoch"] for line in record.read_text().splitlines())
        assert sorted(counts) == list(range(1, max(counts) + 1))
        if epoch == EPOCHS:
            assert set(counts.values()) == {1}
        # Tune keeps its own state once a second, and what came after is done again
        assert sum(counts.values()) - len(counts) < EPOCHS


def test_mlflow_has_each_trial_once_below_the_sweep(folder: Path, finished: dict[str, Any]):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/out/mlflow.db")
    experiment = client.get_experiment_by_name("phaseray")
    runs = {r.info.run_id: r for r in client.search_runs([experiment.experiment_id])}
    parent = runs.pop(finished["summary"]["run_id"])
    assert parent.info.status == "FINISHED"
    trials = {t["trial_id"]: t for t in json.loads((folder / "out" / "trials.json").read_text())}
    assert sorted(r.data.tags["trial_id"] for r in runs.values()) == sorted(trials)
    for run in runs.values():
        trial = trials[run.data.tags["trial_id"]]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.run_name.startswith(trial["name"])
        assert run.info.status == "FINISHED"
        assert run.data.params["model.kind"] == trial["space"]
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "val/map_cc")]
        assert steps == list(range(1, trial["epochs"] + 1))
        assert run.data.metrics["best/map_cc"] == pytest.approx(trial["map_cc"])
        assert not [k for k in run.data.metrics if not k.startswith(("train/", "val/", "time/", "best/", "system/"))]
    files = {f.path for f in client.list_artifacts(parent.info.run_id, "sweep")}
    assert {"sweep/best.yaml", "sweep/trials.json", "sweep/parallel.png"} <= files
    name, _, alias = finished["summary"]["registered"].partition("@")
    assert runs[client.get_model_version_by_alias(name, alias).run_id].data.tags["best_of_sweep"] == "true"


def test_the_best_config_trains_the_best_network(folder: Path, finished: dict[str, Any], one_thread: None):
    best = load(folder / "out" / "best.yaml")
    _, meta = load_checkpoint(folder / "out" / "best")
    assert best.train.seed == 3
    data = open_dataset(folder / "shards")
    state = TrainingState.fresh(best.train, data, seed=3)
    history = fit(state, data).history
    told = [line["val_loss"] for line in meta.history]
    np.testing.assert_allclose([e.val_loss for e in history][: len(told)], told, rtol=1e-4)


def test_the_same_command_again_is_done_and_another_is_refused(folder: Path, finished: dict[str, Any]):
    from phaseray.tuning.sweep import tune

    config = Config.model_validate(yaml.safe_load(CONFIG))
    assert tune(config, folder / "shards", folder / "out") == finished["summary"]
    with pytest.raises(ConfigError, match="another run"):
        tune(config.model_copy(update={"seed": 4}), folder / "shards", folder / "out")


def test_data_without_validation_crystals_are_refused(tmp_path: Path):
    from phaseray.tuning.sweep import tune

    write_shards(tmp_path / "shards", {"train": 2})
    with pytest.raises(ConfigError, match="validation"):
        tune(Config(), tmp_path / "shards", tmp_path / "out")
