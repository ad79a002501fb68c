"""Object stores: the same references and crystals as from a disk, through real servers on this machine."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs
from pydantic import ValidationError

from phaseray.config import CifSource, Limits, TableSource
from phaseray.crystal import Crystal
from phaseray.sources import list_inputs, read_input, read_inputs
from phaseray.sources.locations import branches, kind_of, walk
from tests.sources.test_files import ARCHIVES, FIVE, cif, tar_of
from tests.stores import STORES, Store, gs_store

FILES = {
    "db/1/00/00/1000001.cif": cif("Fe"),
    "db/1/00/10/1001000.cif": cif("Cu"),
    "db/2/x y+z.cif": cif("Al"),
    "db/2/b.cif.gz": gzip.compress(cif("W")),
    "db/readme.txt": b"no crystal",
    "a/five.zip": ARCHIVES["five.zip"],
    "a/five.tar": ARCHIVES["five.tar"],
    "a/five.tar.xz": ARCHIVES["five.tar.xz"],
    "a/five.tar.zst": bytes(pa.compress(tar_of(FIVE), "zstd", asbytes=True)),
    "a/single.cif": cif("Au"),
    "t/rows.jsonl": b"".join(json.dumps({"id": n, "cif": c.decode()}).encode() + b"\n" for n, c in FIVE),
}


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A bucket `crystals` with FILES in it."""
    with STORES[request.param](FILES) as store:
        yield store


@pytest.fixture
def local(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_folder_in_a_bucket_is_read_as_one_on_a_disk(store: Store, local: Path):
    refs = list(list_inputs(CifSource(path=f"{store.address}/db/", options=store.options), 0))
    here = list(list_inputs(CifSource(path=str(local / "db")), 0))
    assert [ref.id for ref in refs] == [ref.id for ref in here]
    assert refs[0].id == "db/1/00/00/1000001.cif"
    assert refs[0].uri == f"{store.address}/db/1/00/00/1000001.cif"
    assert [ref.size for ref in refs] == [ref.size for ref in here]
    formulas = [(ref.id, crystal.formula, sha) for ref, crystal, sha in read_inputs(refs)]
    assert formulas == [(ref.id, crystal.formula, sha) for ref, crystal, sha in read_inputs(here)]
    walked = [relative for _, relative, _ in walk(f"{store.address}/db", json.dumps(store.options))]
    assert walked == [relative for _, relative, _ in walk(str(local / "db"))]


@pytest.mark.parametrize("name", ["five.zip", "five.tar", "five.tar.xz", "five.tar.zst"])
@pytest.mark.parametrize("spooled", [False, True])
def test_archives_in_a_bucket(store: Store, tmp_path: Path, name: str, spooled: bool):
    spool = tmp_path / "spool" if spooled else None
    refs = list(list_inputs(CifSource(path=f"{store.address}/a/{name}", options=store.options), 0, spool=spool))
    assert [ref.id for ref in refs] == [f"{name}/{member}" for member, _ in FIVE]
    results = {ref.member: crystal for ref, crystal, _ in read_inputs(refs[1:4], spool=spool)}
    assert {m: c.formula for m, c in results.items()} == {m: f"{Path(m).stem}2" for m, _ in FIVE[1:4]}


def test_one_object_and_a_table_in_a_bucket(store: Store):
    (ref,) = list_inputs(CifSource(path=f"{store.address}/a/single.cif", options=store.options), 0)
    assert read_input(ref).formula == "Au2"
    rows = list(list_inputs(TableSource(path=f"{store.address}/t/rows.jsonl", options=store.options), 0))
    assert [ref.member for ref in rows] == [name for name, _ in FIVE]
    assert all(isinstance(crystal, Crystal) for _, crystal, _ in read_inputs(rows))


def test_what_goes_wrong_in_a_bucket_is_said_or_rejected(store: Store):
    with pytest.raises(ValueError, match=f"there is no CIF source {store.address}/nowhere"):
        list(list_inputs(CifSource(path=f"{store.address}/nowhere", options=store.options), 0))
    with pytest.raises(ValueError, match=r"not know: .*colour"):
        list(list_inputs(CifSource(path=f"{store.address}/db", options={"colour": "red"}), 0))
    (ref,) = list_inputs(CifSource(path=f"{store.address}/a/single.cif", options=store.options), 0)
    ((_, result, _),) = read_inputs([ref], Limits(max_bytes=100))
    assert result.code == "too_large"
    from dataclasses import replace

    ((_, result, _),) = read_inputs([replace(ref, uri=f"{store.address}/a/gone.cif")])
    assert result.code == "unreadable"


def test_folders_on_gs_are_found_whether_marked_or_not():
    """Empty objects may mark folders; without, pyarrow gives a folder's list without the folders in it."""
    files = dict.fromkeys(("db/a/b/1.cif", "db/c/2.cif", "db/c.cif", "db/c-d/3.cif", "dbs/4.cif"), b"x")
    with gs_store(files) as store:
        options = json.dumps(store.options)
        client = fs.GcsFileSystem(**{**store.options, "retry_time_limit": timedelta(seconds=5)})  # takes no number
        for marked in ("db/c", "db/empty"):
            client.create_dir(f"crystals/{marked}")
        assert client.get_file_info("crystals/db/empty").type == fs.FileType.Directory
        top = f"{store.address}/db"
        found = [relative for _, relative, _ in walk(top, options)]
        assert found == ["c.cif", "a/b/1.cif", "c/2.cif", "c-d/3.cif"]
        assert [relative for b in branches(top, options) for _, relative, _ in walk(top, options, b)] == found


def test_a_gs_store_that_is_away_is_given_up_in_the_time_that_is_set():
    nowhere = {"endpoint_override": "127.0.0.1:9", "scheme": "http", "anonymous": True, "retry_time_limit": 1}
    began = time.monotonic()
    with pytest.raises(OSError):
        kind_of("gs://crystals/db", json.dumps(nowhere))
    assert time.monotonic() - began < 20


def test_keys_are_not_taken_from_the_configuration():
    with pytest.raises(ValidationError, match="secret_key would be written beside every output"):
        CifSource(path="s3://crystals", options={"secret_key": "x"})
