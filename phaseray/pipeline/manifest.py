"""The manifest: what there is to read, listed once, side by side, before anything is read.

inputs.parquet has a row an input (id, address, place in its archive, size, digest), and a row group a
part. Folders, archives and object stores are listed in stretches, each into a file of its own, by tasks of
Ray; where Ray is yet to be started, a thread of the driver lists the first of them meanwhile. The driver puts
the files together in order and makes the ids unique. It holds one row group of them, and eight bytes an id.
The digest is that of the content where listing reads it anyway (members of tars, lines of JSON files); of all
others the catalogue has it, once they have been read.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from phaseray.config import Config, ConfigError
from phaseray.pipeline import cluster
from phaseray.pipeline.storage import write_row_groups
from phaseray.sources import InputRef
from phaseray.sources.listing import Stretch, check_found, list_stretch, stretches
from phaseray.sources.taken import TakenIds

INPUTS = pa.schema([(f.name, {"str": pa.string(), "int": pa.int64()}[str(f.type)]) for f in fields(InputRef)])

_BATCH = 1024
_FEW = 4  # stretches that are left to the thread: a worker takes a second to start


class Listing:
    """inputs.parquet in the making; nothing is left to do where it stands already.

    Where Ray is yet to be started, entering its `with` block begins to list in a thread of this process.

    Attributes
    ----------
    began : float
        When work on the catalogue began, of `time.monotonic`.
    """

    def __init__(self, config: Config, out: Path, *, began: float | None = None) -> None:
        self.config, self.out = config, out
        self.began = time.monotonic() if began is None else began
        self.path, self.folder = out / "inputs.parquet", out / "listing"
        self.pieces: list[Stretch] = []
        self.files: list[Path] = []
        self.apart: list[int] = []  # pieces that are worth a thread or a task
        self.early: dict[int, Future[str]] = {}
        self.stopped = threading.Event()

    def __enter__(self) -> Self:
        """Begin to list, if there is a start of Ray to wait for.

        Raises
        ------
        ValueError
            As `list_inputs`, where that shows at once: a path that is not there.
        """
        if cluster.will_start(self.config.ray) and not self.path.exists():
            self._cut(stretches(self.config.ingest.sources))
            self.thread = ThreadPoolExecutor(1, "listing")
            self.early = {i: self.thread.submit(self._list_here, i) for i in self.apart}
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        if self.early:
            self.thread.shutdown(cancel_futures=True)

    def write(self) -> int:
        """Write inputs.parquet, once; the number of inputs. Ray runs.

        Raises
        ------
        ValueError
            As `list_inputs`.
        """
        if not self.path.exists():
            if not self.pieces:
                self._cut(_in_a_task(stretches, list(self.config.ingest.sources)))
            # of many, those that the thread has not begun are for tasks, which run side by side
            many = len(self.early) > _FEW
            left = [i for i in self.apart if i not in self.early or (many and self.early[i].cancel())]
            tasks = {i: _list.remote(*self._task(i)) for i in left}
            for i, piece in enumerate(self.pieces):
                if not piece.slow:
                    _check(self._list_here(i))
            # in their order, so that of two errors always the same one is told
            for i in self.apart:
                _check(ray.get(tasks[i]) if i in tasks else self.early[i].result())
            self._check_found()
            write_row_groups(self.path, _regrouped(_unique(self.files), self.config.ingest.rows_per_part), INPUTS)
            shutil.rmtree(self.folder, ignore_errors=True)
        return int(pq.read_metadata(self.path).num_rows)

    def _cut(self, pieces: list[Stretch]) -> None:
        self.pieces = pieces
        self.files = [self.folder / f"stretch-{i:05d}.parquet" for i in range(len(pieces))]
        # one archive or folder more or less is no reason to wait for a worker to start
        self.apart = [i for i, piece in enumerate(pieces) if piece.slow and not self.files[i].exists()]

    def _task(self, i: int) -> tuple[Config, Stretch, str, str]:
        return self.config, self.pieces[i], str(self.out), str(self.files[i])

    def _list_here(self, i: int) -> str:
        return _listed(*self._task(i), stopped=self.stopped.is_set)

    def _check_found(self) -> None:
        sources = self.config.ingest.sources
        rows = [0] * len(sources)
        for piece, file in zip(self.pieces, self.files, strict=True):
            rows[piece.source] += pq.read_metadata(file).num_rows
        for source, n in zip(sources, rows, strict=True):
            if not n:
                check_found(source)
        if not sum(rows):
            raise ConfigError("ingest.sources give no crystal at all")


def _listed(config: Config, piece: Stretch, out: str, file: str, *, stopped: Callable[[], bool] = lambda: False) -> str:
    """List one stretch to a file; what is wrong with it, if anything is."""
    ingest = config.ingest
    source, spool = ingest.sources[piece.source], Path(out) / "spool"
    try:
        refs = list_stretch(source, piece, config.seed, spool=spool, limits=ingest.limits)
        write_row_groups(Path(file), _tables(_until(stopped, refs)), INPUTS, empty=True)
    except ValueError as error:
        return str(error) or repr(error)
    return ""


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def _list(config: Config, piece: Stretch, out: str, file: str) -> str:
    return _listed(config, piece, out, file)


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def _call(function: Any, *arguments: Any) -> tuple[Any, str]:
    try:
        return function(*arguments), ""
    except ValueError as error:
        return None, str(error) or repr(error)


def _in_a_task(function: Any, *arguments: Any) -> Any:
    result, error = ray.get(_call.remote(function, *arguments))
    _check(error)
    return result


def _until(stopped: Callable[[], bool], refs: Iterable[InputRef]) -> Iterator[InputRef]:
    for ref in refs:
        if stopped():
            raise ValueError("listing was stopped")
        yield ref


def _check(error: str) -> None:
    if error:
        raise ValueError(error)


def _tables(refs: Iterable[InputRef]) -> Iterator[pa.Table]:
    # itertools.batched came with Python 3.12
    rest = iter(refs)
    while group := list(islice(rest, _BATCH)):
        yield pa.Table.from_pylist([asdict(ref) for ref in group], schema=INPUTS)


def _unique(files: Iterable[Path]) -> Iterator[pa.Table]:
    taken = TakenIds()
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                ids = [taken.unique(id) for id in batch["id"].to_pylist()]
                yield pa.Table.from_batches([batch]).set_column(0, INPUTS.field("id"), pa.array(ids, pa.string()))


def _regrouped(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows, the last perhaps shorter."""
    rest = INPUTS.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table])
        while rest.num_rows >= size:
            # copied, or the tail of each table would hold all before it
            yield rest.slice(0, size)
            rest = rest.slice(size).combine_chunks()
    if rest.num_rows:
        yield rest
