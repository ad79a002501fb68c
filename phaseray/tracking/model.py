"""A network as an MLflow model: its exported graph, signature, checkpoint, and its place in the registry."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseray.tracking.client import connect

if TYPE_CHECKING:
    from torch import nn

    from phaseray.diffraction.grid import Shape
    from phaseray.tracking.run import Run

__all__ = ["log_model"]


def log_model(
    run: Run, network: nn.Module, shape: Shape, files: Sequence[str | Path], *, name: str | None, alias: str | None
) -> str:
    """See `Run.model`."""
    connect(run.uri)
    import torch
    from mlflow import pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    grids = Schema([TensorSpec(np.dtype("float32"), (-1, 1, *shape))])
    # export takes an example of one crystal for a fixed batch of one
    example = np.zeros((2, 1, *shape), np.float32)
    network = network.eval()
    with _active(run), torch.random.fork_rng(devices=[]):
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
    if name:
        _register(run, name, alias, info)
    return str(info.model_uri)


def _register(run: Run, name: str, alias: str | None, info: Any) -> None:
    # not mlflow.register_model, which talks
    mlflow, client = connect(run.uri)
    try:
        client.create_registered_model(name)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = client.get_logged_model(info.model_id).artifact_location
    version = client.create_model_version(name, source, run.run_id, model_id=info.model_id)
    if alias:
        client.set_registered_model_alias(name, alias, version.version)


@contextmanager
def _active(run: Run) -> Iterator[None]:
    """mlflow.<flavor>.log_model knows only the global run."""
    mlflow, client = connect(run.uri)
    before, named = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    status = client.get_run(run.run_id).info.status
    mlflow.set_tracking_uri(run.uri)
    try:
        with mlflow.start_run(run_id=run.run_id, log_system_metrics=False):
            yield
    finally:
        mlflow.set_tracking_uri(before)
        # which it has just written there too
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if named is not None:
            os.environ["MLFLOW_TRACKING_URI"] = named
        # the end of start_run says FINISHED
        client.update_run(run.run_id, status=status)
