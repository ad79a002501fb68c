"""What Ray costs: the same training through Ray with one worker, and by the plain loop; one run, one thread each.

    python benchmarks/train_overhead.py SHARDS [--epochs 6] [--json out.json]

Same data, seed and losses (compared). The steady state is the time from the end of one epoch to that of the
next: its steps, validation and checkpoint, and through Ray the report. Lines of progress tell the epochs' ends, and
come every 0.3 s: train for so long that this is little.
"""

from __future__ import annotations

import argparse
import json
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a folder that `phaseray generate` made")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--json", help="write the figures here too")
    arguments = parser.parse_args()
    model = UNetConfig(width=arguments.width, depth=arguments.depth)
    config = TrainConfig(model=model, epochs=arguments.epochs, threads_per_worker=1)

    torch.set_num_threads(1)
    ends: list[float] = []
    data = open_dataset(arguments.shards)
    with tempfile.TemporaryDirectory() as folder:

        def kept(state: TrainingState) -> None:
            state.save(folder)
            ends.append(time.monotonic())

        plain = fit(TrainingState.fresh(config, data, seed=0), data, on_epoch=kept)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seconds: list[float] = []

        def told(line: str) -> None:
            if line.startswith("epoch "):
                seconds.append(time.monotonic())

        train(config, arguments.shards, folder, ray=RayConfig(num_cpus=4), progress=told)
        whole = time.monotonic() - began
        history = json.loads((Path(folder) / "history.json").read_text())
        waits = [line["data_wait"] for line in history[1:]]

    def steady(ends: list[float]) -> float:
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    result = {
        "plain_s_per_epoch": steady(ends),
        "ray_s_per_epoch": steady(seconds),
        "overhead": steady(seconds) / steady(ends) - 1,
        "steps_per_epoch": history[0]["steps"],
        "data_wait_fraction": sum(waits) / len(waits),
        "start_s": whole - sum(line["seconds"] for line in history),
        "same_losses": [line["train_loss"] for line in history] == [line.train_loss for line in plain.history],
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not result["same_losses"]:
        sys.exit("the losses differ")


if __name__ == "__main__":
    main()
