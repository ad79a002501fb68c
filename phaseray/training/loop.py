"""The training loop: batches of amplitudes and densities to a trained network. Knows no Ray.

Networks are taught ρ / σ (see `inputs.density_scale`), so losses are dimensionless and 1 is the
error of a flat map; `predict` gives e/Å³. The same seed, data and threads give the same losses, bit by bit.

Legend: B crystals, D H W the sides of the grid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phaseray.training.averaging import average_into
from phaseray.training.checkpoint import ModelMeta
from phaseray.training.history import Cursor, Mean, epochs_since_best
from phaseray.training.inputs import network_input, target_scale, uncentred
from phaseray.training.objective import Network, Objective, objective_of
from phaseray.training.phasing import phased
from phaseray.training.protocols import Amplitudes, Batch, TrainingData
from phaseray.training.schedules import rate_factor
from phaseray.training.state import Epoch, TrainingState

__all__ = ["Mean", "NonFiniteLossError", "fit", "predict", "steps_per_epoch", "train_epoch", "validate"]


class NonFiniteLossError(ValueError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True)
class _Among:
    """Which of the workers this is, and how they speak with one another."""

    rank: int = 0
    world: int = 1
    add_up: Callable[[Mean], Mean] = lambda mean: mean
    decide: Callable[[bool], bool] = lambda stop: stop


def fit(
    state: TrainingState,
    data: TrainingData,
    *,
    objective: Objective | None = None,
    on_epoch: Callable[[TrainingState], None] = lambda state: None,
    on_step: Callable[[int, Mean], None] | None = None,
    on_checkpoint: Callable[[TrainingState], None] | None = None,
    rank: int = 0,
    world: int = 1,
    add_up: Callable[[Mean], Mean] = lambda mean: mean,
    decide: Callable[[bool], bool] = lambda stop: stop,
) -> TrainingState:
    """Train until `config.epochs` are done, `config.max_minutes` are over or no epoch is better any more.

    A state that was kept within an epoch goes on at the batch that follows.

    Parameters
    ----------
    objective : by default that of the configuration
    on_epoch : called after every epoch, with the new line at the end of `state.history`
    on_step : called after every step, with its number in the epoch and the mean loss of the epoch so far
    on_checkpoint : called every `config.checkpoint_every_steps` steps, with a state that may be kept
    rank, world : of this worker; the batch size is that of one worker
    add_up : sums a `Mean` over the workers
    decide : takes rank 0's word on whether to stop, so that no worker goes on alone
    """
    config = state.config
    objective = objective or objective_of(config)
    among = _Among(rank, world, add_up, decide)
    seen = state.seconds
    began = time.monotonic()
    objective.begin(state, data)
    while state.epoch < config.epochs:
        over = config.max_minutes is not None and state.seconds > 60 * config.max_minutes
        stale = config.early_stopping is not None and epochs_since_best(state.history) >= config.early_stopping
        if decide((over or stale) and not state.cursor.steps):
            break

        def keep() -> None:
            state.seconds = seen + time.monotonic() - began
            if on_checkpoint:
                on_checkpoint(state)

        at = time.monotonic() - state.cursor.seconds
        _passes(state, data, objective, among, on_step, keep)
        train = add_up(state.cursor.loss).value
        if train is None:
            raise ValueError("the data set gave no training batch")
        wait = add_up(Mean(state.cursor.waited, state.cursor.seconds)).value
        val = None
        if data.count("val"):
            # dealt out by batches, so that the loss is of all crystals however many workers there are
            held_out = objective.held_out(state, rank, world)
            if held_out is None:
                held_out = islice(
                    data.batches(
                        "val", config.batch_size, seed=state.seed, epoch=0, shuffle=False, voxels=config.batch_voxels
                    ),
                    rank,
                    None,
                    world,
                )
            mean = validate(state, held_out, objective=objective, rank=rank, world=world)
            val = add_up(mean).value
        state.epoch += 1
        state.seconds = seen + time.monotonic() - began
        line = Epoch(state.epoch, train, val, time.monotonic() - at, state.step, state.cursor.skipped, wait)
        state.history.append(line)
        state.cursor = Cursor(in_a_row=state.cursor.in_a_row)
        on_epoch(state)
    return state


def steps_per_epoch(state: TrainingState, data: TrainingData, world: int = 1) -> int:
    """Steps of the optimizer that the learning rate's schedule and the lines of progress reckon with."""
    return state.config.steps_per_epoch or _steps_per_pass(state, data, world)


def _steps_per_pass(state: TrainingState, data: TrainingData, world: int) -> int:
    batches = data.steps("train", state.config.batch_size, world, voxels=state.config.batch_voxels)
    return math.ceil(batches / state.config.accumulate) * objective_of(state.config).visits


