"""A network as an MLflow model: its exported graph, signature, checkpoint, and its place in the registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
    _, client = connect(run.uri)
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
            registered_model_name=name,
            await_registration_for=30 if name else None,
        )
    if name and alias:
        client.set_registered_model_alias(name, alias, info.registered_model_version)
    return str(info.model_uri)


@contextmanager
def _active(run: Run) -> Iterator[None]:
    """mlflow.<flavor>.log_model knows only the global run."""
    mlflow, client = connect(run.uri)
    before = mlflow.get_tracking_uri()
    status = client.get_run(run.run_id).info.status
    mlflow.set_tracking_uri(run.uri)
    try:
        with mlflow.start_run(run_id=run.run_id, log_system_metrics=False):
            yield
    finally:
        mlflow.set_tracking_uri(before)
        # the end of start_run says FINISHED
        client.update_run(run.run_id, status=status)
