"""Everything MLflow: runs that can be compared, and nothing that leaves the machine.

Names are the same for every model: train/loss, val/loss, time/epoch_s, best/val_loss, val/sections.
Losses are those of `phaseray.training.loop`: dimensionless, 1 is the error of a flat map.

The database and the experiment are made once, by `prepare` on the driver (first connections in
parallel race MLflow's migrations); a `Run` is then a small value that may be sent to workers.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseray.config import ConfigError, TrackingConfig, TrainConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from numpy.typing import NDArray
    from torch import nn

    from phaseray.diffraction.grid import Shape

__all__ = ["GIT_SHA", "Run", "Store", "flat_params", "git_sha", "prepare", "run_name"]

GIT_SHA = "PHASERAY_GIT_SHA"


@dataclass(frozen=True)
class Store:
    """Where runs are kept. `uri` is the tracking URI, `experiment_id` the experiment in it."""

    uri: str
    experiment_id: str

    def start(
        self, name: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> Run:
        """A new run. `params` are flat (see `flat_params`); None values of `tags` are left out."""
        _, client = _mlflow(self.uri)
        kept = {k: v for k, v in {**(tags or {}), "git_sha": git_sha()}.items() if v}
        run = Run(self.uri, client.create_run(self.experiment_id, tags=kept, run_name=name).info.run_id)
        run.params(params or {})
        return run

    def resume(self, run_id: str) -> Run | None:
        """A run of before, taken up again; None if it is gone."""
        mlflow, client = _mlflow(self.uri)
        try:
            found = client.get_run(run_id)
        except mlflow.exceptions.MlflowException:
            return None
        if found.info.lifecycle_stage != "active" or found.info.experiment_id != self.experiment_id:
            return None
        client.update_run(run_id, status="RUNNING")
        return Run(self.uri, run_id)


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
    location = None
    if uri.startswith("sqlite:///"):
        # absolute, for workers have another working directory; MLflow itself would put files below that
        database = Path(uri.removeprefix("sqlite:///")).absolute()
        uri = f"sqlite:///{database}"
        database.parent.mkdir(parents=True, exist_ok=True)
        location = (database.parent / "mlartifacts").as_uri()
    try:
        _, client = _mlflow(uri)
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None:
            return Store(uri, client.create_experiment(config.experiment, artifact_location=location))
    except Exception as error:  # of MLflow, SQLAlchemy, requests or urllib3, as the store may be
        raise ConfigError(f"tracking.uri {uri} cannot be used: {error}") from error
    if experiment.lifecycle_stage != "active":
        raise ConfigError(
            f"the experiment {config.experiment!r} in {uri} was deleted: restore it, or set tracking.experiment"
        )
    return Store(uri, experiment.experiment_id)


@dataclass(frozen=True)
class Run:
    """One MLflow run, from any process. Small enough to be sent to workers."""

    uri: str
    run_id: str

    def params(self, params: Mapping[str, Any]) -> None:
        """MLflow never lets a param change: those already there are kept."""
        mlflow, client = _mlflow(self.uri)
        known = client.get_run(self.run_id).data.params
        new = [mlflow.entities.Param(k, str(v)) for k, v in params.items() if k not in known]
        if new:
            client.log_batch(self.run_id, params=new)

    def tags(self, tags: Mapping[str, str]) -> None:
        mlflow, client = _mlflow(self.uri)
        client.log_batch(self.run_id, tags=[mlflow.entities.RunTag(k, v) for k, v in tags.items()])

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """One call for all of them; None is left out."""
        mlflow, client = _mlflow(self.uri)
        now = int(time.time() * 1000)
        logged = [mlflow.entities.Metric(k, float(v), now, step) for k, v in values.items() if v is not None]
        if logged:
            client.log_batch(self.run_id, metrics=logged)

    def dataset(self, digest: str, path: str | Path, name: str = "shards", context: str = "training") -> None:
        """The data set as an input of the run, known by its digest."""
        mlflow, client = _mlflow(self.uri)
        entities = mlflow.entities
        dataset = entities.Dataset(
            name=name,
            digest=digest,
            source_type="local",
            source=json.dumps({"uri": str(Path(path).absolute())}),
            profile=None,
        )
        tag = entities.InputTag("mlflow.data.context", context)
        client.log_inputs(self.run_id, [entities.DatasetInput(dataset, [tag])])

    def image(self, image: NDArray[np.uint8], key: str = "val/sections", step: int = 0) -> None:
        """(H, W, 3) uint8, shown with a slider over the steps."""
        _, client = _mlflow(self.uri)
        client.log_image(self.run_id, image, key=key, step=step, synchronous=True)

    def file(self, path: str | Path, folder: str | None = None) -> None:
        """A file as an artifact, in `folder` of the run's artifacts."""
        _, client = _mlflow(self.uri)
        client.log_artifact(self.run_id, str(path), folder)

    def model(self, network: nn.Module, shape: Shape, files: Sequence[str | Path] = ()) -> str:
        """Log the network with its signature; returns the model's URI.

        What is logged is the exported graph (pt2: no pickle, no phaseray needed to load it), from
        (-1, 1, *shape) inputs as `phaseray.training.inputs.network_input` makes them to ρ/σ, both
        with the origin in the middle of the grid. It takes any number of crystals, but the grid is
        bound to `shape`; `files` (the checkpoint) go beside it for other grids.
        """
        _mlflow(self.uri)
        import torch
        from mlflow import pytorch
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        grids = Schema([TensorSpec(np.dtype("float32"), (-1, 1, *shape))])
        # export takes an example of one crystal for a fixed batch of one
        example = np.zeros((2, 1, *shape), np.float32)
        network = network.eval()
        with self._active(), torch.random.fork_rng(devices=[]):
            info = pytorch.log_model(
                network,
                name="model",
                signature=ModelSignature(inputs=grids, outputs=grids),
                input_example=example,
                serialization_format="pt2",
                # named, or MLflow loads the model once more to find out, and asks the network
                pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
                extra_files=[str(f) for f in files] or None,
            )
        return str(info.model_uri)

    def end(self, status: str = "FINISHED") -> None:
        """FINISHED, FAILED or KILLED."""
        _, client = _mlflow(self.uri)
        client.set_terminated(self.run_id, status)

    @contextmanager
    def ending(self) -> Iterator[Run]:
        """Ends the run with the block: as FAILED if it raises."""
        try:
            yield self
        except BaseException as error:
            self.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self.end()

    @contextmanager
    def _active(self) -> Iterator[None]:
        """mlflow.<flavor>.log_model knows only the global run."""
        mlflow, client = _mlflow(self.uri)
        before = mlflow.get_tracking_uri()
        status = client.get_run(self.run_id).info.status
        mlflow.set_tracking_uri(self.uri)
        try:
            with mlflow.start_run(run_id=self.run_id, log_system_metrics=False):
                yield
        finally:
            mlflow.set_tracking_uri(before)
            # the end of start_run says FINISHED
            client.update_run(self.run_id, status=status)


