"""The state of a training: network, optimizer and history, and how it is begun, kept and restored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from phaseray.config import TrainConfig
from phaseray.diffraction.grid import Shape
from phaseray.models import build_model
from phaseray.training import checkpoint
from phaseray.training.checkpoint import ModelMeta
from phaseray.training.protocols import TrainingData

__all__ = ["Epoch", "TrainingState", "check_trainable"]


@dataclass(frozen=True)
class Epoch:
    """One line of the history. Losses are means over crystals, the squared error without halves or penalties."""

    epoch: int
    train_loss: float
    val_loss: float | None
    seconds: float

    @property
    def score(self) -> float:
        """What the best epoch has least of: the validation loss, or where nothing is held out the training loss."""
        return self.train_loss if self.val_loss is None else self.val_loss


@dataclass
class TrainingState:
    """Everything that changes in training, and what it must not be parted from.

    `network` is what is called: the model itself, or DDP around it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    shape: Shape
    seed: int
    dataset_digest: str
    d_min: float
    epoch: int = 0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    network: nn.Module = None  # type: ignore[assignment]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.network is None:
            self.network = self.model

    @classmethod
    def fresh(
        cls, config: TrainConfig, data: TrainingData, *, seed: int, device: torch.device | str = "cpu"
    ) -> TrainingState:
        """A network drawn from `seed`, and its optimizer. Raises as `check_trainable` does."""
        check_trainable(config, data)
        shape = min(data.shapes, key=lambda shape: (math.prod(shape), shape))
        torch.manual_seed(seed)
        model = build_model(config.model, shape).to(device)
        return cls(
            model, _optimizer(config, model), config, shape, seed, data.digest, data.d_min,
            device=torch.device(device),
        )  # fmt: skip

    @property
    def meta(self) -> ModelMeta:
        return ModelMeta(
            self.config, self.shape, self.seed, self.epoch, self.dataset_digest, self.d_min, self.seconds,
            tuple(vars(e) for e in self.history),
        )  # fmt: skip

    def save(self, folder: str | Any) -> None:
        checkpoint.save(folder, self.model, self.meta, self.optimizer)

    def restore(self, folder: str | Any) -> None:
        """Go on from a checkpoint of the same network and data.

        Raises
        ------
        CheckpointError
            The checkpoint is damaged, or of another network or data set.
        """
        model, meta = checkpoint.load_checkpoint(folder)
        for name, ours, theirs in (
            ("model", self.config.model, meta.config.model),
            ("optimizer", self.config.optimizer, meta.config.optimizer),
            ("data set", self.dataset_digest, meta.dataset_digest),
        ):
            if ours != theirs:
                raise checkpoint.CheckpointError(f"{folder} was made with another {name} ({theirs}, not {ours})")
        self.model.load_state_dict(model.state_dict())
        checkpoint.load_optimizer(folder, self.optimizer)
        self.epoch, self.seconds = meta.epoch, meta.seconds
        self.history = [Epoch(**e) for e in meta.history]


def check_trainable(config: TrainConfig, data: TrainingData) -> None:
    """ValueError where there is nothing to train on, or an MLP is asked to read grids of several shapes."""
    if not data.count("train"):
        raise ValueError("the data set holds no training crystals: see the rejections in its summary.json")
    if config.model.kind == "mlp" and len(data.shapes) > 1:
        raise ValueError(
            f"an MLP reads one grid shape, and this data set has {len(data.shapes)}: generate it with a fixed grid "
            "(generate.grid.kind=fixed), or train a U-Net"
        )


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    make: Callable[..., torch.optim.Optimizer] = kinds[config.optimizer]
    return make(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
