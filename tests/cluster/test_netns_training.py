"""Two workers on nodes with addresses of their own: a link is cut, then a node dies; no step is lost or done twice."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest

from phaseray.config import load
from phaseray.pipeline.loading import open_dataset
from phaseray.training.loop import fit
from phaseray.training.state import TrainingState
from tests.cluster.networks import Network, network, possible
from tests.conftest import own_home
from tests.shards import write_shards

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not possible(), reason="needs root and iproute2"),
]

EPOCHS, STEPS = 5, 16  # of an epoch: 32 crystals, one a worker and step
SETTINGS = [
    "train.model={kind: unet, width: 2, depth: 2}", "train.batch_size=1", f"train.epochs={EPOCHS}",
    "train.checkpoint_every_steps=2", "train.threads_per_worker=1", "train.max_failures=4",
]  # fmt: skip
OPTIONS = [word for setting in (*SETTINGS, "train.workers=2") for word in ("--set", setting)]


@pytest.fixture
def net() -> Iterator[Network]:
    with own_home() as home, network(home) as net:
        yield net


class Training:
    """`phaseray train` on the head, and what is seen of it."""

    def __init__(self, net: Network) -> None:
        self.out, self.log = net.home / "out", net.home / "train.log"
        write_shards(net.home / "shards", {"train": 2 * STEPS, "val": 4})
        command = ["train", "--dataset", net.home / "shards", "--out", self.out, *OPTIONS]
        self.process: subprocess.Popen[bytes] = net.phaseray(*command, log=self.log)

    def kept(self) -> int:
        """Step of the last checkpoint that Ray Train can go on from."""
        notes = [path.read_text() for path in (self.out / "ray").rglob("checkpoint_manager_snapshot.json")]
        return max((int(step) for note in notes for step in re.findall(r'"step":\s*(\d+)', note)), default=0)

    def gone_on(self) -> list[int]:
        """Steps done at each start but the first."""
        told = re.findall(r"going on after epoch (\d+)(?:, step (\d+) of epoch)?", self.log.read_text())
        return [STEPS * int(epoch) + int(step or 0) for epoch, step in told]

    def wait(self, what: str, ready, seconds: float = 200) -> None:
        until = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, f"no {what}: {self.log.read_text()}"
            time.sleep(0.05)


def test_a_cut_link_and_a_dead_node_cost_a_training_no_step(net: Network):
    names = ["head", "a", "b", "c"]
    for name in names:
        net.add(name)
    net.start_all(names, cpus=1)  # one each, so that no node has both workers
    training = Training(net)
    figures = []
    for fault in (net.cut, net.kill):
        training.wait("checkpoint", lambda: training.kept() >= (training.gone_on() or [4])[-1] + STEPS + 4)
        lost = next(name for name in names[1:] if net.has(name, "RayTrainWorker"))
        kept, starts, at = training.kept(), len(training.gone_on()), time.monotonic()
        fault(lost)
        training.wait("restart", lambda starts=starts: len(training.gone_on()) > starts)
        names.remove(lost)
        figures.append((fault.__name__, kept, training.gone_on()[-1], time.monotonic() - at))
        assert training.gone_on()[-1] >= kept
    assert training.process.wait(120) == 0, training.log.read_text()

    summary = json.loads((training.out / "summary.json").read_text())
    assert (summary["epochs"], summary["steps"]) == (EPOCHS, EPOCHS * STEPS)
    history = json.loads((training.out / "history.json").read_text())
    assert [line["steps"] for line in history] == [STEPS * epoch for epoch in range(1, EPOCHS + 1)]

    # the steps of one worker with both batches, in one go and without Ray
    config = load(None, [*SETTINGS, "train.batch_size=2"]).train
    data = open_dataset(net.home / "shards")
    whole = fit(TrainingState.fresh(config, data, seed=0), data)
    assert whole.step == EPOCHS * STEPS
    np.testing.assert_allclose(
        [line["val_loss"] for line in history], [line.val_loss for line in whole.history], rtol=1e-3
    )
    for name, kept, gone_on, seconds in figures:
        print(f"{name}: checkpoint of step {kept} kept, went on after step {gone_on}, {seconds:.0f} s later")
    print(f"{summary['steps']} steps in {summary['epochs']} epochs, as undisturbed")
