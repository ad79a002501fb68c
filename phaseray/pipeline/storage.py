"""Files that are either whole or not there: written aside, then renamed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ASIDE = ".tmp"


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it takes the name `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_ASIDE}")
    try:
        yield name
        with name.open("rb") as file:
            os.fsync(file.fileno())
        name.replace(path)
    finally:
        name.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers left aside. For when nobody writes there any more."""
    for path in folder.glob(f".*{_ASIDE}"):
        path.unlink(missing_ok=True)


def is_aside(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_ASIDE)


def write_bytes(path: Path, content: bytes) -> None:
    with aside(path) as name:
        name.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, table: pa.Table, *, row_group_size: int | None = None) -> str:
    """Write a Parquet file whose bytes depend on the table alone; returns their SHA-256."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=row_group_size, **_options(table.schema))
    content = buffer.getvalue()
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def write_row_groups(
    path: Path,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    notes: Callable[[], Mapping[str, str]] | None = None,
    empty: bool = False,
) -> int:
    """Write a Parquet file with one row group a table, as they come; returns the number of rows.

    Parameters
    ----------
    notes : callable
        Asked when the last table has come: what else to write into the file's metadata.

    Raises
    ------
    ValueError
        There are no rows, and a file without any (`empty`) is not wanted.
    """
    rows = 0
    with aside(path) as name:
        with pq.ParquetWriter(name, schema, **_options(schema)) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(1, table.num_rows))
                rows += table.num_rows
            if notes is not None:
                writer.add_key_value_metadata(dict(notes()))
        if not rows and not empty:
            raise ValueError(f"no rows for {path}")
    return rows


def _options(schema: pa.Schema) -> dict[str, Any]:
    # Floats hardly repeat: dictionaries of them cost four times the time and a third more space. Grids
    # compress better with like bytes side by side.
    grids = [f"{f.name}.list.element" for f in schema if isinstance(f.type, pa.FixedShapeTensorType)]
    return {
        "compression": "zstd", "compression_level": 1, "use_dictionary": False,
        "use_byte_stream_split": grids or False,
    }  # fmt: skip


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
