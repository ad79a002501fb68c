"""Files that are either whole or not there: written aside, then renamed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, table: pa.Table, *, row_group_size: int | None = None) -> str:
    """Write a Parquet file whose bytes depend on the table alone; returns their SHA-256."""
    buffer = io.BytesIO()
    # Floats hardly repeat: dictionaries of them cost four times the time and a third more space. Grids
    # compress better with like bytes side by side.
    grids = [f"{f.name}.list.element" for f in table.schema if isinstance(f.type, pa.FixedShapeTensorType)]
    pq.write_table(
        table, buffer, compression="zstd", compression_level=1, row_group_size=row_group_size,
        use_dictionary=False, use_byte_stream_split=grids or False,
    )  # fmt: skip
    content = buffer.getvalue()
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
