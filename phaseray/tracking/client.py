"""MLflow itself: imported late and silenced, and how its errors are told apart."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["connect", "is_away"]


def connect(uri: str) -> tuple[Any, MlflowClient]:
    """MLflow, silenced before its import, and a client of `uri`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # a training must not wait for a server: by default MLflow tries for four minutes, at each call
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    import mlflow

    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow, mlflow.MlflowClient(tracking_uri=uri)


# what a server says that is there, but cannot at the moment
_FOR_NOW = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "IO_ERROR"}


def is_away(error: Exception) -> bool:
    """Whether the same call may succeed later; else it was refused, and always will be."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        return error.error_code in _FOR_NOW
    return isinstance(error, OSError | SQLAlchemyError)  # errors of requests and urllib3 are OSErrors
