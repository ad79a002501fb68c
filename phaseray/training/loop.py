"""The training loop: batches of amplitudes and densities to a trained network. Knows no Ray.

Networks are taught ρ / σ (see `inputs.density_scale`), so losses are dimensionless and 1 is the
error of a flat map; `predict` gives e/Å³. The same seed, data and threads give the same losses, bit by bit.

Legend: B crystals, D H W the sides of the grid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phaseray.config import TrainConfig
from phaseray.diffraction.grid import Shape
from phaseray.models import build_model
from phaseray.training import checkpoint
from phaseray.training.checkpoint import ModelMeta
from phaseray.training.inputs import density_scale, network_input
from phaseray.training.losses import LOSSES

__all__ = [
    "Amplitudes", "Batch", "Epoch", "Mean", "NonFiniteLossError", "TrainingData", "TrainingState", "check_trainable",
    "fit", "predict", "train_epoch", "validate",
]  # fmt: skip


class Amplitudes(Protocol):
    """What a prediction needs of a batch: crystals on grids of one shape."""

    @property
    def shape(self) -> Shape: ...
    @property
    def amplitude(self) -> NDArray[np.float32]:
        """(B, nx, ny, nz//2+1) |F| in electrons, FFT order."""

    @property
    def volume(self) -> NDArray[np.float64]:
        """(B,) Å³."""


class Batch(Amplitudes, Protocol):
    """What training needs."""

    @property
    def ids(self) -> list[str]: ...
    @property
    def density(self) -> NDArray[np.float32]:
        """(B, nx, ny, nz) e/Å³."""


class TrainingData(Protocol):
    """A data set as `phaseray.pipeline.loading.Dataset` is one."""

    @property
    def digest(self) -> str: ...
    @property
    def d_min(self) -> float:
        """Å."""

    @property
    def shapes(self) -> dict[Shape, int]:
        """Grid shape to number of crystals."""

    def count(self, split: str) -> int: ...
    def batches(
        self, split: str, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1, shuffle: bool = True
    ) -> Iterator[Any]: ...
    def steps(self, split: str, batch_size: int, world: int = 1) -> int: ...


class NonFiniteLossError(ValueError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True)
class Mean:
    """A mean in the making; the sums of several workers add up."""

    total: float = 0.0
    count: float = 0.0

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


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
        shape = min(data.shapes)
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


def fit(
    state: TrainingState,
    data: TrainingData,
    *,
    on_epoch: Callable[[TrainingState], None] = lambda state: None,
    on_step: Callable[[int, Mean], None] | None = None,
    rank: int = 0,
    world: int = 1,
    add_up: Callable[[Mean], Mean] = lambda mean: mean,
    decide: Callable[[bool], bool] = lambda stop: stop,
) -> TrainingState:
    """Train until `config.epochs` are done or `config.max_minutes` are over.

    Parameters
    ----------
    on_epoch : called after every epoch, with the new line at the end of `state.history`
    on_step : called after every step, with its number and the mean loss of the epoch so far
    rank, world : of this worker; the batch size is that of one worker
    add_up : sums a `Mean` over the workers
    decide : takes rank 0's word on whether to stop, so that no worker goes on alone
    """
    config = state.config
    seen = state.seconds
    began = time.monotonic()
    while state.epoch < config.epochs:
        over = config.max_minutes is not None and state.seconds > 60 * config.max_minutes
        if decide(over):
            break
        at = time.monotonic()
        epoch = state.epoch + 1
        batches = data.batches("train", config.batch_size, seed=state.seed, epoch=epoch, rank=rank, world=world)
        train = add_up(train_epoch(state, batches, world=world, on_step=on_step)).value
        if train is None:
            raise ValueError("the data set gave no training batch")
        val = None
        if data.count("val"):
            # dealt out by batches, so that the loss is of all crystals however many workers there are
            held_out = data.batches("val", config.batch_size, seed=state.seed, epoch=0, shuffle=False)
            val = add_up(validate(state, islice(held_out, rank, None, world))).value
        state.epoch = epoch
        state.seconds = seen + time.monotonic() - began
        state.history.append(Epoch(epoch, train, val, time.monotonic() - at))
        on_epoch(state)
    return state


def train_epoch(
    state: TrainingState,
    batches: Iterable[Batch],
    *,
    world: int = 1,
    on_step: Callable[[int, Mean], None] | None = None,
) -> Mean:
    """One step of the optimizer a batch. What is minimised is half the loss and the penalty on the weights.

    The half and the penalty, l2 / (2 · crystals of the step) · |W|² without biases, are scikit-learn's. An
    MLP's squared error is summed over the voxels, not averaged: so does scikit-learn in its
    gradients, though not in the loss that it prints (its _backprop; measured in the tests).

    Raises
    ------
    NonFiniteLossError
        Says where, and what to change.
    """
    config = state.config
    weights = [p for p in state.model.parameters() if p.ndim > 1]
    total = Mean()
    state.network.train()
    for step, batch in enumerate(batches, 1):
        loss_B = _losses(state, batch)
        voxels = math.prod(batch.shape) if config.model.kind == "mlp" else 1
        objective = loss_B.mean() * (voxels / 2)
        if config.l2:
            square = torch.stack([w.square().sum() for w in weights]).sum()
            objective = objective + config.l2 / (2 * world * len(loss_B)) * square
        state.optimizer.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        value = loss_B.detach().double().sum().item()
        if not np.isfinite(value):
            raise NonFiniteLossError(_diagnosis(state, batch, loss_B, f"at step {step}"))
        state.optimizer.step()
        total = Mean(total.total + value, total.count + len(loss_B))
        if on_step:
            on_step(step, total)
    return total


@torch.no_grad()
def validate(state: TrainingState, batches: Iterable[Batch]) -> Mean:
    """The loss without training."""
    total = Mean()
    # not `network`: DDP has nothing to add where there are no gradients
    state.model.eval()
    for batch in batches:
        loss_B = _losses(state, batch, state.model)
        value = loss_B.double().sum().item()
        if not np.isfinite(value):
            raise NonFiniteLossError(_diagnosis(state, batch, loss_B, "in validation"))
        total = Mean(total.total + value, total.count + len(loss_B))
    return total


@torch.no_grad()
def predict(model: nn.Module, meta: ModelMeta, batches: Iterable[Amplitudes]) -> Iterator[NDArray[np.float32]]:
    """Densities that the network makes of amplitudes: (B, nx, ny, nz) e/Å³ for every batch, in turn."""
    device = next(model.parameters()).device
    model.eval()
    for batch in batches:
        a_BDHK = torch.tensor(batch.amplitude, device=device)
        scale_B = density_scale(a_BDHK, batch.shape, torch.tensor(batch.volume, device=device))
        y_BDHW = model(network_input(meta.config.input, a_BDHK, batch.shape))[:, 0]
        yield (y_BDHW * scale_B[:, None, None, None]).cpu().numpy()


def _losses(state: TrainingState, batch: Batch, network: nn.Module | None = None) -> Tensor:
    a_BDHK = torch.tensor(batch.amplitude, device=state.device)
    scale_B = density_scale(a_BDHK, batch.shape, torch.tensor(batch.volume, device=state.device))
    # a crystal with no reflection but 000 within the resolution has no scale
    scale_B = torch.where(scale_B > 0, scale_B, 1.0)
    target_BDHW = torch.tensor(batch.density, dtype=torch.float32, device=state.device) / scale_B[:, None, None, None]
    x_BCDHW = network_input(state.config.input, a_BDHK, batch.shape)
    y_BCDHW = (network or state.network)(x_BCDHW)
    return LOSSES[state.config.loss](y_BCDHW[:, 0], target_BDHW)


def _diagnosis(state: TrainingState, batch: Batch, loss_B: Tensor, where: str) -> str:
    bad = [i for i, finite in zip(batch.ids, torch.isfinite(loss_B).tolist(), strict=True) if not finite]
    what = f"the loss became {loss_B.mean().item()} in epoch {state.epoch + 1}, {where}"
    data_bad = not (np.isfinite(batch.amplitude).all() and np.isfinite(batch.density).all())
    if data_bad:
        return f"{what}: the data of {', '.join(bad[:5])} hold values that are not finite; generate them again"
    return (
        f"{what} (crystals {', '.join(bad[:5])}): training diverged; lower train.learning_rate "
        f"(now {state.config.learning_rate:g})"
    )


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    make: Callable[..., torch.optim.Optimizer] = kinds[config.optimizer]
    return make(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
