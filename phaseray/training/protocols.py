"""What training asks of its data; `phaseray.pipeline.loading` keeps these promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from phaseray.diffraction.grid import Shape

__all__ = ["Amplitudes", "Batch", "CellBatch", "TrainingData"]


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


class CellBatch(Batch, Protocol):
    """What the phasing network needs."""

    @property
    def cell(self) -> NDArray[np.float64]:
        """(B, 6) Å and degrees."""


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
        self, split: str, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1,
        shuffle: bool = True, voxels: int | None = None, skip: int = 0,
    ) -> Iterator[Any]:  # fmt: skip
        """Batches of one grid shape each; every rank gets equally many, of equal size, in the order of (seed, epoch).

        With `voxels` a batch has so many grid points in place of `batch_size` crystals. `skip` crystals,
        counted over all ranks, are left out at the beginning: the batches are those that come after.
        """

    def steps(
        self, split: str, batch_size: int, world: int = 1, *, voxels: int | None = None, seed: int | None = None,
        epoch: int = 0, skip: int = 0,
    ) -> int:  # fmt: skip
        """Batches that a rank gets of `batches`; without a seed, of the unshuffled data."""
