"""What a training has behind it: means over crystals, its epochs, and its place in the present one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Cursor", "Epoch", "Mean", "epochs_since_best"]


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
    """One line of the history. Losses are means over crystals, without halves or penalties.

    Attributes
    ----------
    steps : of the optimizer, up to the end of this epoch
    skipped : of these, steps of this epoch left out because they were not finite
    data_wait : share of the time of the epoch's steps that was spent waiting for batches
    """

    epoch: int
    train_loss: float
    val_loss: float | None
    seconds: float
    steps: int = 0
    skipped: int = 0
    data_wait: float | None = None

    @property
    def score(self) -> float:
        """What the best epoch has least of: the validation loss, or where nothing is held out the training loss."""
        return self.train_loss if self.val_loss is None else self.val_loss


@dataclass(frozen=True)
class Cursor:
    """How far the present epoch has come.

    Attributes
    ----------
    steps, batches : done; a step has `accumulate` batches. Those of one worker
    data_pass, crystals : passes over the data that lie behind, and crystals of the present one, of all workers
    loss : the mean so far
    skipped, in_a_row : steps left out in this epoch, and those without a good one since
    waited, seconds : for batches, and in all
    """

    steps: int = 0
    batches: int = 0
    data_pass: int = 0
    crystals: int = 0
    loss: Mean = field(default_factory=Mean)
    skipped: int = 0
    in_a_row: int = 0
    waited: float = 0.0
    seconds: float = 0.0


def epochs_since_best(history: Sequence[Epoch]) -> int:
    """0 after the best epoch; of equal ones the first is the best."""
    if not history:
        return 0
    best = min(history, key=lambda line: line.score)
    return history[-1].epoch - best.epoch
