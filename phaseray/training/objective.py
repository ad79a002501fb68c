"""What is minimised: one number a crystal, of a batch and a network. The loop knows nothing else of the task.

Legend: B crystals, C channels, D H W the sides of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from phaseray.config import TrainConfig
from phaseray.training.inputs import network_input, target_scale, uncentred
from phaseray.training.losses import LOSSES
from phaseray.training.protocols import Batch, TrainingData
from phaseray.training.state import TrainingState

__all__ = ["Network", "Objective", "RegressionObjective", "objective_of"]

Network = Callable[..., Tensor]


class Objective(Protocol):
    """One task.

    Attributes
    ----------
    visits : int
        Steps that are taken for each step's worth of batches: in the others `batch` is None, and the objective
        goes on with what it has kept.
    """

    visits: int

    def begin(self, state: TrainingState, data: TrainingData) -> None:
        """Called once, before the first step."""

    def visit(self, step: int) -> int:
        """0 where the step with this number in its epoch needs batches; else a number of its own among those steps."""

    def held_out(self, state: TrainingState, rank: int, world: int) -> Iterable[Any] | None:
        """What is validated with in place of the batches of the data, dealt out to the workers; None: the data."""

    def losses(
        self, state: TrainingState, batch: Any, network: Network, *, generator: torch.Generator, training: bool
    ) -> Tensor:
        """(B,) losses of the batch's crystals, float32.

        Parameters
        ----------
        state : its `device` and `config`; must not be changed
        batch : as `TrainingData.batches` gives them, or None (see `visits`)
        network
            What to call: in training DDP where there are several workers, in validation the weights that
            will be used. It runs in the configured precision and gives float32.
        generator
            On the state's device, and the only source of chance. It begins anew with every step, from (seed,
            epoch, batch, visit, worker), so that a training that goes on draws what it would have drawn; in
            validation from (seed, batch), the same at every epoch and for any number of workers.
        training : False in validation, where there are no gradients
        """


class RegressionObjective:
    """Densities in the units of `config.target`, from measured amplitudes, in one go."""

    visits = 1

    def begin(self, state: TrainingState, data: TrainingData) -> None:
        pass

    def visit(self, step: int) -> int:
        return 0

    def held_out(self, state: TrainingState, rank: int, world: int) -> Iterable[Any] | None:
        return None

    def losses(
        self, state: TrainingState, batch: Batch, network: Network, *, generator: torch.Generator, training: bool
    ) -> Tensor:
        a_BDHK = torch.tensor(batch.amplitude, device=state.device)
        density_BDHW = torch.tensor(batch.density, dtype=torch.float32, device=state.device)
        volume_B = torch.tensor(batch.volume, device=state.device)
        scale_B = target_scale(state.config.target, a_BDHK, batch.shape, volume_B, density_BDHW)
        target_BDHW = density_BDHW / scale_B[:, None, None, None]
        y_BCDHW = network(network_input(state.config.input, a_BDHK, batch.shape))
        return LOSSES[state.config.loss](uncentred(y_BCDHW[:, 0]), target_BDHW)


def objective_of(config: TrainConfig) -> Objective:
    """The task of a configuration."""
    if config.model.kind == "cleaner":
        from phaseray.training.phasing import PhasingObjective

        return PhasingObjective(config.phasing)
    return RegressionObjective()
