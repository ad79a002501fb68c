"""Registered models: their names, and their checkpoints fetched back."""

from __future__ import annotations

import os
from pathlib import Path

from phaseray.config import ConfigError, TrackingConfig, TrainConfig
from phaseray.tracking.client import connect

__all__ = ["fetch_model", "is_model_uri", "registered_name"]


def registered_name(config: TrainConfig) -> str:
    """phaseray-unet, phaseray-mlp, …: one registered model a kind of network."""
    return f"phaseray-{config.model.kind}"


def is_model_uri(text: str) -> bool:
    return text.startswith(("models:/", "runs:/"))


def fetch_model(uri: str, tracking: TrackingConfig, folder: str | Path) -> Path:
    """The checkpoint inside a logged model, copied into `folder`.

    Parameters
    ----------
    uri : models:/phaseray-unet@champion, models:/phaseray-unet/3, models:/m-…, runs:/…/model

    Returns
    -------
    The folder that holds model.safetensors and model.json.

    Raises
    ------
    ConfigError
        No store is named, it has no such model, or the model was not logged by phaseray.
    """
    store = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not store:
        raise ConfigError(f"{uri} lies in an MLflow store: name it with --set tracking.uri=…, or MLFLOW_TRACKING_URI")
    mlflow, _ = connect(store)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    registry = mlflow.get_registry_uri()
    mlflow.set_registry_uri(store)
    try:
        got = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=store))
    except Exception as error:  # of MLflow, SQLAlchemy or requests, as the store may be
        raise ConfigError(f"{uri} cannot be fetched from {store}: {error}") from error
    finally:
        mlflow.set_registry_uri(registry)
    checkpoint = got / "extra_files"
    if not (checkpoint / "model.json").exists():
        raise ConfigError(f"{uri} holds no checkpoint of phaseray (extra_files/model.json)")
    return checkpoint
