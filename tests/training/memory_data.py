"""A small data set in memory that keeps the promises of phaseray.pipeline.loading.Dataset."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phaseray.diffraction.grid import Shape


@dataclass
class MemoryBatch:
    shape: Shape
    ids: list[str]
    amplitude: np.ndarray
    density: np.ndarray
    volume: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((0, 6)))
    numbers: list = field(default_factory=list)
    positions: list = field(default_factory=list)


def blobs(shape: Shape, count: int, seed: int) -> MemoryBatch:
    """Crystals of Gaussian atoms without Nyquist planes: amplitudes and the density they belong to."""
    rng = np.random.default_rng(seed)
    h = np.meshgrid(*[np.fft.fftfreq(n, 1 / n) for n in shape[:2]], np.arange(shape[2] // 2 + 1), indexing="ij")
    h = np.stack(h, -1)
    damping = np.exp(-3.0 * (h**2 / np.array(shape) ** 2).sum(-1))
    for axis, n in enumerate(shape):
        if n % 2 == 0:
            damping[(slice(None),) * axis + (n // 2,)] = 0
    volume = rng.uniform(50, 150, count)
    amplitude, density, numbers, positions = [], [], [], []
    for v in volume:
        x = rng.random((4, 3))
        z = rng.integers(6, 20, 4)
        F = (np.exp(2j * np.pi * h @ x.T) @ z) * damping
        amplitude.append(np.abs(F))
        density.append(np.fft.irfftn(F.conj(), s=shape, axes=(0, 1, 2)) * np.prod(shape) / v)
        numbers.append(z)
        positions.append(x)
    return MemoryBatch(
        shape=shape,
        ids=[f"blob-{seed}-{i}" for i in range(count)],
        amplitude=np.array(amplitude, np.float32),
        density=np.array(density, np.float32),
        volume=volume,
        cell=np.array([[v ** (1 / 3)] * 3 + [90.0] * 3 for v in volume]),
        numbers=numbers,
        positions=positions,
    )


@dataclass
class MemoryData:
    """Splits held in memory; a batch is a run of the epoch's order, dealt out to the ranks in turn."""

    splits: dict[str, list[MemoryBatch]]
    digest: str = "0123456789abcdef"
    d_min: float = 1.0
    info: dict = field(default_factory=dict)

    @classmethod
    def of(cls, shape: Shape = (8, 8, 8), train: int = 16, val: int = 4, seed: int = 0) -> MemoryData:
        return cls({"train": [blobs(shape, train, seed)], "val": [blobs(shape, val, seed + 1)] if val else []})

    @property
    def shapes(self) -> dict[Shape, int]:
        return {b.shape: len(b.ids) for group in self.splits.values() for b in group}

    def count(self, split: str) -> int:
        return sum(len(b.ids) for b in self.splits.get(split, []))

    def steps(
        self, split: str, batch_size: int, world: int = 1, *, voxels: int | None = None, seed: int | None = None,
        epoch: int = 0, skip: int = 0,
    ) -> int:  # fmt: skip
        return len(list(self._dealt(split, batch_size, 0, epoch, 0, world, False, voxels, skip)))

    def batches(
        self, split: str, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1,
        shuffle: bool = True, voxels: int | None = None, skip: int = 0,
    ) -> Iterator[MemoryBatch]:  # fmt: skip
        for group, mine in self._dealt(split, batch_size, seed, epoch, rank, world, shuffle, voxels, skip):
            yield MemoryBatch(
                group.shape,
                [group.ids[i] for i in mine],
                *(getattr(group, name)[mine] for name in ("amplitude", "density", "volume", "cell")),
                numbers=[group.numbers[i] for i in mine],
                positions=[group.positions[i] for i in mine],
            )

    def _dealt(self, split, batch_size, seed, epoch, rank, world, shuffle, voxels, skip):
        for group in self.splits.get(split, []):
            size = (max(1, voxels // math.prod(group.shape)) if voxels else batch_size) * world
            order = np.arange(len(group.ids))
            if shuffle:
                order = np.random.default_rng([seed, epoch]).permutation(order)
            left = order[skip:]
            skip = max(0, skip - len(order))
            for start in range(0, len(left), size):
                yield group, left[start : start + size][rank::world]


@dataclass
class Interrupted(MemoryData):
    """Dies once, in epoch 2 when so many batches were given, and not before what was kept there is safe."""

    folder: str = ""
    batch: int = 0
    myself: bool = True

    @classmethod
    def at(cls, folder: Path, batch: int, myself: bool = True, **options: Any) -> Interrupted:
        """`folder`: gets the file "mark" with the node's name; myself: whether the worker kills itself."""
        return cls(MemoryData.of(**options).splits, folder=str(folder), batch=batch, myself=myself)

    def batches(self, split, batch_size, *, seed, epoch, **options):
        mark = Path(self.folder) / "mark"
        for i, batch in enumerate(super().batches(split, batch_size, seed=seed, epoch=epoch, **options)):
            if split == "train" and epoch == 2 and i == self.batch and not mark.exists():
                self._die(mark)
            yield batch

    def _die(self, mark):
        import ray

        steps_kept = f'"step":{self.steps("train", 4) + self.batch},'
        kept = Path(self.folder).rglob
        self._wait(lambda: any(steps_kept in p.read_text() for p in kept("checkpoint_manager_snapshot.json")))
        aside = mark.with_name("aside")
        aside.write_text(ray.get_runtime_context().get_node_id())
        aside.replace(mark)
        if self.myself:
            os.kill(os.getpid(), signal.SIGKILL)
        self._wait(lambda: False)

    def _wait(self, ready):
        until = time.monotonic() + 60
        while not ready():
            if time.monotonic() > until:
                raise RuntimeError("nobody came to kill this worker, or nothing was kept")
            time.sleep(0.05)
