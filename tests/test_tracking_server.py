"""MLflow behind a server that is stopped and started: nothing logged is lost, and no training waits for ever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest

from phaseray.comparison import evaluate
from phaseray.config import Config, ConfigError, TrackingConfig, TrainConfig, UNetConfig
from phaseray.models import build_model
from phaseray.tracking import fetch_model, outbox, prepare, send_waiting
from phaseray.training import checkpoint
from phaseray.training.checkpoint import ModelMeta
from tests.shards import write_shards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Server:
    """`mlflow server` over SQLite in a folder, on a port of its own that stays the same."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
                "--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts",
            ],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2)
                return
            except OSError:
                assert time.monotonic() < until, "the server does not come up"
                time.sleep(0.1)

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RETRY_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a checkpoint."""
    config = TrainConfig(model=UNetConfig(width=2, depth=2))
    meta = ModelMeta(config, (8, 8, 8), 0, 1, "0123456789abcdef", 2.0, 1.0, ())
    checkpoint.save(tmp_path / "model", build_model(config.model, (8, 8, 8)), meta)
    return tmp_path / "model"


def test_what_is_logged_while_the_server_is_away_is_there_in_the_end(server: Server, tmp_path: Path, trained: Path):
    store = prepare(TrackingConfig(uri=server.uri, experiment="away"), tmp_path / "out")
    run = store.start("unet", params={"a": 1})
    run.metrics({"train/loss": 1.0}, step=1)
    server.stop()
    (tmp_path / "report.html").write_text("as it was")
    began = time.monotonic()
    for step in (2, 3, 4):
        run.metrics({"train/loss": 1 / step}, step=step)
        run.image(np.full((4, 4, 3), 50 * step, np.uint8), step=step)
    run.file(tmp_path / "report.html", "evaluation")
    (tmp_path / "report.html").unlink()
    network, meta = checkpoint.load_checkpoint(trained)
    files = [trained / "model.safetensors", trained / "model.json"]
    assert run.model(network, meta.shape, files, name="phaseray-unet", alias="champion") is None
    assert time.monotonic() - began < 20
    server.start()
    run.metrics({"train/loss": 0.2}, step=5)
    assert run.end()

    client = mlflow.MlflowClient(server.uri)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.run_id, "train/loss")] == [1, 2, 3, 4, 5]
    assert found.info.end_time >= found.info.start_time
    images = {f.path.split("+")[2] for f in client.list_artifacts(run.run_id, "images")}
    assert images == {"2", "3", "4"}
    assert [f.path for f in client.list_artifacts(run.run_id, "evaluation")] == ["evaluation/report.html"]
    assert client.get_model_version_by_alias("phaseray-unet", "champion").version == "1"
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_server_that_never_comes_back_ends_no_run_badly_and_is_caught_up_with_later(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = prepare(TrackingConfig(uri=server.uri, experiment="gone"), tmp_path)
    run = store.start("unet")
    server.stop()
    run.metrics({"train/loss": 1.0}, step=1)
    assert not run.end(patience=0.5)
    assert "2 entries of this run wait in" in caplog.text
    assert not send_waiting(tmp_path, seconds=0.5)
    server.start()
    assert send_waiting(tmp_path)
    found = mlflow.MlflowClient(server.uri).get_run(run.run_id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"train/loss": 1.0})


def test_what_the_server_refuses_is_said_and_stops_nothing(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = prepare(TrackingConfig(uri=server.uri), tmp_path).start("unet")
    mlflow.MlflowClient(server.uri).delete_run(run.run_id)
    run.metrics({"train/loss": 1.0}, step=1)
    assert "refused metrics" in caplog.text
    assert not Path(run.outbox).exists()


def test_a_registered_model_is_evaluated_by_its_alias(
    server: Server, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
):
    run = prepare(TrackingConfig(uri=server.uri), tmp_path).start("unet")
    network, meta = checkpoint.load_checkpoint(trained)
    files = [trained / "model.safetensors", trained / "model.json"]
    run.model(network, meta.shape, files, name="phaseray-unet", alias="champion")
    tracking = TrackingConfig(uri=server.uri)
    folder = fetch_model("models:/phaseray-unet@champion", tracking, tmp_path / "fetched")
    again, meta_again = checkpoint.load_checkpoint(folder)
    assert meta_again == meta
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value)
    with pytest.raises(ConfigError, match="no-such"):
        fetch_model("models:/no-such@champion", tracking, tmp_path / "none")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        fetch_model("models:/phaseray-unet@champion", TrackingConfig(), tmp_path / "none")

    shards = write_shards(tmp_path / "shards", {"test": 4})
    config = Config(tracking=tracking)
    summary = evaluate(config, shards, {"champion": "models:/phaseray-unet@champion"}, tmp_path / "scores")
    assert summary["models"]["champion"]["n"] == summary["n_crystals"] > 0
    assert json.loads((tmp_path / "scores" / "summary.json").read_text()) == summary