def _passes(
    state: TrainingState,
    data: TrainingData,
    objective: Objective,
    among: _Among,
    on_step: Callable[[int, Mean], None] | None,
    keep: Callable[[], None],
) -> None:
    """One epoch, or what is left of it: one pass over the data, or so much that `steps_per_epoch` steps are had."""
    config = state.config
    wanted = config.steps_per_epoch
    per_epoch = steps_per_epoch(state, data, among.world)
    passes = math.ceil(wanted / max(1, _steps_per_pass(state, data, among.world))) if wanted else 1

    def after_step(mean: Mean) -> None:
        every = config.checkpoint_every_steps
        if on_step:
            on_step(state.cursor.steps, mean)
        if every and state.cursor.steps % every == 0 and state.cursor.steps != wanted:
            mine = state.cursor.loss
            # what is kept is the sum of all workers, and rank 0 goes on with it
            state.cursor = replace(state.cursor, loss=among.add_up(mine))
            keep()
            state.cursor = replace(state.cursor, loss=mine)

    while wanted is None or state.cursor.steps < wanted:
        before = state.cursor
        batches = data.batches(
            "train", config.batch_size, seed=state.seed, epoch=state.epoch * passes + before.data_pass + 1,
            rank=among.rank, world=among.world, voxels=config.batch_voxels, skip=before.crystals,
        )  # fmt: skip
        train_epoch(
            state, batches, objective=objective, rank=among.rank, world=among.world, per_epoch=per_epoch,
            limit=None if wanted is None else wanted - before.steps, after_step=after_step,
        )  # fmt: skip
        if wanted is None:
            return
        if state.cursor == before and not before.crystals:
            raise ValueError("the data set gave no training batch")
        if state.cursor.steps < wanted:
            state.cursor = replace(state.cursor, data_pass=before.data_pass + 1, crystals=0)


def train_epoch(
    state: TrainingState,
    batches: Iterable[Any],
    *,
    objective: Objective | None = None,
    rank: int = 0,
    world: int = 1,
    per_epoch: int = 1,
    limit: int | None = None,
    after_step: Callable[[Mean], None] | None = None,
) -> Mean:
    """One step of the optimizer for every `accumulate` batches; `state.cursor` goes along.

    What is minimised is half the loss and the penalty on the weights. The half and the penalty,
    l2 / (2 · crystals of the step) · |W|² without biases, are scikit-learn's. An MLP's squared error
    is summed over the voxels, not averaged: so does scikit-learn in its gradients, though not in the
    loss that it prints (its _backprop; measured in the tests).

    Parameters
    ----------
    per_epoch : steps, for the schedule of the learning rate
    limit : steps that are taken at most
    after_step : called with the mean loss of the epoch so far

    Raises
    ------
    NonFiniteLossError
        Says where, and what to change.
    """
    config = state.config
    objective = objective or objective_of(config)
    network = state.autocast(state.network)
    state.network.train()
    groups = iter(batches)
    while limit is None or limit > 0:
        began = time.monotonic()
        visit = objective.visit(state.cursor.steps)
        group = [None] * config.accumulate if visit else list(islice(groups, config.accumulate))
        waited = time.monotonic() - began
        if not group:
            break
        # not state.step: with other workers than before an epoch has other steps
        at = state.epoch * per_epoch + state.cursor.steps
        rate = config.learning_rate * rate_factor(config, at, config.epochs * per_epoch)
        for parameters in state.optimizer.param_groups:
            parameters["lr"] = rate
        buffers = [b.clone() for b in state.model.buffers()] if config.on_nonfinite == "skip" else []
        mean, crystals = _gradients(state, group, objective, network, rank, world, visit)
        sound = _is_sound(state, buffers)
        if sound:
            state.optimizer.step()
            if state.averaged is not None:
                assert config.ema is not None
                average_into(state.averaged, state.model, config.ema, state.step - state.skipped + 1)
        state.step += 1
        state.skipped += not sound
        here = state.cursor
        state.cursor = replace(
            here,
            steps=here.steps + 1,
            batches=here.batches + (0 if visit else len(group)),
            crystals=here.crystals + world * crystals,
            loss=Mean(here.loss.total + mean.total, here.loss.count + mean.count),
            skipped=here.skipped + (not sound),
            in_a_row=0 if sound else here.in_a_row + 1,
            waited=here.waited + waited,
            seconds=here.seconds + time.monotonic() - began,
        )
        if state.cursor.in_a_row >= config.max_nonfinite:
            raise NonFiniteLossError(
                f"{config.max_nonfinite} steps in a row gave a loss or a gradient that is not finite, the last in "
                f"epoch {state.epoch + 1}, at step {state.cursor.steps}: lower train.learning_rate (now "
                f"{config.learning_rate:g}) or set train.gradient_clip"
            )
        if limit is not None:
            limit -= 1
        if after_step:
            after_step(state.cursor.loss)
    return state.cursor.loss


