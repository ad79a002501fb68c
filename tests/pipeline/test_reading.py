"""One monster is a rejected row: over a limit, over its time, or the death of its reader."""

from __future__ import annotations

import re
import struct
import threading
import time
import zipfile
from pathlib import Path

import pytest

from phaseray.config import IngestConfig, Limits
from phaseray.crystal import Crystal, Rejection
from phaseray.pipeline import reading, schema
from phaseray.pipeline.reading import Attempt, read_rows
from phaseray.sources import InputRef, list_inputs, parse_input
from tests.pipeline.conftest import SALT

# What a library's fault looks like from outside, and a loop of compiled code that hears no alarm.
PROGRAM = """
import hashlib, os, signal, sys
from multiprocessing.connection import Connection
from phaseray.pipeline import reading
parse, reading.HARD = reading.parse_input, 1
def parse_input(ref, content, limits):
    if b"broken" in content:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"endless" in content:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
    return parse(ref, content, limits)
reading.parse_input = parse_input
reading.serve(Connection(int(sys.argv[1])))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.cif").write_text(SALT)
    (tmp_path / "m.cif").write_text(SALT + "# trap broken")
    (tmp_path / "n.cif").write_text(SALT + "# endless")
    (tmp_path / "z.cif").write_text(SALT.replace("5.64", "5.7"))
    return tmp_path


def configured(folder: Path, **limits: float) -> tuple[list[InputRef], IngestConfig]:
    config = IngestConfig.model_validate({"sources": [{"kind": "cif", "path": str(folder)}], "limits": limits})
    return list(list_inputs(config.sources, 0)), config


def outcomes(rows: list[dict]) -> list[tuple[str, str | None]]:
    return [(row["status"], row.get("code")) for row in rows]


def test_a_regular_expression_without_end_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trapped(ref: InputRef, content: bytes, limits: Limits) -> Crystal | Rejection:
        if b"trap" in content:
            re.match(r"(a|aa)+$", "a" * 60 + "b")
        return parse_input(ref, content, limits)

    monkeypatch.setattr(reading, "parse_input", trapped)
    refs, config = configured(folder, max_seconds=0.3)
    began = time.monotonic()
    rows = read_rows(refs, config)
    assert time.monotonic() - began < 5
    assert outcomes(rows) == [("ok", None), ("rejected", "too_slow"), ("ok", None), ("ok", None)]
    assert "limits.max_seconds" in rows[1]["reason"]
    assert len(rows[1]["sha256"]) == 64


def test_the_death_of_a_reader_is_one_rejected_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading._Apart, "program", ("-c", PROGRAM))
    refs, config = configured(folder, max_seconds=1)
    rows = read_rows(refs, config, careful=True)
    assert outcomes(rows) == [("ok", None), ("rejected", "internal"), ("rejected", "too_slow"), ("ok", None)]
    assert "SIGSEGV" in rows[1]["reason"]


def test_careful_reading_gives_the_same_rows(folder: Path) -> None:
    refs, config = configured(folder)
    tables = [schema.rows_to_table(read_rows(refs, config, careful=c), schema.CATALOGUE) for c in (False, True)]
    assert tables[0].equals(tables[1])


def test_other_threads_can_read(folder: Path) -> None:
    """Where no alarm can be set: Ray may run an actor's calls in a thread."""
    refs, config = configured(folder)
    found: list[dict] = []
    thread = threading.Thread(target=lambda: found.extend(read_rows(refs, config)))
    thread.start()
    thread.join()
    assert [row["status"] for row in found] == ["ok"] * 4


def test_limits_on_edges_and_bytes(folder: Path) -> None:
    (folder / "m.cif").write_text(SALT.replace("length_c 5.64", "length_c 2000").replace("F m -3 m", "P 1"))
    refs, config = configured(folder, max_edge=100)
    rows = read_rows(refs[:2], config)
    assert outcomes(rows) == [("ok", None), ("rejected", "too_large")]
    assert "limits.max_edge" in rows[1]["reason"]
    atoms = "\n".join(f"C{i} C 0.{i:07d} 0 0" for i in range(1_000_000))
    (folder / "m.cif").write_text(SALT + atoms)
    rows = read_rows(refs[:2], config)
    assert outcomes(rows) == [("ok", None), ("rejected", "too_large")]
    assert "limits.max_bytes" in rows[1]["reason"]


def test_a_member_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bomb.cif", SALT)
        archive.writestr("salt.cif", SALT)
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02") + 24  # the size in the central directory
    path.write_bytes(content[:at] + struct.pack("<I", 0xFFFFFFF0) + content[at + 4 :])
    refs, config = configured(path)
    assert refs[0].size > 4e9
    assert outcomes(read_rows(refs, config)) == [("rejected", "too_large"), ("ok", None)]


def test_an_attempt_leaves_its_mark_until_it_has_ended(tmp_path: Path) -> None:
    part = tmp_path / "parts" / "part-00000.parquet"
    assert not Attempt(part).begin()
    assert Attempt(part).begin()
    Attempt(part).end()
    assert not Attempt(part).begin()
