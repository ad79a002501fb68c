"""The manifest: what there is to read, listed once, side by side, before anything is read.

inputs.parquet has a row an input (id, address, place in its archive, size, digest), and a row group a
part. Folders, archives and object stores are listed in stretches, each by a task of Ray that writes its own
file; the driver puts these together in order and makes the ids unique. It holds one row group of them,
and eight bytes an id. The digest is that of the content where listing reads it anyway (members of tars, lines
of JSON files); of all others the catalogue has it, once they have been read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from phaseray.config import Config, ConfigError
from phaseray.pipeline.storage import write_row_groups
from phaseray.sources import InputRef
from phaseray.sources.listing import Stretch, check_found, list_stretch, stretches
from phaseray.sources.taken import TakenIds

INPUTS = pa.schema([(f.name, {"str": pa.string(), "int": pa.int64()}[str(f.type)]) for f in fields(InputRef)])

_BATCH = 1024


def write_manifest(config: Config, out: Path) -> int:
    """Write inputs.parquet, once; the number of inputs. Ray runs.

    Raises
    ------
    ValueError
        As `list_inputs`.
    """
    path = out / "inputs.parquet"
    if not path.exists():
        folder = out / "listing"
        pieces = _in_a_task(stretches, list(config.ingest.sources))
        files = [folder / f"stretch-{i:05d}.parquet" for i in range(len(pieces))]
        # one archive or folder more or less is no reason to wait for a worker to start
        apart = [i for i, piece in enumerate(pieces) if piece.slow and not files[i].exists()]
        waiting = [_list.remote(config, pieces[i], str(out), str(files[i])) for i in apart]
        for i, piece in enumerate(pieces):
            if not piece.slow:
                _check(_listed(config, piece, out, files[i]))
        for error in _results(waiting):
            _check(error)
        _check_found(config, pieces, files)
        write_row_groups(path, _regrouped(_unique(files), config.ingest.rows_per_part), INPUTS)
        shutil.rmtree(folder, ignore_errors=True)
    return int(pq.read_metadata(path).num_rows)


def _listed(config: Config, piece: Stretch, out: Path, file: Path) -> str:
    """List one stretch to a file; what is wrong with it, if anything is."""
    ingest = config.ingest
    try:
        refs = list_stretch(ingest.sources[piece.source], piece, config.seed, spool=out / "spool", limits=ingest.limits)
        write_row_groups(file, _tables(refs), INPUTS, empty=True)
    except ValueError as error:
        return str(error) or repr(error)
    return ""


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def _list(config: Config, piece: Stretch, out: str, file: str) -> str:
    return _listed(config, piece, Path(out), Path(file))


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


def _results(waiting: list[Any]) -> Iterator[str]:
    """In the order given, so that of two errors always the same one is told."""
    for result in waiting:
        yield ray.get(result)


def _check(error: str) -> None:
    if error:
        raise ValueError(error)


def _check_found(config: Config, pieces: list[Stretch], files: list[Path]) -> None:
    rows = [0] * len(config.ingest.sources)
    for piece, file in zip(pieces, files, strict=True):
        rows[piece.source] += pq.read_metadata(file).num_rows
    for source, n in zip(config.ingest.sources, rows, strict=True):
        if not n:
            check_found(source)
    if not sum(rows):
        raise ConfigError("ingest.sources give no crystal at all")


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