def run_name(config: TrainConfig, seed: int) -> str:
    """What varied, in one word: unet-d3-w16-lr1e-3-s0. Input, loss and size are named where not the default."""
    model = config.model
    if model.kind == "unet":
        parts = ["unet", f"d{model.depth}", f"w{model.width}"]
        parts += ["zero"] if model.padding == "zero" else []
        parts += [f"norm_{model.norm}"] if model.norm != "group" else []
    elif model.kind == "cleaner":
        parts = ["cleaner", f"w{model.width}"]
    else:
        parts = ["mlp", "h" + "x".join(str(n) for n in model.hidden)]
    parts += [config.input] if config.input != "intensities" else []
    parts += ["any_origin"] if config.loss == "mse_any_origin" else []
    mantissa, exponent = f"{config.learning_rate:.2e}".split("e")
    return "-".join([*parts, f"lr{float(mantissa):g}e{int(exponent)}", f"s{seed}"])


def flat_params(config: Any, prefix: str = "") -> dict[str, Any]:
    """A configuration as flat params: {"model.depth": 3, "learning_rate": 0.001, …}."""
    content = config.model_dump(mode="json") if hasattr(config, "model_dump") else config
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flat_params(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def git_sha() -> str | None:
    """The commit of the working directory, with -dirty where files differ from it; None outside git.

    In a job, whose working directory is a copy without a repository: what `phaseray submit` says.
    """
    if GIT_SHA in os.environ:
        return os.environ[GIT_SHA]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _mlflow(uri: str) -> tuple[Any, MlflowClient]:
    """MLflow, silenced before its import, and a client of `uri`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # a server that does not answer is given half a minute; by default it is four
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    import mlflow

    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow, mlflow.MlflowClient(tracking_uri=uri)
