"""A sweep as it goes: lines for people, and MLflow's runs, one of the sweep and below it one a trial.

A trial's run is found by its tags. So a sweep that goes on after its driver was killed makes no run
twice, and no point of a metric either. What the server was away for is made up for at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune.logger import LoggerCallback

from phaseray.config import TuneConfig
from phaseray.tracking import Run, Store, flat_params
from phaseray.tuning.space import is_base, training, trial_name

__all__ = ["SweepLog", "TrialRow"]

LOGGED = ("train/", "val/", "time/", "best/", "system/")


@dataclass
class TrialRow:
    """What is known of one trial."""

    trial_id: str
    point: Mapping[str, Any]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    status: str = "RUNNING"


@dataclass
class Tracked:
    """The sweep in MLflow: the store, the run of the sweep, and what its trials share."""

    store: Store
    run: Run
    config: TuneConfig
    seed: int
    d_min: float
    dataset_digest: str
    dataset: str

    def child(self, row: TrialRow) -> Run:
        """The run of a trial: found, or made."""
        tags = {"sweep_id": self.run.run_id, "trial_id": row.trial_id}
        config = training(self.config, row.point)
        found = self.store.find(tags)
        if found:
            return found
        run = self.store.start(
            trial_name(self.config, row.point) + (" (base)" if is_base(self.config, row.point) else ""),
            tags={
                **tags, "stage": "tune", "model": config.model.kind, "space": row.point["space"],
                "dataset_digest": self.dataset_digest,
            },
            parent=self.run.run_id,
        )  # fmt: skip
        run.dataset(self.dataset_digest, self.dataset)
        return run

    def params(self, row: TrialRow) -> dict[str, Any]:
        return {**flat_params(training(self.config, row.point)), "seed": self.seed, "d_min": self.d_min}

    def send(self, row: TrialRow, run: Run, first: int = 0) -> None:
        """The metrics of the epochs after `first`."""
        for metrics in row.metrics:
            if metrics["epoch"] > first:
                named = {k: v for k, v in metrics.items() if k.startswith(LOGGED) and isinstance(v, int | float)}
                run.metrics(named, step=int(metrics["epoch"]))

    def end(self, row: TrialRow, run: Run) -> None:
        # at the end, for with pbt they change on the way and MLflow's never do
        run.params(self.params(row))
        run.end("FAILED" if row.status == "ERROR" else "FINISHED", patience=0)


class SweepLog(LoggerCallback):  # type: ignore[misc]
    """Tune tells it of each trial."""

    def __init__(self, config: TuneConfig, tracked: Tracked | None, say: Callable[[str], None] | None = None) -> None:
        self.config, self.tracked = config, tracked
        self.say = say or _say
        self.began = time.monotonic()
        self.rows: dict[str, TrialRow] = {}
        self.runs: dict[str, Run] = {}
        self.seen: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps it with the sweep; what it knows of trials it will be told or find again."""
        return {"config": self.config, "tracked": self.tracked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def log_trial_start(self, trial: Any) -> None:
        row = self._row(trial)
        row.status = "RUNNING"
        run = self._run(row)
        if run and self.config.scheduler != "pbt":
            run.params(self.tracked.params(row))  # type: ignore[union-attr]

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        row = self._row(trial)
        row.metrics.append(dict(result))
        run = self._run(row)
        epoch = int(result["epoch"])
        if run and self.tracked:
            self.tracked.send(TrialRow(row.trial_id, row.point, [dict(result)]), run, self.seen[row.trial_id])
            self.seen[row.trial_id] = max(self.seen[row.trial_id], epoch)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        row = self._row(trial)
        row.status = "ERROR" if failed else "TERMINATED"
        run = self._run(row)
        if run and self.tracked:
            self.tracked.end(row, run)
        last = row.metrics[-1] if row.metrics else getattr(trial, "last_result", None) or {}
        of = training(self.config, row.point).epochs
        told = "failed" if failed else f"epoch {last.get('epoch', 0)} of {of}, score {last.get('score', 0):.4f}"
        minutes = (time.monotonic() - self.began) / 60
        self.say(f"{minutes:5.1f} min  {row.trial_id}  {trial_name(self.config, row.point)}: {told}")

    def _row(self, trial: Any) -> TrialRow:
        config = trial.config
        row = self.rows.setdefault(trial.trial_id, TrialRow(trial.trial_id, {}))
        row.point = config.get("point", config)
        return row

    def _run(self, row: TrialRow) -> Run | None:
        if self.tracked and row.trial_id not in self.runs:
            try:
                run = self.tracked.child(row)
                self.seen[row.trial_id] = run.last_step("train/loss") or 0
                self.runs[row.trial_id] = run
            except Exception as error:  # of MLflow, SQLAlchemy or requests
                self.say(f"MLflow is away ({error}); {row.trial_id} is logged at the end")
        return self.runs.get(row.trial_id)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
