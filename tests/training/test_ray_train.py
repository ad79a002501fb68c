"""Trainings on a private Ray of this process; each test has a hard limit, for Ray waits for ever."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
import yaml
from ray import cloudpickle

from phaseray.config import ConfigError, TrackingConfig, TrainConfig, UNetConfig
from phaseray.training.checkpoint import load_checkpoint
from phaseray.training.loop import NonFiniteLossError, fit
from phaseray.training.ray_train import train
from phaseray.training.state import TrainingState
from tests.training import memory_data
from tests.training.memory_data import Interrupted, MemoryData

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SMALL = TrainConfig(model=UNetConfig(width=4, depth=2), batch_size=4, epochs=3, threads_per_worker=1)


@pytest.fixture(scope="module", autouse=True)
def _private_ray():
    home = tempfile.mkdtemp(prefix="pr")  # short: Ray puts Unix sockets below it
    by_value = (memory_data, sys.modules[__name__])  # workers cannot import the tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", home)
        patch.setenv("RAY_TMPDIR", home)
        patch.delenv("RAY_ADDRESS", raising=False)
        for module in by_value:
            cloudpickle.register_pickle_by_value(module)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)
    shutil.rmtree(home, ignore_errors=True)


def losses(output):
    return [(e["train_loss"], e["val_loss"]) for e in json.loads((Path(output) / "history.json").read_text())]


def plain(config, data, seed=0):
    return [(e.train_loss, e.val_loss) for e in fit(TrainingState.fresh(config, data, seed=seed), data).history]


def test_one_worker_is_the_plain_loop_and_goes_on_where_it_ended(tmp_path):
    data = MemoryData.of()
    lines = []
    result = train(SMALL, data, tmp_path, seed=3, tracking=TrackingConfig(), progress=lines.append)

    np.testing.assert_allclose(losses(tmp_path), plain(SMALL, data, seed=3), rtol=1e-12)
    names = {p.name for p in tmp_path.iterdir()}
    assert {"model.safetensors", "model.json", "last", "history.json", "summary.json", "config.yaml", "ray"} <= names
    model, meta = load_checkpoint(tmp_path)
    assert meta.dataset_digest == data.digest
    assert meta.epoch == result.best_epoch == 1 + int(np.argmin([v for _, v in losses(tmp_path)]))
    assert result.best_val_loss == min(v for _, v in losses(tmp_path))
    assert load_checkpoint(tmp_path / "last")[1].epoch == 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["parameters"], summary["epochs"]) == (sum(p.numel() for p in model.parameters()), 3)
    assert TrainConfig.model_validate(yaml.safe_load((tmp_path / "config.yaml").read_text())) == SMALL
    assert next(line for line in lines if line.startswith("epoch ")).startswith("epoch 1 of 3: train loss ")
    assert len([line for line in lines if line.startswith("epoch ")]) == 3

    lines.clear()
    assert train(SMALL, data, tmp_path, seed=3, tracking=TrackingConfig(), progress=lines.append) == result
    assert [line.split(", ")[0] for line in lines] == ["unet-d2-w4-lr1e-3-s3: done before"]

    longer = SMALL.model_copy(update={"epochs": 5})
    again = train(longer, data, tmp_path, seed=3, tracking=TrackingConfig(), progress=lines.append)
    assert "going on after epoch 3" in lines
    assert "train.epochs was 3, and is 5 from here on" in lines
    np.testing.assert_allclose(losses(tmp_path), plain(longer, data, seed=3), rtol=1e-12)
    assert again.run_id == result.run_id
    with pytest.raises(ConfigError, match=r"train\.learning_rate: 0\.001 there, 0\.1 now"):
        train(longer.model_copy(update={"learning_rate": 0.1}), data, tmp_path, seed=3)
    assert json.loads((tmp_path / "summary.json").read_text())["epochs"] == 5
    _is_tracked(tmp_path, again)


def _is_tracked(output, result):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{output}/mlflow.db")
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "unet-d2-w4-lr1e-3-s3"
    assert run.data.params["model.depth"] == "2"
    assert run.data.tags["changed"] == "train.epochs was 3, and is 5 from here on"
    assert run.data.tags["dataset_digest"] == result.dataset_digest
    assert run.data.metrics["best/val_loss"] == pytest.approx(result.best_val_loss)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/loss")] == [1, 2, 3, 4, 5]
    images = {f.path for f in client.list_artifacts(run.info.run_id, "images")}
    assert {name.split("step+")[1].split("+")[0] for name in images} == {"1", "2", "3", "4", "5"}


def test_two_workers_take_the_steps_of_one_with_twice_the_batch(tmp_path):
    data = MemoryData.of(train=16, val=5)
    config = SMALL.model_copy(update={"workers": 2, "optimizer": "sgd", "learning_rate": 0.05, "l2": 0.1})
    train(config, data, tmp_path, progress=lambda line: None)
    alone = config.model_copy(update={"workers": 1, "batch_size": 8})
    np.testing.assert_allclose(losses(tmp_path), plain(alone, data), rtol=1e-5)


def test_a_killed_worker_goes_on_at_the_next_sample(tmp_path):
    config = SMALL.model_copy(update={"checkpoint_every_steps": 3})
    data = Interrupted.at(tmp_path, batch=3)
    lines = []
    result = train(config, data, tmp_path / "out", progress=lines.append)
    assert (tmp_path / "mark").exists()
    assert "going on after epoch 1, step 3 of epoch 2" in lines
    undisturbed = fit(TrainingState.fresh(config, data, seed=0), MemoryData(data.splits))
    assert losses(tmp_path / "out") == [(e.train_loss, e.val_loss) for e in undisturbed.history]
    assert result.steps == undisturbed.step == 12
    kept, _ = load_checkpoint(tmp_path / "out" / "last")
    for name, value in undisturbed.model.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value)


def test_divergence_comes_back_as_the_error_it_is(tmp_path):
    config = SMALL.model_copy(update={"optimizer": "sgd", "learning_rate": 1e30, "max_failures": 0})
    with pytest.raises(NonFiniteLossError, match=r"lower train.learning_rate") as caught:
        train(config, MemoryData.of(), tmp_path, progress=lambda line: None)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("asked", [{"workers": 50}, {"use_gpu": True}])
def test_what_a_private_cluster_lacks_is_said_at_once(tmp_path, asked):
    if asked.get("use_gpu") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"train.workers=\d+ needs"):
        train(SMALL.model_copy(update=asked), MemoryData.of(), tmp_path)
