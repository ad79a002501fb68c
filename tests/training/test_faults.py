"""The driver killed, a node lost, workers that come and go: the training ends as if nothing had been.

Moments are told by what was kept, so that they fall into the work however fast the machine is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import cloudpickle

from phaseray.config import RayConfig, TrainConfig, UNetConfig
from phaseray.training import ray_train
from phaseray.training.checkpoint import load_checkpoint
from phaseray.training.loop import fit
from phaseray.training.ray_train import train
from phaseray.training.state import TrainingState
from tests.conftest import left_of, own_home
from tests.training import memory_data
from tests.training.memory_data import Interrupted, MemoryData

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
SMALL = TrainConfig(
    model=UNetConfig(width=4, depth=2), batch_size=4, epochs=3, threads_per_worker=1, checkpoint_every_steps=1, ema=0.9
)
PROGRAM = """
import sys
from pathlib import Path
import tests.conftest  # before Ray, which reads at its import how to authenticate
from ray import cloudpickle
from tests.training import memory_data, test_faults
cloudpickle.register_pickle_by_value(memory_data)
test_faults.train_somewhere(Path(sys.argv[1]))
"""


def train_somewhere(folder: Path) -> None:
    """What the killed process does, and the one that is started after it."""
    data = Interrupted.at(folder, batch=2, myself=False)
    train(SMALL, data, folder / "out", ray=RayConfig(num_cpus=4), progress=lambda line: print(line, flush=True))


def assert_undisturbed(out: Path, config: TrainConfig = SMALL) -> None:
    """The bytes of the weights, the losses and the steps are those of a training in one go, without Ray."""
    whole = fit(TrainingState.fresh(config, MemoryData.of(), seed=0), MemoryData.of())
    kept, meta = load_checkpoint(out / "last")
    assert meta.step == whole.step == 12
    assert [(e["train_loss"], e["val_loss"]) for e in meta.history] == [
        (e.train_loss, e.val_loss) for e in whole.history
    ]
    for name, value in whole.to_use.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value)


def marked(folder: Path) -> str:
    """Waits until the worker stands where it is to be killed; its node."""
    until = time.monotonic() + 120
    while not (folder / "mark").exists():
        if time.monotonic() > until:
            pytest.fail("no worker came to where it was to be killed")
        time.sleep(0.02)
    return (folder / "mark").read_text()


def test_a_killed_driver_goes_on_when_started_again(tmp_path: Path) -> None:
    with own_home() as home:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {"HOME": str(home), "RAY_TMPDIR": str(home), "PYTHONPATH": str(ROOT)}
        for killed in (True, False):
            with (tmp_path / f"log-{killed}").open("w") as log:
                driver = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, cwd=ROOT, stdout=log, stderr=log
                )
                try:
                    if killed:
                        marked(tmp_path)
                    else:
                        driver.wait(120)
                finally:
                    for number in [driver.pid, *left_of(home)]:
                        try:
                            os.kill(number, signal.SIGKILL)
                        except ProcessLookupError:
                            continue
                    driver.wait(10)
    log_after = (tmp_path / "log-False").read_text()
    assert "going on after epoch 1, step 2 of epoch 2" in log_after, log_after
    assert_undisturbed(tmp_path / "out")


@pytest.fixture
def by_value():
    # workers cannot import the tests
    cloudpickle.register_pickle_by_value(memory_data)
    yield
    cloudpickle.unregister_pickle_by_value(memory_data)


@pytest.mark.usefixtures("by_value")
def test_lost_nodes_and_workers_that_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(ray_train, "RESIZE_SECONDS", 0.5)
    with own_home():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        try:
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)

            def lose(folder: Path) -> None:
                lost = marked(folder)
                node = next(n for n in nodes if n.node_id == lost)
                cluster.remove_node(node, allow_graceful=False)
                nodes.remove(node)

            def train_through(config: TrainConfig, folder: Path) -> list[str]:
                lines: list[str] = []
                folder.mkdir()
                loser = threading.Thread(target=lose, args=(folder,))
                loser.start()
                data = Interrupted.at(folder, batch=2, myself=False)
                train(config, data, folder / "out", progress=lines.append)
                loser.join(60)
                return lines

            # one worker, and a node to spare: the same bytes
            lines = train_through(SMALL, tmp_path / "one")
            assert "going on after epoch 1, step 2 of epoch 2" in lines
            assert_undisturbed(tmp_path / "one" / "out")

            # two workers, if there is room: with a batch of 2 each, both take the steps of one with 4
            nodes.append(cluster.add_node(num_cpus=1))
            elastic = SMALL.model_copy(update={"workers": (1, 2), "batch_size": 2, "optimizer": "sgd"})
            lines = train_through(elastic, tmp_path / "two")
            assert "2 workers" in lines, lines
            assert any(line.startswith("going on after epoch 1, step 2 of epoch 2") for line in lines)
            _, meta = load_checkpoint(tmp_path / "two" / "out" / "last")
            assert meta.epoch == 3
            # 4 steps with two workers, 2 more, then one worker has the other 8 crystals by twos, and all by twos
            assert meta.step == 4 + 2 + 4 + 8
            assert np.isfinite([e["train_loss"] for e in meta.history]).all()
        finally:
            ray.shutdown()
            cluster.shutdown()
