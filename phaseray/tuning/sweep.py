"""tune: a search over trainings, on Ray Tune, that goes on where it was cut off."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune as ray_tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, Tuner
from ray.tune.search.optuna import OptunaSearch

from phaseray.config import Config, ConfigError, TuneConfig, digest
from phaseray.pipeline.cluster import connected
from phaseray.pipeline.loading import Dataset, open_dataset
from phaseray.pipeline.run_folder import open_folder
from phaseray.pipeline.storage import read_json, write_json
from phaseray.tracking import prepare, send_waiting
from phaseray.training.state import check_trainable
from phaseray.tuning.log import SweepLog, Tracked, TrialRow
from phaseray.tuning.results import finish
from phaseray.tuning.schedulers import scheduler
from phaseray.tuning.space import Suggest, base_points, random_points, sampler
from phaseray.tuning.trial import Trial, run_trial

__all__ = ["tune"]


def tune(config: Config, dataset: str | Path, out: str | Path) -> dict[str, Any]:
    """Search the spaces of `config.tune`; the best network and its configuration end in `out`.

    A sweep that was cut off goes on when the same is asked for once more: finished trials are kept,
    those that ran go on from their last epoch. `tune.max_minutes` then counts anew.

    Parameters
    ----------
    dataset : a folder of shards with validation crystals
    out
        Gets summary.json, trials.json, best.yaml (for `phaseray train`), best/ (the best network, for
        `phaseray evaluate`), figures/, trials/<id>/ (the best epoch of each) and ray/ (Tune's own state, which holds
        pickles: go on only with a folder that you trust).

    Returns
    -------
    dict
        What summary.json holds.

    Raises
    ------
    ConfigError
        The folder holds another sweep, or the data do not suit the spaces.
    """
    out = Path(out).absolute()
    search = config.tune
    seed = search.seed if search.seed is not None else config.seed
    data = open_dataset(dataset)
    _check(search, data)
    identity = {"command": "tune", "config_digest": digest(search, seed), "dataset_digest": data.digest}
    open_folder(out, identity, config)
    if (out / "summary.json").exists():
        send_waiting(out)
        return dict(read_json(out / "summary.json"))
    began = time.monotonic()
    _quiet()
    task = Trial(search, data.path, str(out), seed)
    with connected(config.ray, dashboard=True):
        tracked = _tracked(config, data, out, seed)
        tuner = _tuner(task, tracked, config)
        grid = tuner.fit()
        rows = _rows(grid)
    return finish(config, data, out, seed, rows, tracked, time.monotonic() - began)


def _check(search: TuneConfig, data: Dataset) -> None:
    if not data.count("val"):
        raise ConfigError(f"a search is judged on validation crystals, and {data.path} has none: see ingest.split.val")
    for name, space in search.spaces.items():
        try:
            check_trainable(space.train, data)
        except ValueError as error:
            raise ConfigError(f"tune.spaces.{name}: {error}") from error


def _tuner(task: Trial, tracked: Tracked | None, config: Config) -> Tuner:
    search = task.config

    def trial(sampled: dict[str, Any]) -> None:
        run_trial(task, sampled)

    several = any(space.train.workers != 1 for space in search.spaces.values())
    # with workers of its own a trial only waits for them
    need = {"CPU": 0.1} if several else {"CPU": search.cpus_per_trial}
    if search.gpus_per_trial and not several:
        need["GPU"] = search.gpus_per_trial
    trainable = ray_tune.with_resources(trial, need)
    storage = Path(task.folder) / "ray"
    if Tuner.can_restore(str(storage / "sweep")):
        return Tuner.restore(str(storage / "sweep"), trainable=trainable, resume_unfinished=True)
    tpe = search.search == "tpe" and search.scheduler != "pbt"
    searcher = space = None
    if tpe:
        searcher = OptunaSearch(
            space=Suggest(search), metric="score", mode="max", sampler=sampler(search, task.seed),
            points_to_evaluate=base_points(search) if search.first_the_base else None,
        )  # fmt: skip
    else:
        space = {"point": ray_tune.grid_search(random_points(search, task.seed))}
    return Tuner(
        trainable,
        param_space=space,
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler(search, task.seed),
            num_samples=search.trials if tpe else 1,
            max_concurrent_trials=search.max_concurrent or _room(search),
            time_budget_s=60 * search.max_minutes if search.max_minutes else None,
            # imports take longer than an epoch of a small network
            reuse_actors=True,
            trial_dirname_creator=_trial_id,
        ),
        run_config=RunConfig(
            name="sweep",
            storage_path=str(storage),
            # of a population, trials take the checkpoints of others, which must not be gone by then
            checkpoint_config=CheckpointConfig(num_to_keep=None if search.scheduler == "pbt" else 1),
            failure_config=FailureConfig(max_failures=1),
            callbacks=[SweepLog(search, tracked)],
            verbose=0,
        ),
    )


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


def _room(search: TuneConfig) -> int:
    """Trials at a time: as many as there are processors for, which on a lone machine are fewer than Ray is told."""
    cpus = float(ray.cluster_resources().get("CPU", 1))
    if len([node for node in ray.nodes() if node["Alive"]]) == 1:
        cpus = min(cpus, os.cpu_count() or 1)
    workers = max(space.train.least_workers for space in search.spaces.values())
    return max(1, math.floor(cpus / max(search.cpus_per_trial, workers if workers > 1 else 0)))


def _tracked(config: Config, data: Dataset, out: Path, seed: int) -> Tracked | None:
    """The run of the sweep: that of before where it goes on."""
    store = prepare(config.tracking, out)
    note = out / "tracking.json"
    run = None
    if note.exists():
        before = read_json(note)
        run = store.resume(before["run_id"]) if before["uri"] == store.uri else None
    if run is None:
        spaces = "+".join(config.tune.spaces)
        run = store.start(
            f"sweep {spaces} {config.tune.search} {config.tune.scheduler} x{config.tune.trials} s{seed}",
            params={
                "spaces": spaces, "trials": config.tune.trials, "search": config.tune.search,
                "scheduler": config.tune.scheduler, "metric": config.tune.metric, "seed": seed, "d_min": data.d_min,
            },
            tags={"stage": "tune", "kind": "sweep", "dataset_digest": data.digest},
        )  # fmt: skip
        run.tags({"sweep_id": run.run_id})
        run.dataset(data.digest, data.path)
        run.file(out / "config.yaml")
        write_json(note, {"uri": store.uri, "run_id": run.run_id})
    return Tracked(store, run, config.tune, seed, data.d_min, data.digest, data.path)


def _rows(grid: Any) -> list[TrialRow]:
    rows = []
    for i in range(len(grid)):
        result = grid[i]
        config = result.config or {}
        frame = result.metrics_dataframe
        lines = [] if frame is None else frame.where(frame.notna(), None).to_dict("records")
        trial_id = lines[-1]["trial_id"] if lines else Path(result.path).name
        rows.append(TrialRow(trial_id, config.get("point", config), lines, "ERROR" if result.error else "TERMINATED"))
    return rows


def _quiet() -> None:
    # Ctrl-C ends the sweep as it ends any command, and the same command goes on
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # the newer one prints a table in spite of verbose=0
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # the state of the sweep is small, and what is lost of it is trained again
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
