"""MLflow 3.17: what is logged is found again by MLflow's own reader."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from phaseray.config import ConfigError, MlpConfig, TrackingConfig, TrainConfig, UNetConfig
from phaseray.models import build_model
from phaseray.tracking import flat_params, git_sha, prepare, run_name

CONFIG = TrainConfig(model=UNetConfig(width=4, depth=2))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    # one database for the module: MLflow takes three seconds to make one
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def store(output):
    return prepare(TrackingConfig(), output)


@pytest.fixture
def run(store):
    return store.start(
        "unet", params=flat_params(CONFIG), tags={"stage": "train", "model": "unet", "dataset_digest": "ab12"}
    )


@pytest.fixture
def read(store):
    import mlflow

    client = mlflow.MlflowClient(store.uri)
    return lambda run: client.get_run(run.run_id)


@pytest.fixture
def artifacts(store):
    import mlflow

    client = mlflow.MlflowClient(store.uri)
    return lambda run, path=None: [f.path for f in client.list_artifacts(run.run_id, path)]


def test_the_store_stands_in_the_output_folder_and_is_made_once(output, store):
    assert store.uri == f"sqlite:///{output}/mlflow.db"
    assert (output / "mlflow.db").exists()
    assert prepare(TrackingConfig(), output) == store


def test_files_go_beside_the_database_wherever_it_is_named(tmp_path, monkeypatch, artifacts):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store = prepare(TrackingConfig(uri="sqlite:///../there/runs.db"), tmp_path / "out")
    store.start("elsewhere").image(np.zeros((4, 4, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir() if any(p.rglob("*"))] == ["there"]
    assert list((tmp_path / "there" / "mlartifacts").rglob("*.png"))


def test_a_run_has_flat_params_and_the_tags_to_find_it_by(run, read):
    found = read(run)
    assert found.info.run_name == "unet"
    assert found.data.params["model.depth"] == "2"
    assert found.data.params["learning_rate"] == "0.001"
    assert found.data.params.keys() == flat_params(CONFIG).keys()
    tags = {k: v for k, v in found.data.tags.items() if not k.startswith("mlflow.")}
    expected = {"stage": "train", "model": "unet", "dataset_digest": "ab12"}
    assert tags == (expected | {"git_sha": git_sha()} if git_sha() else expected)


def test_params_that_stand_are_kept(run, read):
    run.params({"model.depth": 7, "new": 1})
    assert read(run).data.params["model.depth"] == "2"
    assert read(run).data.params["new"] == "1"


def test_metrics_of_an_epoch(run, store):
    import mlflow

    for epoch in (1, 2):
        run.metrics({"train/loss": 1 / epoch, "val/loss": None, "time/epoch_s": 2.0}, step=epoch)
    client = mlflow.MlflowClient(store.uri)
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "train/loss")] == [(1, 1.0), (2, 0.5)]
    assert not client.get_metric_history(run.run_id, "val/loss")


def test_the_data_set_is_an_input_known_by_its_digest(run, read, tmp_path):
    run.dataset("0123456789abcdef", tmp_path)
    (given,) = read(run).inputs.dataset_inputs
    assert given.dataset.digest == "0123456789abcdef"
    assert json.loads(given.dataset.source) == {"uri": str(tmp_path)}
    assert {t.key: t.value for t in given.tags} == {"mlflow.data.context": "training"}


def test_images_have_the_step_for_the_slider(run, artifacts):
    for step in (1, 2):
        run.image(np.full((8, 12, 3), 100 * step, np.uint8), step=step)
    names = artifacts(run, "images")
    assert all(name.startswith("images/val~sections+step+") for name in names)
    assert {name.split("+")[2] for name in names} == {"1", "2"}


def test_files_are_artifacts(run, artifacts, tmp_path):
    (tmp_path / "report.html").write_text("<p>")
    run.file(tmp_path / "report.html", "evaluation")
    assert artifacts(run, "evaluation") == ["evaluation/report.html"]


def test_a_run_ends_as_the_block_does(store, read):
    with store.start("good").ending() as good:
        pass
    with pytest.raises(RuntimeError), store.start("bad").ending() as bad:
        raise RuntimeError
    assert (read(good).info.status, read(bad).info.status) == ("FINISHED", "FAILED")


def test_a_run_is_taken_up_again(store, read):
    with store.start("once").ending() as first:
        pass
    again = store.resume(first.run_id)
    assert again == first
    assert read(again).info.status == "RUNNING"
    assert store.resume("no-such-run") is None


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (MlpConfig(hidden=(5,)), (4, 4, 6)),
        (UNetConfig(width=2, depth=2), (8, 8, 8)),
        (UNetConfig(width=2, depth=2, norm="batch"), (5, 6, 4)),
    ],
    ids=["mlp", "unet", "unet, odd sides"],
)
def test_the_model_loads_back_and_serves_any_number_of_crystals(run, read, tmp_path, model, shape):
    import mlflow

    mlflow.set_tracking_uri("sqlite:////nowhere/else.db")
    torch.manual_seed(0)
    network = build_model(model, shape)
    (tmp_path / "model.json").write_text("{}")
    uri = run.model(network, shape, [tmp_path / "model.json"])
    assert mlflow.get_tracking_uri() == "sqlite:////nowhere/else.db"
    assert read(run).info.status == "RUNNING"

    mlflow.set_tracking_uri(run.uri)
    served = mlflow.pyfunc.load_model(uri)
    for crystals in (1, 2, 5):
        x = np.random.default_rng(0).normal(size=(crystals, 1, *shape)).astype(np.float32)
        with torch.no_grad():
            expected = network.eval()(torch.tensor(x)).numpy()
        np.testing.assert_allclose(served.predict(x), expected, rtol=1e-4, atol=1e-6)
    assert [s.shape for s in served.metadata.signature.inputs.inputs] == [(-1, 1, *shape)]
    # no pickle in it
    files = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=tmp_path / "got"))
    assert [f.name for f in (files / "data").iterdir()] == ["model.pt2"]
    assert (files / "extra_files" / "model.json").exists()


def test_a_store_that_cannot_be_used_is_a_config_error(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database")
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        prepare(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path)


def test_a_deleted_experiment_is_a_config_error(output):
    import mlflow

    gone = TrackingConfig(experiment="gone")
    store = prepare(gone, output)
    mlflow.MlflowClient(store.uri).delete_experiment(store.experiment_id)
    with pytest.raises(ConfigError, match="deleted"):
        prepare(gone, output)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TrainConfig(), "unet-d3-w16-lr1e-3-s0"),
        (TrainConfig(model=UNetConfig(depth=4, width=32), learning_rate=3e-4), "unet-d4-w32-lr3e-4-s0"),
        (TrainConfig(model=MlpConfig(hidden=(100, 50)), learning_rate=0.015), "mlp-h100x50-lr1.5e-2-s0"),
        (
            TrainConfig(model=UNetConfig(padding="zero", norm="none"), input="patterson", loss="mse_any_origin"),
            "unet-d3-w16-zero-norm_none-patterson-any_origin-lr1e-3-s0",
        ),
    ],
)
def test_a_run_is_named_by_what_varied(config, name):
    assert run_name(config, seed=0) == name


def test_outside_git_there_is_no_sha(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_sha() is None


@pytest.mark.slow
def test_says_nothing_of_its_own(tmp_path):
    program = f"""
import numpy as np
from phaseray.config import *
from phaseray.models import build_model
from phaseray.tracking import prepare
run = prepare(TrackingConfig(), {str(tmp_path)!r}).start("quiet", params={{"a": 1}})
run.metrics({{"train/loss": 1.0}})
run.image(np.zeros((4, 4, 3), np.uint8))
run.model(build_model(UNetConfig(width=2, depth=2), (4, 4, 4)), (4, 4, 4))
run.end()
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
