"""What each Ray Train worker does: the plain loop, a checkpoint an epoch, and rank 0's lines and tracking."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray.train import Checkpoint, get_checkpoint, get_context, report
from ray.train.torch import get_device, prepare_model

from phaseray.config import TrainConfig
from phaseray.pipeline.cluster import quiet
from phaseray.tracking import Run
from phaseray.tracking.system import system_metrics
from phaseray.training.history import Mean
from phaseray.training.loop import fit, predict, steps_per_epoch
from phaseray.training.protocols import TrainingData
from phaseray.training.state import TrainingState

SECONDS_BETWEEN_LINES = 10.0
NEVER_BEST = -sys.float_info.max  # of a checkpoint that is there to go on from only
EXAMPLES = 2  # validation crystals drawn at each epoch


@dataclass(frozen=True)
class Task:
    """What a worker is sent."""

    config: TrainConfig
    data: TrainingData
    seed: int
    run: Run | None
    lines: Any


def work(received: dict[str, Task]) -> None:
    task = received["task"]
    config, data = task.config, task.data
    context = get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    quiet()
    # Ray tells OpenMP to take one thread
    torch.set_num_threads(config.threads_per_worker or max(1, _cores() // context.get_local_world_size()))
    state = TrainingState.fresh(config, data, seed=task.seed, device=get_device())
    before = get_checkpoint()
    if before:
        with before.as_directory() as folder:
            state.restore(folder, rank=rank)
    state.call(prepare_model(state.model, parallel_strategy="ddp" if world > 1 else None))
    teller = _Teller(task, state, steps_per_epoch(state, data, world)) if rank == 0 else None

    def keep(state: TrainingState, metrics: dict[str, float]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if teller:
                state.save(folder)
            report(metrics, checkpoint=Checkpoint.from_directory(folder) if teller else None)

    def on_epoch(state: TrainingState) -> None:
        line = state.history[-1]
        metrics = {
            "epoch": line.epoch,
            "step": line.steps,
            "score": line.score,
            "goodness": -line.score,
            "train/loss": line.train_loss,
            "time/epoch_s": line.seconds,
        }
        optional = {"val/loss": line.val_loss, "time/data_wait_fraction": line.data_wait}
        metrics |= {name: value for name, value in optional.items() if value is not None}
        if config.on_nonfinite == "skip":
            metrics["train/skipped_steps"] = state.skipped
        if teller:
            teller.epoch(state, metrics)
        keep(state, metrics)

    fit(
        state,
        data,
        on_epoch=on_epoch,
        on_step=teller.step if teller else None,
        on_checkpoint=lambda state: keep(state, {"epoch": state.epoch, "step": state.step, "goodness": NEVER_BEST}),
        rank=rank,
        world=world,
        add_up=(lambda mean: _add_up(mean, state.device)) if world > 1 else lambda mean: mean,
        decide=(lambda stop: _decide(stop, state.device)) if world > 1 else lambda stop: stop,
    )


class _Teller:
    """Rank 0's voice: lines of progress, and MLflow."""

    def __init__(self, task: Task, state: TrainingState, steps: int) -> None:
        self.task, self.steps = task, steps
        self.first, self.began = state.epoch, time.monotonic()
        self.spoke = self.epoch_began = time.monotonic()
        self.example = _example(task.data) if task.run else None
        if not isinstance(task.config.workers, int):
            workers = get_context().get_world_size()
            self._say(f"{workers} worker{'s' if workers > 1 else ''}")
        if state.step:
            within = f", step {state.cursor.steps} of epoch {state.epoch + 1}" if state.cursor.steps else ""
            self._say(f"going on after epoch {state.epoch}{within}")

    def step(self, step: int, mean: Mean) -> None:
        now = time.monotonic()
        if now - self.spoke >= SECONDS_BETWEEN_LINES and step < self.steps:
            left = (now - self.epoch_began) / step * (self.steps - step)
            self._say(f"  step {step} of {self.steps}, loss {mean.value:.4f}, {_time(left)} left in this epoch")

    def epoch(self, state: TrainingState, metrics: dict[str, float]) -> None:
        line = state.history[-1]
        config = self.task.config
        now = time.monotonic()
        left = (now - self.began) / (line.epoch - self.first) * (config.epochs - line.epoch)
        if config.max_minutes is not None:
            left = min(left, max(0.0, 60 * config.max_minutes - state.seconds))
        losses = losses_in_words(line.train_loss, line.val_loss)
        skipped = f", {line.skipped} steps skipped (not finite)" if line.skipped else ""
        self._say(f"epoch {line.epoch} of {config.epochs}: {losses}{skipped}, {line.seconds:.1f} s, {_time(left)} left")
        self.epoch_began = now
        if self.task.run:
            named = {k: v for k, v in metrics.items() if "/" in k}
            self.task.run.metrics({**named, **system_metrics()}, step=line.epoch)
            if self.example is not None:
                self.task.run.image(_sections(state, self.example), step=line.epoch)

    def _say(self, line: str) -> None:
        self.spoke = time.monotonic()
        self.task.lines.put.remote(line)


def _example(data: TrainingData) -> Any:
    return (
        next(iter(data.batches("val", EXAMPLES, seed=0, epoch=0, shuffle=False)), None) if data.count("val") else None
    )


def _sections(state: TrainingState, batch: Any) -> np.ndarray:
    """(H, W, 3) uint8: a section of the truth beside that of the prediction, a row a crystal, atoms outlined."""
    from phaseray.evaluation.map_figures import comparison_image

    (predicted,) = predict(state.to_use, state.meta, [batch])
    rows = [
        comparison_image(*atoms_and_maps, aligned=state.config.loss == "mse_any_origin")
        for atoms_and_maps in zip(batch.density, predicted, batch.cell, batch.positions, batch.numbers, strict=True)
    ]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def _add_up(mean: Mean, device: torch.device) -> Mean:
    sums = torch.tensor([mean.total, mean.count], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sums)
    total, count = sums.tolist()
    return Mean(total, count)


def _decide(stop: bool, device: torch.device) -> bool:
    word = torch.tensor([stop], dtype=torch.int32, device=device)
    torch.distributed.broadcast(word, 0)
    return bool(word.item())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def losses_in_words(train: float, val: float | None) -> str:
    return f"train loss {train:.4f}" + ("" if val is None else f", val loss {val:.4f}")


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
