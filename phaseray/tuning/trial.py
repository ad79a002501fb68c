"""One trial: the plain training loop in a Tune actor, or Ray Train where a training has several workers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from phaseray.config import TrainConfig, TuneConfig
from phaseray.evaluation.metrics import correlation_maps
from phaseray.pipeline.cluster import quiet
from phaseray.pipeline.loading import Dataset, open_dataset
from phaseray.pipeline.storage import read_json, write_json
from phaseray.tracking.system import system_metrics
from phaseray.training import checkpoint
from phaseray.training.checkpoint import ModelMeta, load_checkpoint
from phaseray.training.loop import NonFiniteLossError, fit, predict
from phaseray.training.ray_train import train
from phaseray.training.state import TrainingState
from phaseray.tuning.space import training

__all__ = ["Trial", "map_cc", "run_trial"]

WORST = -1e9  # of a trial that diverged in its first epoch


@dataclass(frozen=True)
class Trial:
    """What all trials of a sweep share. `folder` is that of the sweep: each trial has trials/<id> in it."""

    config: TuneConfig
    dataset: str
    folder: str
    seed: int

    def place(self, trial_id: str) -> Path:
        """Of the best model of a trial."""
        return Path(self.folder) / "trials" / trial_id


def run_trial(task: Trial, sampled: Mapping[str, Any]) -> None:
    """Train, and report after every epoch: score (highest is best, of the best epoch so far) and now (of this one)."""
    quiet()
    config = training(task.config, sampled.get("point", sampled))
    place = task.place(tune.get_context().get_trial_id())
    try:
        if config.workers != 1:
            _train_on_workers(task, config, place)
        else:
            _train_here(task, config, place)
    except NonFiniteLossError:
        # reported, so that the search learns to keep away; as a failure it would tell nothing
        best = read_json(place / "best.json") if (place / "best.json").exists() else {"epoch": 0, "score": WORST}
        last = {"epoch": best["epoch"], "percent": 100, "score": best["score"], "now": WORST, "diverged": 1}
        tune.report(last | {f"best/{k}": best[k] for k in ("map_cc", "val_loss", "epoch") if k in best})


def _train_here(task: Trial, config: TrainConfig, place: Path) -> None:
    torch.set_num_threads(config.threads_per_worker or max(1, math.floor(task.config.cpus_per_trial)))
    # a trial has its own processor and no more: it reads for itself
    data = replace(open_dataset(task.dataset), streamed=False)
    device = "cuda" if config.use_gpu and task.config.gpus_per_trial else "cpu"
    state = TrainingState.fresh(config, data, seed=_seed(config, task), device=device)
    before = tune.get_checkpoint()
    if before:
        with before.as_directory() as folder:
            state.restore(folder)

    def on_epoch(state: TrainingState) -> None:
        metrics = _measured(task, state.to_use, state.meta, data, place)
        with tempfile.TemporaryDirectory() as folder:
            state.save(folder)
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    if task.config.scheduler == "pbt" and state.epoch >= config.epochs:
        # taken over from one of a population that has come to its end: there is nothing to train, but this to tell
        on_epoch(state)
    fit(state, data, on_epoch=on_epoch)


def map_cc(model: torch.nn.Module, meta: ModelMeta, data: Dataset, most: int) -> float:
    """Mean over at most `most` validation crystals of the correlation at the best origin and hand."""
    found: list[float] = []
    batches = data.batches("val", 16, shuffle=False)
    for batch in islice(batches, -(-most // 16)):
        (maps,) = predict(model, meta, [batch])
        for rho, truth in zip(maps[: most - len(found)], batch.density, strict=False):
            # a map that is constant, or not finite, correlates with nothing
            usable = np.isfinite(rho).all() and np.ptp(rho) > 0
            found.append(float(correlation_maps(rho, truth).max()) if usable else 0.0)
    return float(np.mean(found))


def _measured(
    task: Trial, model: torch.nn.Module, meta: ModelMeta, data: Dataset, place: Path
) -> dict[str, float | int | None]:
    """The metrics of the last epoch; the model is kept in `place` if it is the trial's best."""
    line = meta.history[-1]
    agreement = map_cc(model, meta, data, task.config.val_crystals)
    now = agreement if task.config.metric == "map_cc" else -float(line["val_loss"])
    best = read_json(place / "best.json") if (place / "best.json").exists() else None
    if best is None or now > best["score"]:
        checkpoint.save(place, model, meta)
        write_json(place / "history.json", list(meta.history))
        best = {"score": now, "epoch": meta.epoch, "map_cc": agreement, "val_loss": line["val_loss"]}
        write_json(place / "best.json", best)
    return {
        "epoch": meta.epoch,
        "percent": math.floor(100 * meta.epoch / meta.config.epochs),
        "score": best["score"],
        "now": now,
        "train/loss": line["train_loss"],
        "val/loss": line["val_loss"],
        "val/map_cc": agreement,
        "time/epoch_s": line["seconds"],
        **system_metrics(),
        "best/map_cc": best["map_cc"],
        "best/val_loss": best["val_loss"],
        "best/epoch": best["epoch"],
    }


class _Report(TuneReportCallback):  # type: ignore[misc]
    """What workers of Ray Train report, with the scores of the model that they report."""

    def __init__(self, task: Trial, place: Path) -> None:
        super().__init__()
        self.task, self.place = task, place

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if checkpoint is None or "score" not in metrics[0]:
            return  # a checkpoint within an epoch
        with checkpoint.as_directory() as folder:
            model, meta = load_checkpoint(folder)
        data = replace(open_dataset(self.task.dataset), streamed=False)
        super().after_report(run_context, [_measured(self.task, model, meta, data, self.place)], checkpoint)


def _train_on_workers(task: Trial, config: TrainConfig, place: Path) -> None:
    train(
        config, task.dataset, place / "workers", seed=_seed(config, task), name=place.name,
        progress=lambda line: None, callbacks=[_Report(task, place)],
    )  # fmt: skip


def _seed(config: TrainConfig, task: Trial) -> int:
    return config.seed if config.seed is not None else task.seed
