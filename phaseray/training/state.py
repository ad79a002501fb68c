"""The state of a training: network, optimizer and history, and how it is begun, kept and restored."""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from phaseray.config import ConfigError, TrainConfig
from phaseray.diffraction.grid import Shape
from phaseray.models import build_model
from phaseray.training import checkpoint
from phaseray.training.averaging import averaged_copy
from phaseray.training.checkpoint import ModelMeta
from phaseray.training.history import Cursor, Epoch, Mean
from phaseray.training.protocols import TrainingData

__all__ = ["Epoch", "TrainingState", "check_trainable"]


@dataclass
class TrainingState:
    """Everything that changes in training, and what it must not be parted from.

    Attributes
    ----------
    network : what is called in training: the model itself, compiled or not, or DDP around it
    averaged : the running mean of the model's weights, where there is to be one
    epoch, step, skipped : epochs and steps done, and steps of these that were left out
    cursor : how far the epoch after `epoch` has come
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    shape: Shape
    seed: int
    dataset_digest: str
    d_min: float
    averaged: nn.Module | None = None
    epoch: int = 0
    step: int = 0
    skipped: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    network: nn.Module = None  # type: ignore[assignment]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.network is None:
            self.call(self.model)
        if self.config.ema is not None and self.averaged is None:
            self.averaged = averaged_copy(self.model)

    def call(self, network: nn.Module) -> None:
        """What is called in training from now on; ConfigError where it is to be compiled and no compiler is there."""
        if self.config.compile and self.device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
            # torch itself would say so at the first step, at the end of many lines
            raise ConfigError(
                f"train.compile wants a C++ compiler, and {os.environ.get('CXX', 'g++')} is not to be found on "
                f"{platform.node()}: install it, name another in CXX, or set train.compile=false"
            )
        compiled: Any = torch.compile(network) if self.config.compile else network
        self.network = compiled

    @property
    def to_use(self) -> nn.Module:
        """The weights that are validated and handed out: the mean, where there is one."""
        return self.model if self.averaged is None else self.averaged

    def autocast(self, network: nn.Module) -> Callable[..., Tensor]:
        """`network` in the configured precision; what it gives is float32."""
        if self.config.precision == "float32":
            return network

        def lowered(*inputs: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16):
                y: Tensor = network(*inputs)
            return y.float()

        return lowered

    @classmethod
    def fresh(
        cls, config: TrainConfig, data: TrainingData, *, seed: int, device: torch.device | str = "cpu"
    ) -> TrainingState:
        """A network drawn from `seed`, and its optimizer. Raises as `check_trainable` does."""
        check_trainable(config, data)
        shape = min(data.shapes, key=lambda shape: (math.prod(shape), shape))
        torch.manual_seed(seed)
        model = build_model(config.model, shape).to(device)
        if config.start_from is not None:
            checkpoint.begin_with(model, config.model, config.start_from)
        return cls(
            model, _optimizer(config, model), config, shape, seed, data.digest, data.d_min,
            device=torch.device(device),
        )  # fmt: skip

    @property
    def meta(self) -> ModelMeta:
        return ModelMeta(
            self.config, self.shape, self.seed, self.epoch, self.dataset_digest, self.d_min, self.seconds,
            tuple(vars(e) for e in self.history), self.step, self.skipped, self.cursor,
        )  # fmt: skip

    def save(self, folder: str | Any) -> None:
        unaveraged = None if self.averaged is None else self.model
        checkpoint.save(folder, self.to_use, self.meta, self.optimizer, unaveraged)

    def restore(self, folder: str | Any, *, rank: int = 0) -> None:
        """Go on from a checkpoint of the same network and data.

        Sums over all workers, such as the loss of a begun epoch, are rank 0's to go on with.

        Raises
        ------
        CheckpointError
            The checkpoint is damaged, or of another network or data set.
        """
        model, meta = checkpoint.load_checkpoint(folder)
        for name, ours, theirs in (
            ("model", self.config.model, meta.config.model),
            ("optimizer", self.config.optimizer, meta.config.optimizer),
            ("ema", self.config.ema is None, meta.config.ema is None),
            ("data set", self.dataset_digest, meta.dataset_digest),
        ):
            if ours != theirs:
                raise checkpoint.CheckpointError(f"{folder} was made with another {name} ({theirs}, not {ours})")
        self.to_use.load_state_dict(model.state_dict())
        if self.averaged is not None:
            self.model.load_state_dict(checkpoint.load_unaveraged(folder))
        checkpoint.load_optimizer(folder, self.optimizer)
        for group in self.optimizer.param_groups:
            # what is tuned may have changed in between
            group |= {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay}
        self.epoch, self.seconds = meta.epoch, meta.seconds
        self.step, self.skipped, self.cursor = meta.step, meta.skipped, meta.cursor
        if rank:
            self.cursor = replace(self.cursor, loss=Mean())
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
