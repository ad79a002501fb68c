"""What Ray costs: the same training by the plain loop, through Ray with one worker, and plain again; one thread each.

    python benchmarks/train_overhead.py SHARDS [--epochs 4] [--json out.json]

Same data, seed and losses (compared). A steady epoch goes from the end of one to that of the next: its steps,
validation and checkpoint, and through Ray the report; the first of each training is left out. Times are medians, the
two plain trainings taken together, for a machine is not as fast in every minute. Lines of progress tell the ends of
epochs and come every 0.3 s: train for so long that this is little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from phaseray.config import RayConfig, TrainConfig, UNetConfig
from phaseray.pipeline.loading import open_dataset
from phaseray.training.loop import fit
from phaseray.training.ray_train import train
from phaseray.training.state import TrainingState


def plain(config: TrainConfig, shards: str) -> tuple[list[float], list[float]]:
    """Seconds of the epochs after the first, and losses of all."""
    data = open_dataset(shards)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:

        def kept(state: TrainingState) -> None:
            state.save(folder)
            ends.append(time.monotonic())

        state = fit(TrainingState.fresh(config, data, seed=0), data, on_epoch=kept)
    return _between(ends), [line.train_loss for line in state.history]


def through_ray(config: TrainConfig, shards: str) -> tuple[list[float], list[float], list[float], float]:
    """The same, and the share of each epoch's steps spent waiting for data; then the seconds of no epoch."""
    ends: list[float] = []

    def told(line: str) -> None:
        if line.startswith("epoch "):
            ends.append(time.monotonic())

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        train(config, shards, folder, ray=RayConfig(num_cpus=4), progress=told)
        whole = time.monotonic() - began
        history = json.loads((Path(folder) / "history.json").read_text())
    waits = [line["data_wait"] for line in history]
    start_and_end = whole - sum(line["seconds"] for line in history)
    return _between(ends), [line["train_loss"] for line in history], waits, start_and_end


def _between(ends: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a folder that `phaseray generate` made")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--json", help="write the figures here too")
    arguments = parser.parse_args()
    model = UNetConfig(width=arguments.width, depth=arguments.depth)
    config = TrainConfig(model=model, epochs=arguments.epochs, threads_per_worker=1)
    torch.set_num_threads(1)
    before, losses = plain(config, arguments.shards)
    ray, losses_ray, waits, start_and_end = through_ray(config, arguments.shards)
    after, _ = plain(config, arguments.shards)
    alone = statistics.median(before + after)
    result = {
        "steps_per_epoch": open_dataset(arguments.shards).steps("train", config.batch_size),
        "plain_s_per_epoch": round(alone, 2),
        "ray_s_per_epoch": round(statistics.median(ray), 2),
        "overhead": round(statistics.median(ray) / alone - 1, 4),
        "data_wait_fraction": [round(wait, 4) for wait in waits],
        "plain_before_s": [round(s, 2) for s in before],
        "ray_s": [round(s, 2) for s in ray],
        "plain_after_s": [round(s, 2) for s in after],
        "start_and_end_s": round(start_and_end, 1),
        "same_losses": losses == losses_ray,
    }
    print(json.dumps(result))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not result["same_losses"]:
        sys.exit("the losses differ")


if __name__ == "__main__":
    main()
