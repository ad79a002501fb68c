"""Tables of crystals, one a row: Parquet and JSON lines."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from phaseray.config import Limits, TableSource
from phaseray.crystal import Crystal, Rejection
from phaseray.sources.archives import DECOMPRESS
from phaseray.sources.locations import open_binary
from phaseray.sources.refs import options_of
from phaseray.sources.spool import Item
from phaseray.sources.structure_dicts import LEMAT_COLUMNS, crystal_from_lemat, crystal_from_pymatgen

PATTERNS = ("*.parquet", "*.jsonl", "*.ndjson")
_ID_COLUMNS = ("material_id", "immutable_id", "id", "identifier", "refcode")
_COLUMNS = {"cif": "cif", "structure": "pymatgen"}
# a row group with more is gone through once, while listing, and not once a part
_LARGEST_ROW_GROUP = 2048
_BATCH = 64


def is_parquet(uri: str, options: str = "") -> bool:
    with open_binary(uri, options) as stream:
        return bool(stream.read(4) == b"PAR1")


def layout(uri: str, source: TableSource, options: str = "") -> dict[str, Any]:
    """Which columns hold what: `format`, `columns` (of the structure) and `id_column` ("" for none).

    Raises
    ------
    ValueError
        Columns that are not there, or do not tell what they hold.
    """
    names, first = _first(uri, options)
    format: str = source.format
    columns = [source.column] if source.column else []
    if format in ("auto", "lemat") and not columns and set(LEMAT_COLUMNS) <= set(names):
        format, columns = "lemat", list(LEMAT_COLUMNS)
    elif format in ("auto", "pymatgen") and not columns and {"lattice", "sites"} <= set(names):
        format, columns = "pymatgen", ["lattice", "sites"]
    elif format != "lemat":
        columns = columns or [n for n, kind in _COLUMNS.items() if n in names and format in ("auto", kind)][:1]
        if columns and format == "auto":
            format = _COLUMNS.get(columns[0]) or ("cif" if _is_cif(first.get(columns[0])) else "pymatgen")
    if not columns or not set(columns) <= set(names):
        raise ValueError(
            f"{uri} has no column {', '.join(columns) or 'of a known name'} for the crystals; it has "
            f"{', '.join(names)}. Set `column` and `format` (cif or pymatgen), or name the columns of format lemat "
            f"{', '.join(LEMAT_COLUMNS)}"
        )
    if source.id_column and source.id_column not in names:
        raise ValueError(f"{uri} has no column {source.id_column}: check `id_column`; it has {', '.join(names)}")
    known_ids = [name for name in _ID_COLUMNS if name in names and name not in columns]
    return {"format": format, "columns": columns, "id_column": source.id_column or "".join(known_ids[:1])}


def needs_spool(uri: str, options: str = "") -> bool:
    """Can a row be reached only through many others?"""
    if not is_parquet(uri, options):
        return True
    metadata = _parquet(uri, options).metadata
    return any(metadata.row_group(i).num_rows > _LARGEST_ROW_GROUP for i in range(metadata.num_row_groups))


def names(uri: str, known: Mapping[str, Any], max_bytes: int) -> Iterator[tuple[int, str, int]]:
    """Number, id and bytes (-1 if not known) of every row."""
    if not is_parquet(uri, options_of(dict(known))):
        yield from ((row.index, row.name, row.size) for row in _json_rows(uri, known, max_bytes))
        return
    file, index = _parquet(uri, options_of(dict(known))), 0
    if not known["id_column"]:
        yield from ((i, str(i), -1) for i in range(file.metadata.num_rows))
        return
    for batch in file.iter_batches(columns=[known["id_column"]]):
        for value in batch.column(0).to_pylist():
            yield index, _name(value, index), -1
            index += 1


def rows(
    uri: str, known: Mapping[str, Any], wanted: Collection[int] | None = None, max_bytes: int = 1 << 62
) -> Iterator[Item]:
    """The wanted rows (None: all), in order; `content` is the CIF, or JSON of the columns."""
    if not is_parquet(uri, options_of(dict(known))):
        yield from (row for row in _json_rows(uri, known, max_bytes) if wanted is None or row.index in wanted)
        return
    file, first = _parquet(uri, options_of(dict(known))), 0
    indices = None if wanted is None else set(wanted)
    columns = [*known["columns"], *([known["id_column"]] if known["id_column"] else [])]
    for group in range(file.num_row_groups):
        n = file.metadata.row_group(group).num_rows
        if indices is None or any(first <= i < first + n for i in indices):
            index = first
            for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group], columns=columns):
                if indices is None or not indices.isdisjoint(range(index, index + batch.num_rows)):
                    for i, row in enumerate(batch.to_pylist(), index):
                        if indices is None or i in indices:
                            yield _item(i, row, known, max_bytes)
                index += batch.num_rows
        first += n


def crystal_of(content: bytes, format: str, limits: Limits, *, id: str, source: str) -> Crystal:
    """A row's crystal, from the JSON that `rows` gave.

    Raises
    ------
    Rejection
        It gives none.
    """
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Rejection("syntax", f"the row is not JSON: {error}") from error
    parse = crystal_from_lemat if format == "lemat" else crystal_from_pymatgen
    return parse(row, limits, id=id, source=source)


def _json_rows(uri: str, known: Mapping[str, Any], max_bytes: int) -> Iterator[Item]:
    for index, (line, size) in enumerate(_lines(uri, options_of(dict(known)), max_bytes)):
        row = _parsed(line)
        if isinstance(row, dict):
            yield _item(index, row, known, max_bytes)
        else:  # a line too long, or not JSON: what reads it says so
            yield Item(index, str(index), size, line)


def _lines(uri: str, options: str, max_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Lines that hold anything, None in place of those over `max_bytes`, and their bytes."""
    longest = min(max_bytes, 1 << 30)
    with open_binary(uri, options) as file:
        start = file.read(8)
        file.seek(0)
        stream: Any = file
        for magic, decompress in DECOMPRESS:
            if start.startswith(magic):
                stream = io.BufferedReader(decompress(file))
        while line := stream.readline(longest + 1):
            size, whole = len(line), len(line) <= longest
            while not line.endswith(b"\n") and (line_on := stream.readline(longest)):
                size += len(line_on)
                whole, line = False, line_on
            if not whole:
                yield None, size
            elif line.strip():
                yield line, size


