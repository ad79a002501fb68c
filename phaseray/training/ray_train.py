"""The training loop on Ray Train: one worker or many, CPU or GPU, going on after failures.

What the driver does; what each worker does is in `worker`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from phaseray.config import ConfigError, RayConfig, TrackingConfig, TrainConfig, to_yaml
from phaseray.models import build_model, parameter_count
from phaseray.pipeline.cluster import connected
from phaseray.pipeline.loading import open_dataset
from phaseray.pipeline.shared import require_shared
from phaseray.pipeline.storage import read_json, write_json, write_text
from phaseray.tracking import Run, flat_params, prepare, registered_name, run_name, send_waiting
from phaseray.training import checkpoint
from phaseray.training.history import Epoch, epochs_since_best
from phaseray.training.identity import enter
from phaseray.training.lines import lines_to
from phaseray.training.loop import NonFiniteLossError
from phaseray.training.protocols import TrainingData
from phaseray.training.state import check_trainable
from phaseray.training.worker import Task, losses_in_words, work

__all__ = ["TrainResult", "train"]

RESIZE_SECONDS = 60.0  # between looks at whether there is room for more elastic workers


@dataclass(frozen=True)
class TrainResult:
    """What `summary.json` holds.

    Attributes
    ----------
    model : path of the folder with the best model (model.safetensors, model.json); `last` is a folder in it
    best_epoch, best_val_loss : by validation loss, or by training loss where nothing is held out (then None)
    train_loss : of the best epoch
    steps : of the optimizer
    seconds : of training, restarts not counted
    data_wait_fraction : share of the time of all steps that was spent waiting for batches
    key : names all that the weights depend on but the epochs and the machines
    run_id : of MLflow
    """

    name: str
    model: str
    parameters: int
    epochs: int
    steps: int
    best_epoch: int
    best_val_loss: float | None
    train_loss: float
    seconds: float
    data_wait_fraction: float
    seed: int
    dataset_digest: str
    key: str
    run_id: str | None


def train(
    config: TrainConfig,
    dataset: str | Path | TrainingData,
    output: str | Path,
    *,
    seed: int = 0,
    ray: RayConfig | None = None,
    tracking: TrackingConfig | None = None,
    name: str | None = None,
    progress: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    callbacks: Sequence[Any] = (),
) -> TrainResult:
    """Train one network and write the best into `output`.

    A training that was cut off goes on from its last checkpoint when the same is asked for once more; with
    more epochs, or more time, a finished one goes on too, unless its learning rate is laid out over its epochs.

    Parameters
    ----------
    dataset : a folder of shards, or anything that keeps the promises of `TrainingData`
    output
        Gets model.safetensors and model.json (best), last/ (the same of the last epoch),
        history.json, summary.json, config.yaml, and ray/ (checkpoints of every epoch). With
        several machines it must be a folder that all of them see.
    seed : where `config.seed` is None
    ray : where to run; a Ray that runs already is used as it is
    tracking : None for no MLflow
    name : of the training, in file names and in MLflow; by default what varied, unet-d3-w16-lr1e-3-s0
    progress : is called with a line of text an epoch, and one every 10 s within
    callbacks : `ray.train.UserCallback`s, such as Tune's

    Raises
    ------
    ConfigError
        `output` holds another training; says what differs.
    ValueError
        The data do not suit the network, training diverged, or a private cluster lacks the CPUs or GPUs.
    ray.train.TrainingFailedError
        Workers failed more often than `config.max_failures`.
    """
    data = open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
    output = Path(output).absolute()
    seed = config.seed if config.seed is not None else seed
    check_trainable(config, data)
    name = name or run_name(config, seed)
    identity, changes = enter(output, config, data.digest, seed, name)
    name, key = identity.name, identity.key
    done = _done(output, key, config, tracking)
    if done:
        send_waiting(output)
        progress(f"{name}: done before, {_best(done)}")
        return done
    write_text(output / "config.yaml", to_yaml(config))
    ray_config = ray or RayConfig()
    for line in [*changes, _opening(name, config, data)]:
        progress(line)
    with connected(ray_config):
        require_shared(output, *([Path(dataset) / "dataset.json"] if isinstance(dataset, str | Path) else []))
        private = ray_config.address is None and "RAY_ADDRESS" not in os.environ
        _check_resources(config, private, progress)
        # how often the controller looks at its workers, and so what a short epoch costs at least; 2 s by default
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        if private:
            # there is no one to take a private machine away
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        run = _tracked_run(tracking, config, data, dataset, output, seed, name, key, changes)
        with run.ending() if run else nullcontext():
            result = _run(config, data, output / "ray", f"{name}-{key[:8]}", seed, run, progress, callbacks)
            summary = _finish(result, data, output, seed, name, key, run)
    progress(f"{name}: {_best(summary)}, {summary.seconds:.0f} s; model in {output}")
    return summary


def _done(output: Path, key: str, config: TrainConfig, tracking: TrackingConfig | None) -> TrainResult | None:
    """The result of the same training, if it stands there whole."""
    try:
        before = TrainResult(**read_json(output / "summary.json"))
        checkpoint.load_checkpoint(output)
        history = [Epoch(**line) for line in read_json(output / "history.json")]
    except (OSError, TypeError, ValueError):
        return None
    out_of_time = config.max_minutes is not None and before.seconds > 60 * config.max_minutes
    stale = config.early_stopping is not None and epochs_since_best(history) >= config.early_stopping
    enough = before.epochs >= config.epochs or out_of_time or stale
    tracked = tracking is None or before.run_id is not None
    return before if before.key == key and enough and tracked else None


def _best(summary: TrainResult) -> str:
    losses = losses_in_words(summary.train_loss, summary.best_val_loss)
    return f"best of {summary.epochs} epochs is {summary.best_epoch}, {losses}"


def _opening(name: str, config: TrainConfig, data: TrainingData) -> str:
    with torch.device("meta"):
        numbers = parameter_count(build_model(config.model, next(iter(data.shapes))))
    most = config.workers if isinstance(config.workers, int) else config.workers[1]
    few = f"{config.least_workers} to " if most > config.least_workers else ""
    workers = f"{few}{most} worker{'s' if most > 1 else ''}"
    return (
        f"{name}: {numbers:,} parameters, {data.count('train'):,} crystals to train on and {data.count('val'):,} "
        f"to validate with; starting {workers} (takes some 10 s)"
    )


def _check_resources(config: TrainConfig, private: bool, progress: Callable[[str], None]) -> None:
    """Ray would wait for ever for what a private cluster will never have."""
    have = ray.cluster_resources()
    least = config.least_workers
    wanted = {"CPU": least, **({"GPU": least} if config.use_gpu else {})}
    for kind, count in wanted.items():
        if have.get(kind, 0) < count:
            lack = f"train.workers={least} needs {count} {kind}s, and Ray has {have.get(kind, 0):g}"
            if private:
                advice = "set train.use_gpu=false" if kind == "GPU" else "lower train.workers, or raise ray.num_cpus"
                raise ValueError(f"{lack}: {advice}")
            progress(f"{lack}: waiting for the cluster to grow")


def _tracked_run(
    tracking_config: TrackingConfig | None, config: TrainConfig, data: TrainingData, dataset: Any, output: Path,
    seed: int, name: str, key: str, changes: Sequence[str],
) -> Run | None:  # fmt: skip
    """The MLflow run of this training: that of before where it goes on."""
    if tracking_config is None:
        return None
    store = prepare(tracking_config, output)
    note = output / "tracking.json"
    if note.exists():
        before = read_json(note)
        if (before["uri"], before["key"]) == (store.uri, key):
            run = store.resume(before["run_id"])
            if run:
                run.file(output / "config.yaml")
                if changes:
                    # params never change in MLflow
                    run.tags({"changed": "; ".join(changes)})
                return run
    run = store.start(
        run_name(config, seed),
        params={**flat_params(config), "seed": seed, "d_min": data.d_min},
        tags={"stage": "train", "model": config.model.kind, "name": name, "dataset_digest": data.digest},
    )
    if isinstance(dataset, str | Path):
        run.dataset(data.digest, dataset)
    run.file(output / "config.yaml")
    write_json(note, {"uri": store.uri, "run_id": run.run_id, "key": key})
    return run


def _run(
    config: TrainConfig, data: TrainingData, storage: Path, name: str, seed: int, run: Run | None,
    progress: Callable[[str], None], callbacks: Sequence[Any],
) -> Any:  # fmt: skip
    with lines_to(progress) as lines:
        trainer = TorchTrainer(
            work,
            train_loop_config={"task": Task(config, data, seed, run, lines)},
            torch_config=TorchConfig(timeout_s=600),
            scaling_config=ScalingConfig(
                num_workers=config.workers, use_gpu=config.use_gpu, elastic_resize_monitor_interval_s=RESIZE_SECONDS
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage),
                # tries to start workers last a minute each; without a limit they go on for ever
                failure_config=FailureConfig(max_failures=config.max_failures, controller_failure_limit=15),
                # the best, and the last to go on from, which is always kept
                checkpoint_config=CheckpointConfig(
                    num_to_keep=config.keep_best, checkpoint_score_attribute="goodness", checkpoint_score_order="max"
                ),
                logging_config=LoggingConfig(log_level="ERROR"),
                callbacks=list(callbacks),
            ),
        )
        try:
            return trainer.fit()
        except TrainingFailedError as error:
            for cause in getattr(error, "worker_failures", {}).values():
                base = getattr(cause, "_base_exc", cause)
                if isinstance(base, NonFiniteLossError | checkpoint.CheckpointError | ConfigError):
                    raise type(base)(str(base)) from error
            raise


def _data_wait(history: Sequence[dict[str, Any]]) -> float:
    seconds = sum(line["seconds"] for line in history)
    waited = sum((line["data_wait"] or 0.0) * line["seconds"] for line in history)
    return float(waited / max(seconds, 1e-9))


def _finish(
    result: Any, data: TrainingData, output: Path, seed: int, name: str, key: str, run: Run | None
) -> TrainResult:
    with result.checkpoint.as_directory() as folder:
        model, last = checkpoint.load_checkpoint(folder)
    checkpoint.save(output / "last", model, last)
    scored = [pair for pair in result.best_checkpoints if "score" in pair[1]]
    best, _ = min(scored, key=lambda pair: pair[1]["score"])
    with best.as_directory() as folder:
        model, meta = checkpoint.load_checkpoint(folder)
    checkpoint.save(output, model, meta)
    line = meta.history[-1]
    summary = TrainResult(
        name=name,
        model=str(output),
        parameters=parameter_count(model),
        epochs=last.epoch,
        steps=last.step,
        best_epoch=meta.epoch,
        best_val_loss=line["val_loss"],
        train_loss=line["train_loss"],
        seconds=last.seconds,
        data_wait_fraction=_data_wait(last.history),
        seed=seed,
        dataset_digest=data.digest,
        key=key,
        run_id=run.run_id if run else None,
    )
    write_json(output / "history.json", list(last.history))
    write_json(output / "summary.json", asdict(summary))
    if run:
        run.metrics(
            {"best/val_loss": line["val_loss"], "best/train_loss": line["train_loss"], "best/epoch": meta.epoch}
        )
        files = [output / checkpoint.MODEL_WEIGHTS, output / checkpoint.MODEL_JSON]
        run.model(model, meta.shape, files, name=registered_name(meta.config), alias="latest")
    return summary
