"""What torch.compile gains and what it costs: the same steps of a training with and without, one thread.

    python benchmarks/train_compile.py SHARDS [--steps 40] [--device cpu]

Seconds a step are medians after the first five; the steps before are what compiling costs. Losses are compared
step by step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time

import torch

from phaseray.config import TrainConfig, UNetConfig
from phaseray.pipeline.loading import open_dataset
from phaseray.training.history import Mean
from phaseray.training.loop import fit
from phaseray.training.state import TrainingState

FIRST = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a folder that `phaseray generate` made")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = open_dataset(arguments.shards)
    taken = {}
    for compiled in (False, True):
        model = UNetConfig(width=arguments.width, depth=arguments.depth)
        config = TrainConfig(model=model, epochs=1, steps_per_epoch=arguments.steps, compile=compiled)
        ends: list[float] = [time.monotonic()]
        means: list[Mean] = []

        def after(step: int, mean: Mean, ends: list[float] = ends, means: list[Mean] = means) -> None:
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            ends.append(time.monotonic())
            means.append(mean)

        fit(TrainingState.fresh(config, data, seed=0, device=arguments.device), data, on_step=after)
        seconds = [later - earlier for earlier, later in itertools.pairwise(ends[FIRST:])]
        taken[compiled] = (statistics.median(seconds), ends[FIRST] - ends[0], [mean.value for mean in means])
    eager, with_compile = taken[False], taken[True]
    apart = max(abs(a / b - 1) for a, b in zip(with_compile[2], eager[2], strict=True) if a and b)
    print(
        json.dumps(
            {
                "s_per_step": round(eager[0], 4), "s_per_step_compiled": round(with_compile[0], 4),
                "faster_by": round(eager[0] / with_compile[0], 3), f"first_{FIRST}_steps_s": round(eager[1], 1),
                f"first_{FIRST}_steps_compiled_s": round(with_compile[1], 1), "losses_apart": apart,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