def _parsed(line: bytes | None) -> Any:
    try:
        return None if line is None else json.loads(line)
    except (ValueError, RecursionError):
        return None


def _item(index: int, row: dict[str, Any], known: Mapping[str, Any], max_bytes: int) -> Item:
    name = _name(row.get(known["id_column"]) if known["id_column"] else None, index)
    columns: Sequence[str] = known["columns"]
    value = row.get(columns[0]) if len(columns) == 1 else {column: row.get(column) for column in columns}
    if isinstance(value, bytes):
        content = value
    elif isinstance(value, str):
        content = value.encode("utf-8", "surrogatepass")
    else:
        # nothing in a CIF column is an empty file; in another, null
        content = b"" if value is None and known["format"] == "cif" else json.dumps(value, default=str).encode()
    return Item(index, name, len(content), content if len(content) <= max_bytes else None)


def _name(value: Any, index: int) -> str:
    return str(index) if value is None or value == "" else str(value)


def _first(uri: str, options: str) -> tuple[list[str], dict[str, Any]]:
    """Names of the columns, and the first row."""
    if is_parquet(uri, options):
        file = _parquet(uri, options)
        for batch in file.iter_batches(batch_size=1):
            return list(file.schema_arrow.names), batch.to_pylist()[0]
        return list(file.schema_arrow.names), {}
    for line, _ in _lines(uri, options, 1 << 28):
        if isinstance(row := _parsed(line), dict):
            return list(row), row
    raise OSError("neither Parquet nor JSON lines")


def _parquet(uri: str, options: str) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(open_binary(uri, options))


def _is_cif(value: Any) -> bool:
    return isinstance(value, str | bytes) and value.lstrip()[:1] not in ("{", b"{")
