"""Shards to batches: seeded, of one grid shape each, the same number of steps for every rank.

An epoch is cut into windows of a few files of one shape. Windows come in seeded order, rows within
a window are shuffled, and each window is cut into steps of batch_size * world crystals, of which
every rank takes its share. So only a window is in memory at a time, the order depends on (seed,
epoch) alone, and ranks can never disagree on the number of steps. A split that is no larger than a
window is read once and kept: what a process reads for one epoch it has for the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phaseray.config import ConfigError
from phaseray.diffraction.grid import Shape
from phaseray.pipeline import schema
from phaseray.pipeline.storage import read_json

WINDOW_BYTES = 256_000_000  # of float32 grids; what one loading task holds
READ_AHEAD = 4  # loading tasks at a time for one rank


@dataclass(frozen=True)
class Batch:
    """Crystals of one grid shape.

    amplitude : (B, nx, ny, nz // 2 + 1) float32, electrons
    density : (B, nx, ny, nz) float32, e/Å³
    volume : (B,) float64, Å³
    cell : (B, 6) float64
    numbers, positions : B arrays, (n,) and (n, 3)
    formulas, space_groups : B strings; None where the space group is not known
    """

    shape: Shape
    ids: list[str]
    amplitude: np.ndarray
    density: np.ndarray
    volume: np.ndarray
    cell: np.ndarray
    numbers: list[np.ndarray]
    positions: list[np.ndarray]
    formulas: list[str]
    space_groups: list[str | None]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class _Window:
    """Some files of one shape, and which of their rows (concatenated) make each batch."""

    files: tuple[str, ...]
    batches: tuple[tuple[int, ...], ...]


def open_dataset(path: str | Path) -> Dataset:
    """A finished folder of shards; ConfigError where there is none."""
    path = Path(path).absolute()
    if not (path / "dataset.json").exists():
        raise ConfigError(
            f"{path} holds no finished shards (no dataset.json): run `phaseray generate --out {path}` first"
        )
    return Dataset(str(path), read_json(path / "dataset.json"))


@dataclass(frozen=True)
class Dataset:
    """What dataset.json says, and batches from the files it lists. Cheap to send to workers.

    `streamed` is False where batches are to be read here, without Ray Data, though Ray runs.
    """

    path: str
    info: dict[str, Any]
    streamed: bool = True

    @property
    def digest(self) -> str:
        return str(self.info["dataset_digest"])

    @property
    def d_min(self) -> float:
        return float(self.info["d_min"])

    @property
    def shapes(self) -> dict[Shape, int]:
        """Grid shape to number of crystals."""
        return {tuple(int(n) for n in name.split("x")): count for name, count in self.info["shapes"].items()}  # type: ignore[misc]

    def count(self, split: str) -> int:
        return int(self.info["split"][split])

    def steps(
        self, split: str, batch_size: int, world: int = 1, *, voxels: int | None = None, seed: int | None = None,
        epoch: int = 0, skip: int = 0,
    ) -> int:  # fmt: skip
        """Batches that each rank gets in an epoch; without a seed, in one that is not shuffled."""
        windows = self._windows(split, batch_size, seed or 0, epoch, 0, world, seed is not None, voxels, skip)
        return sum(len(w.batches) for w in windows)

    def batches(
        self, split: str, batch_size: int, *, seed: int = 0, epoch: int = 0, rank: int = 0, world: int = 1,
        shuffle: bool = True, voxels: int | None = None, skip: int = 0,
    ) -> Iterator[Batch]:  # fmt: skip
        """The batches of one epoch for one rank.

        With several ranks up to world - 1 crystals a window are left out of an epoch (others in
        the next), so that all ranks take equally many steps. Streams through Ray Data where Ray
        runs; the batches are the same without.

        Parameters
        ----------
        voxels : grid points a batch and rank, in place of `batch_size` crystals; a batch has one crystal at least
        skip
            Crystals of all ranks together that were had before. With as many ranks as then, the batches are
            the rest of the epoch; with others, the rest is dealt out anew.
        """
        windows = self._windows(split, batch_size, seed, epoch, rank, world, shuffle, voxels, skip)
        tables: Iterator[pa.Table]
        if self._is_small(split):
            files = tuple(sorted(f["file"] for f in self.info["files"] if f["split"] == split and f["rows"]))
            kept = _kept(self.path, self.digest, files) if windows else {}
            tables = (_ordered([kept[file] for file in w.files], w) for w in windows)
        elif self.streamed and _ray_runs():
            tables = _stream(self.path, windows)
        else:
            tables = (_read(self.path, w) for w in windows)
        for window, table in zip(windows, tables, strict=True):
            start = 0
            for rows in window.batches:
                yield _batch(table.slice(start, len(rows)))
                start += len(rows)

    def _is_small(self, split: str) -> bool:
        files = [f for f in self.info["files"] if f["split"] == split]
        total: int = sum(int(f["rows"]) * _bytes(tuple(f["shape"])) for f in files)
        return total <= WINDOW_BYTES

    def _windows(
        self, split: str, batch_size: int, seed: int, epoch: int, rank: int, world: int, shuffle: bool,
        voxels: int | None = None, skip: int = 0,
    ) -> list[_Window]:  # fmt: skip
        rng = np.random.default_rng([seed, epoch])
        whole: list[tuple[tuple[str, ...], np.ndarray, int]] = []
        by_shape: dict[Shape, list[dict[str, Any]]] = {}
        for file in self.info["files"]:
            if file["split"] == split and file["rows"]:
                by_shape.setdefault(tuple(file["shape"]), []).append(file)
        for shape, files in by_shape.items():
            size = batch_size if voxels is None else max(1, voxels // math.prod(shape))
            order = rng.permutation(len(files)) if shuffle else np.arange(len(files))
            room = max(1, int(WINDOW_BYTES / _bytes(shape)))
            chosen: list[dict[str, Any]] = []
            for i, index in enumerate(order):
                chosen.append(files[index])
                last = i + 1 == len(order)
                if last or sum(f["rows"] for f in chosen) + files[order[i + 1]]["rows"] > room:
                    n = sum(f["rows"] for f in chosen)
                    rows = rng.permutation(n) if shuffle else np.arange(n)
                    whole.append((tuple(f["file"] for f in chosen), rows[: n // world * world], size))
                    chosen = []
        if shuffle:
            whole = [whole[i] for i in rng.permutation(len(whole))]
        windows = []
        for names, rows, size in whole:
            windows.append(_Window(names, _cut(rows[skip:], size, rank, world)))
            skip = max(0, skip - len(rows))
        return [w for w in windows if w.batches]


def _cut(rows: np.ndarray, batch_size: int, rank: int, world: int) -> tuple[tuple[int, ...], ...]:
    rows = rows[: len(rows) // world * world]
    steps = (rows[i : i + batch_size * world] for i in range(0, len(rows), batch_size * world))
    return tuple(tuple(int(r) for r in step[rank::world]) for step in steps)


def _bytes(shape: Shape) -> int:
    """Of one crystal as float32: 4 a point for the density, 2 for the amplitudes."""
    return 6 * math.prod(shape)


def _read(path: str, window: _Window) -> pa.Table:
    """The rows of a window, in the order of its batches."""
    return _ordered([_columns(path, file) for file in window.files], window)


@lru_cache(maxsize=2)  # a split to train on and one to validate with
def _kept(path: str, digest: str, files: tuple[str, ...]) -> dict[str, pa.Table]:
    """The tables of some files, of the data set that has this digest now."""
    return {file: _columns(path, file) for file in files}


def _columns(path: str, file: str) -> pa.Table:
    columns = ["id", "amplitude", "density", "volume", "cell", "numbers", "positions", "formula", "space_group"]
    names = pq.read_schema(Path(path) / file).names
    columns += [name for name in ("amplitude_scale", "density_scale") if name in names]
    # the metadata of files differ (rejections); their columns do not
    return pq.read_table(Path(path) / file, columns=columns, partitioning=None).replace_schema_metadata(None)


def _ordered(tables: list[pa.Table], window: _Window) -> pa.Table:
    return pa.concat_tables(tables).take(np.concatenate([np.asarray(b) for b in window.batches]))


def _ray_runs() -> bool:
    import ray

    return bool(ray.is_initialized())


def _stream(path: str, windows: list[_Window]) -> Iterator[pa.Table]:
    """The windows' tables, in order, read by Ray Data tasks ahead of their use.

    The tasks ask for no CPU: those who wait for them, the workers of a training, may hold all that there are
    (a small machine, or a cluster that has lost nodes), and would wait for ever.
    """
    import ray
    from ray.data import TaskPoolStrategy

    def read(row: dict[str, Any]) -> dict[str, Any]:
        return {"window": _to_bytes(_read(path, windows[int(row["id"])]))}

    if not windows:
        return
    # these blocks are made here; those of ray.data.range and from_arrow take tasks with a CPU each
    order = ray.data.from_items([{"id": i} for i in range(len(windows))], override_num_blocks=len(windows))
    order.context.enable_progress_bars = False
    order.context.execution_options.preserve_order = True
    read_ahead = order.map(read, num_cpus=0, compute=TaskPoolStrategy(size=min(READ_AHEAD, len(windows))))
    for batch in read_ahead.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for window in batch["window"]:
            yield pa.ipc.open_stream(window.as_buffer()).read_all()


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _batch(table: pa.Table) -> Batch:
    amplitude, density = schema.grids(table, "amplitude"), schema.grids(table, "density")
    return Batch(
        shape=density.shape[1:],
        ids=table["id"].to_pylist(),
        amplitude=amplitude,
        density=density,
        volume=table["volume"].to_numpy(),
        cell=np.asarray(table["cell"].combine_chunks().flatten()).reshape(-1, 6),
        numbers=[np.asarray(n.values) for n in table["numbers"]],
        positions=[np.asarray(p.values.flatten()).reshape(-1, 3) for p in table["positions"]],
        formulas=table["formula"].to_pylist(),
        space_groups=table["space_group"].to_pylist(),
    )