def _gradients(
    state: TrainingState,
    group: list[Any],
    objective: Objective,
    network: Network,
    rank: int,
    world: int,
    visit: int,
) -> tuple[Mean, int]:
    """Gradients of one step, from the batches of `group`; the mean of its finite losses, and its crystals."""
    config = state.config
    weights = [p for p in state.model.parameters() if p.ndim > 1]
    crystals = sum(len(batch.ids) for batch in group if batch is not None)
    mean = Mean()
    state.optimizer.zero_grad(set_to_none=True)
    first = max(0, state.cursor.batches - (len(group) if visit else 0))
    for i, batch in enumerate(group):
        # gradients are summed over the workers once a step
        waits = i + 1 < len(group) and hasattr(state.network, "no_sync")
        with state.network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            generator = _generator(state, state.epoch + 1, first + i, rank, *([visit] if visit else []))
            loss_B = objective.losses(state, batch, network, generator=generator, training=True)
            voxels = math.prod(batch.shape) if config.model.kind == "mlp" else 1
            # how many crystals the batches still to come have is not known where they are the objective's own
            share = len(loss_B) / crystals if crystals else 1 / len(group)
            minimised = loss_B.mean() * (voxels / 2 * share)
            if config.l2 and i + 1 == len(group):
                square = torch.stack([w.square().sum() for w in weights]).sum()
                minimised = minimised + config.l2 / (2 * world * (crystals or len(loss_B))) * square
            if config.on_nonfinite == "skip":
                # all gradients must be bad where a loss is, for by them the workers agree on what to skip
                minimised = minimised * torch.where(loss_B.isfinite().all(), 1.0, torch.nan)
            minimised.backward()  # type: ignore[no-untyped-call]
        value = loss_B.detach().double().sum().item()
        if np.isfinite(value):
            mean = Mean(mean.total + value, mean.count + len(loss_B))
        elif config.on_nonfinite == "stop":
            raise NonFiniteLossError(_diagnosis(state, batch, loss_B, f"at step {state.cursor.steps + 1}"))
    return mean, crystals


def _is_sound(state: TrainingState, buffers: list[Tensor]) -> bool:
    """Clip the gradients; where steps may be skipped, undo what a bad one did and say so."""
    config = state.config
    skips = config.on_nonfinite == "skip"
    if config.gradient_clip is None and not skips:
        return True
    parameters = list(state.model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip or math.inf)
    if not skips or bool(norm.isfinite()):
        return True
    with torch.no_grad():
        for buffer, before in zip(state.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    return False


@torch.no_grad()
def validate(
    state: TrainingState,
    batches: Iterable[Any],
    *,
    objective: Objective | None = None,
    rank: int = 0,
    world: int = 1,
) -> Mean:
    """The loss of the weights that will be used, without training."""
    config = state.config
    objective = objective or objective_of(config)
    total = Mean()
    # not `network`: DDP has nothing to add where there are no gradients
    state.to_use.eval()
    network = state.autocast(state.to_use)
    for i, batch in enumerate(batches):
        generator = _generator(state, 0, rank + i * world, 0)
        loss_B = objective.losses(state, batch, network, generator=generator, training=False)
        finite = loss_B.isfinite()
        if config.on_nonfinite == "stop" and not bool(finite.all()):
            raise NonFiniteLossError(_diagnosis(state, batch, loss_B, "in validation"))
        total = Mean(total.total + loss_B[finite].double().sum().item(), total.count + int(finite.sum()))
    return total


@torch.no_grad()
def predict(model: nn.Module, meta: ModelMeta, batches: Iterable[Amplitudes]) -> Iterator[NDArray[np.float32]]:
    """Densities that the network makes of amplitudes: (B, nx, ny, nz) e/Å³ for every batch, in turn.

    ValueError for a network that has no scale (`config.target` is "maximum") where batches hold no true densities.
    """
    device = next(model.parameters()).device
    model.eval()
    for batch in batches:
        if meta.config.model.kind == "cleaner":
            yield phased(model, batch, meta)
            continue
        a_BDHK = torch.tensor(batch.amplitude, device=device)
        truth = getattr(batch, "density", None)
        scale_B = target_scale(
            meta.config.target, a_BDHK, batch.shape, torch.tensor(batch.volume, device=device),
            None if truth is None else torch.tensor(truth, device=device),
        )  # fmt: skip
        y_BDHW = model(network_input(meta.config.input, a_BDHK, batch.shape))[:, 0]
        yield (uncentred(y_BDHW) * scale_B[:, None, None, None]).cpu().numpy()


def _generator(state: TrainingState, *where: int) -> torch.Generator:
    seed = np.random.SeedSequence([state.seed, *where]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=state.device).manual_seed(int(seed))


def _diagnosis(state: TrainingState, batch: Batch | None, loss_B: Tensor, where: str) -> str:
    what = f"the loss became {loss_B.mean().item()} in epoch {state.epoch + 1}, {where}"
    if batch is None or len(batch.ids) != len(loss_B):
        return f"{what}: training diverged; lower train.learning_rate (now {state.config.learning_rate:g})"
    bad = [i for i, finite in zip(batch.ids, torch.isfinite(loss_B).tolist(), strict=True) if not finite]
    data_bad = not (np.isfinite(batch.amplitude).all() and np.isfinite(batch.density).all())
    if data_bad:
        return f"{what}: the data of {', '.join(bad[:5])} hold values that are not finite; generate them again"
    return (
        f"{what} (crystals {', '.join(bad[:5])}): training diverged; lower train.learning_rate "
        f"(now {state.config.learning_rate:g})"
    )
