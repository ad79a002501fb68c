"""Where runs are kept: the database or server, and the experiment in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseray.config import ConfigError, TrackingConfig
from phaseray.tracking.client import connect, is_away
from phaseray.tracking.names import git_sha
from phaseray.tracking.run import Run

__all__ = ["Store", "prepare"]

PATIENCE_S = 30.0  # with a server that is just being started


@dataclass(frozen=True)
class Store:
    """`uri` is the tracking URI, `experiment_id` the experiment in it, `outbox` a folder (see `outbox`)."""

    uri: str
    experiment_id: str
    outbox: str

    def start(
        self, name: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> Run:  # fmt: skip
        """A new run, of the run `parent`. `params` are flat (see `flat_params`); None values of `tags` are left out."""
        _, client = connect(self.uri)
        all_tags = {**(tags or {}), "git_sha": git_sha(), "mlflow.parentRunId": parent}
        kept = {k: v for k, v in all_tags.items() if v}
        run = self._run(client.create_run(self.experiment_id, tags=kept, run_name=name).info.run_id)
        run.params(params or {})
        return run

    def resume(self, run_id: str) -> Run | None:
        """A run of before, taken up again; None if it is gone."""
        mlflow, client = connect(self.uri)
        try:
            found = client.get_run(run_id)
        except mlflow.exceptions.MlflowException:
            return None
        if found.info.lifecycle_stage != "active" or found.info.experiment_id != self.experiment_id:
            return None
        client.update_run(run_id, status="RUNNING")
        return self._run(run_id)

    def find(self, tags: Mapping[str, str]) -> Run | None:
        """The run with these tags, if there is one."""
        _, client = connect(self.uri)
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = client.search_runs([self.experiment_id], wanted, max_results=1)
        return self._run(found[0].info.run_id) if found else None

    def _run(self, run_id: str) -> Run:
        return Run(self.uri, run_id, str(Path(self.outbox) / run_id))


def prepare(config: TrackingConfig, output: str | Path) -> Store:
    """Make the database and the experiment, or find them: once, on the driver.

    Without `tracking.uri` runs go to <output>/mlflow.db. Files go to mlartifacts beside such a
    database; a server keeps them itself. Look at them with
    `mlflow ui --backend-store-uri sqlite:///<output>/mlflow.db`.

    Raises
    ------
    ConfigError
        The store cannot be reached, or the experiment was deleted.
    """
    uri = config.uri or f"sqlite:///{Path(output).absolute() / 'mlflow.db'}"
    outbox = str(Path(output).absolute() / "outbox")
    location = None
    if uri.startswith("sqlite:///"):
        # absolute, for workers have another working directory; MLflow itself would put files below that
        database = Path(uri.removeprefix("sqlite:///")).absolute()
        uri = f"sqlite:///{database}"
        database.parent.mkdir(parents=True, exist_ok=True)
        location = (database.parent / "mlartifacts").as_uri()
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            _, client = connect(uri)
            experiment = client.get_experiment_by_name(config.experiment)
            if experiment is None:
                return Store(uri, client.create_experiment(config.experiment, artifact_location=location), outbox)
            break
        except Exception as error:  # of MLflow, SQLAlchemy, requests or urllib3, as the store may be
            if not uri.startswith("http") or not is_away(error) or time.monotonic() > until:
                raise ConfigError(f"tracking.uri {uri} cannot be used: {error}") from error
            time.sleep(1)
    if experiment.lifecycle_stage != "active":
        raise ConfigError(
            f"the experiment {config.experiment!r} in {uri} was deleted: restore it, or set tracking.experiment"
        )
    return Store(uri, experiment.experiment_id, outbox)
