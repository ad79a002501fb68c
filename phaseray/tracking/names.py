"""What runs are called and known by."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from phaseray.config import TrainConfig

__all__ = ["GIT_SHA", "flat_params", "git_sha", "run_name"]


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


GIT_SHA = "PHASERAY_GIT_SHA"


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
