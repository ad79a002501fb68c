"""The training loop: batches of amplitudes and densities to a trained network. Knows no Ray.

Networks are taught ρ / σ (see `inputs.density_scale`), so losses are dimensionless and 1 is the
error of a flat map; `predict` gives e/Å³. The same seed, data and threads give the same losses, bit by bit.

Legend: B crystals, D H W the sides of the grid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phaseray.training.checkpoint import ModelMeta
from phaseray.training.inputs import density_scale, network_input, uncentred
from phaseray.training.losses import LOSSES
from phaseray.training.protocols import Amplitudes, Batch, TrainingData
from phaseray.training.state import Epoch, TrainingState

__all__ = ["Mean", "NonFiniteLossError", "fit", "predict", "train_epoch", "validate"]


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
        yield (uncentred(y_BDHW) * scale_B[:, None, None, None]).cpu().numpy()


def _losses(state: TrainingState, batch: Batch, network: nn.Module | None = None) -> Tensor:
    a_BDHK = torch.tensor(batch.amplitude, device=state.device)
    scale_B = density_scale(a_BDHK, batch.shape, torch.tensor(batch.volume, device=state.device))
    # a crystal with no reflection but 000 within the resolution has no scale
    scale_B = torch.where(scale_B > 0, scale_B, 1.0)
    target_BDHW = torch.tensor(batch.density, dtype=torch.float32, device=state.device) / scale_B[:, None, None, None]
    x_BCDHW = network_input(state.config.input, a_BDHK, batch.shape)
    y_BCDHW = (network or state.network)(x_BCDHW)
    return LOSSES[state.config.loss](uncentred(y_BCDHW[:, 0]), target_BDHW)


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
