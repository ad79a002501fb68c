"""Checkpoints without pickle: tensors as safetensors, all else as JSON beside them.

A checkpoint is a folder with model.safetensors (weights), model.json (what they are) and, where
training is to go on, optimizer.safetensors, and unaveraged.safetensors if the weights are a running mean.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from phaseray.config import ConfigError, ModelConfig, TrainConfig
from phaseray.diffraction.grid import Shape
from phaseray.models import build_model
from phaseray.training.history import Cursor, Mean

__all__ = [
    "MODEL_JSON", "MODEL_WEIGHTS", "CheckpointError", "ModelMeta", "begin_with", "load_checkpoint", "load_optimizer",
    "load_unaveraged", "save",
]  # fmt: skip

MODEL_WEIGHTS = "model.safetensors"
MODEL_JSON = "model.json"
OPTIMIZER = "optimizer.safetensors"
UNAVERAGED = "unaveraged.safetensors"
FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which file and why."""


@dataclass(frozen=True)
class ModelMeta:
    """What a trained network is, and what it was trained on.

    Attributes
    ----------
    config : how it was trained; `config.model` and `config.input` are what using it needs
    shape : the grid that an MLP is bound to; for a U-Net, the smallest seen in training
    seed, epoch : epochs done
    dataset_digest, d_min : of the training data; d_min in Å
    seconds : of training until here
    history : one dict an epoch, as `phaseray.training.history.Epoch` has it
    step, skipped : steps of the optimizer, and those of them that were left out
    cursor : how far the epoch after `epoch` had come
    """

    config: TrainConfig
    shape: Shape
    seed: int
    epoch: int
    dataset_digest: str
    d_min: float
    seconds: float
    history: tuple[dict[str, Any], ...]
    step: int = 0
    skipped: int = 0
    cursor: Cursor = field(default_factory=Cursor)


def save(
    folder: str | Path,
    model: nn.Module,
    meta: ModelMeta,
    optimizer: torch.optim.Optimizer | None = None,
    unaveraged: nn.Module | None = None,
) -> None:
    """Write a checkpoint into `folder`, each file aside first and then renamed.

    `model` is what is to be used, `unaveraged` what the optimizer works on where that is something else.
    model.json goes last and holds the SHA-256 of the weights: a folder cut off in between is refused by
    `load_checkpoint` and never half read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = _write_tensors(folder / MODEL_WEIGHTS, model.state_dict())
    document = {
        "format": FORMAT,
        "weights_sha256": sha256,
        "config": meta.config.model_dump(mode="json"),
        "shape": list(meta.shape),
        "seed": meta.seed,
        "epoch": meta.epoch,
        "dataset_digest": meta.dataset_digest,
        "d_min": meta.d_min,
        "seconds": meta.seconds,
        "history": list(meta.history),
        "step": meta.step,
        "skipped": meta.skipped,
        "cursor": asdict(meta.cursor),
        "torch": torch.__version__,
    }
    if optimizer is not None:
        state = optimizer.state_dict()
        tensors = {f"{i}.{k}": v for i, s in state["state"].items() for k, v in s.items() if isinstance(v, Tensor)}
        document["optimizer"] = {
            "sha256": _write_tensors(folder / OPTIMIZER, tensors),
            "kind": meta.config.optimizer,
            "param_groups": state["param_groups"],
        }
    if unaveraged is not None:
        document["unaveraged_sha256"] = _write_tensors(folder / UNAVERAGED, unaveraged.state_dict())
    _replace(folder / MODEL_JSON, (json.dumps(document, indent=1) + "\n").encode())


def load_checkpoint(path: str | Path) -> tuple[nn.Module, ModelMeta]:
    """The network, on the CPU and in evaluation mode, and what it is.

    Parameters
    ----------
    path : the checkpoint's folder, or either of its two files

    Raises
    ------
    CheckpointError
        A file is missing, damaged, from a later version, or does not belong to the other.
    """
    folder, document = _document(path)
    try:
        meta = ModelMeta(
            config=TrainConfig.model_validate(document["config"]),
            shape=tuple(document["shape"]),
            seed=document["seed"],
            epoch=document["epoch"],
            dataset_digest=document["dataset_digest"],
            d_min=document["d_min"],
            seconds=document["seconds"],
            history=tuple(document["history"]),
            step=document.get("step", 0),
            skipped=document.get("skipped", 0),
            cursor=_cursor(document.get("cursor", {})),
        )
    except (KeyError, TypeError, ValidationError, ConfigError) as error:
        raise CheckpointError(f"{folder / MODEL_JSON} lacks or misstates an entry: {error}") from error
    state = _read_tensors(folder / MODEL_WEIGHTS, document["weights_sha256"])
    # the fresh weights are thrown away: they must not advance the caller's generator
    with torch.random.fork_rng(devices=[]):
        model = build_model(meta.config.model, meta.shape)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / MODEL_WEIGHTS} does not fit the network in {MODEL_JSON}: {error}") from error
    return model.eval(), meta


def begin_with(model: nn.Module, config: ModelConfig, path: str) -> None:
    """Put the weights of a checkpoint of the same network into `model`; "shipped" means those of the package.

    Raises
    ------
    CheckpointError
        The checkpoint is damaged, or of another network.
    """
    if path == "shipped":
        from phaseray.phasing.weights import SHIPPED

        path = str(SHIPPED)
    before, meta = load_checkpoint(path)
    if meta.config.model != config:
        raise CheckpointError(f"train.start_from: {path} is of another network ({meta.config.model}, not {config})")
    model.load_state_dict(before.state_dict())


def load_optimizer(path: str | Path, optimizer: torch.optim.Optimizer) -> None:
    """Put the state of a checkpoint's optimizer into `optimizer`, made for the same parameters."""
    folder, document = _document(path)
    if "optimizer" not in document:
        raise CheckpointError(f"{folder} holds no optimizer: training cannot go on from it")
    kept = document["optimizer"]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _read_tensors(folder / OPTIMIZER, kept["sha256"]).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    # JSON makes lists of tuples such as betas
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in kept["param_groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def load_unaveraged(path: str | Path) -> dict[str, Tensor]:
    """The weights that the optimizer of a checkpoint with averaged weights works on."""
    folder, document = _document(path)
    if "unaveraged_sha256" not in document:
        raise CheckpointError(f"{folder} holds no weights but their mean: training cannot go on from it")
    return _read_tensors(folder / UNAVERAGED, document["unaveraged_sha256"])


def _cursor(kept: dict[str, Any]) -> Cursor:
    return Cursor(**{**kept, "loss": Mean(**kept.get("loss", {}))})


def _document(path: str | Path) -> tuple[Path, dict[str, Any]]:
    folder = Path(path)
    if folder.name in {MODEL_WEIGHTS, MODEL_JSON}:
        folder = folder.parent
    try:
        document = json.loads((folder / MODEL_JSON).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"no trained model in {folder}: {MODEL_JSON} cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{folder / MODEL_JSON} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise CheckpointError(f"{folder / MODEL_JSON} has format {found}; this phaseray reads {FORMAT}")
    return folder, document


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    content: bytes = to_bytes({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    _replace(path, content)
    return hashlib.sha256(content).hexdigest()


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{path} is not the file that {MODEL_JSON} was written with: copy both again")
    tensors: dict[str, Tensor] = load(content)
    return tensors


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)
