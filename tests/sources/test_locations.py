"""Object stores: the same references and crystals as from a disk, through a real S3 server on this machine."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from phaseray.config import CifSource, Limits, TableSource
from phaseray.crystal import Crystal
from phaseray.sources import list_inputs, read_input, read_inputs
from phaseray.sources.locations import walk
from tests.sources.test_files import ARCHIVES, FIVE, cif, tar_of

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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Options that lead to a bucket `crystals` with FILES in it."""
    server_module = pytest.importorskip(
        "moto.server", reason="the S3 server of the tests is moto: pip install moto[s3]"
    )
    from pyarrow import fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_override": f"{host}:{port}", "scheme": "http", "region": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = fs.S3FileSystem(**options, allow_bucket_creation=True)
        client.create_dir("crystals")
        for name, content in FILES.items():
            with client.open_output_stream(f"crystals/{name}", compression=None) as stream:
                stream.write(content)
        yield options
    server.stop()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_folder_in_a_bucket_is_read_as_one_on_a_disk(store: dict[str, Any], local: Path):
    refs = list(list_inputs(CifSource(path="s3://crystals/db/", options=store), 0))
    here = list(list_inputs(CifSource(path=str(local / "db")), 0))
    assert [ref.id for ref in refs] == [ref.id for ref in here]
    assert refs[0].id == "db/1/00/00/1000001.cif"
    assert refs[0].uri == "s3://crystals/db/1/00/00/1000001.cif"
    assert [ref.size for ref in refs] == [ref.size for ref in here]
    formulas = [(ref.id, crystal.formula, sha) for ref, crystal, sha in read_inputs(refs)]
    assert formulas == [(ref.id, crystal.formula, sha) for ref, crystal, sha in read_inputs(here)]
    walked = [relative for _, relative, _ in walk("s3://crystals/db", json.dumps(store))]
    assert walked == [relative for _, relative, _ in walk(str(local / "db"))]


@pytest.mark.parametrize("name", ["five.zip", "five.tar", "five.tar.xz", "five.tar.zst"])
@pytest.mark.parametrize("spooled", [False, True])
def test_archives_in_a_bucket(store: dict[str, Any], tmp_path: Path, name: str, spooled: bool):
    spool = tmp_path / "spool" if spooled else None
    refs = list(list_inputs(CifSource(path=f"s3://crystals/a/{name}", options=store), 0, spool=spool))
    assert [ref.id for ref in refs] == [f"{name}/{member}" for member, _ in FIVE]
    results = {ref.member: crystal for ref, crystal, _ in read_inputs(refs[1:4], spool=spool)}
    assert {m: c.formula for m, c in results.items()} == {m: f"{Path(m).stem}2" for m, _ in FIVE[1:4]}


def test_one_object_and_a_table_in_a_bucket(store: dict[str, Any]):
    (ref,) = list_inputs(CifSource(path="s3://crystals/a/single.cif", options=store), 0)
    assert read_input(ref).formula == "Au2"
    rows = list(list_inputs(TableSource(path="s3://crystals/t/rows.jsonl", options=store), 0))
    assert [ref.member for ref in rows] == [name for name, _ in FIVE]
    assert all(isinstance(crystal, Crystal) for _, crystal, _ in read_inputs(rows))


def test_what_goes_wrong_in_a_bucket_is_said_or_rejected(store: dict[str, Any]):
    with pytest.raises(ValueError, match="there is no CIF source s3://crystals/nowhere"):
        list(list_inputs(CifSource(path="s3://crystals/nowhere", options=store), 0))
    with pytest.raises(ValueError, match=r"not know: .*colour"):
        list(list_inputs(CifSource(path="s3://crystals/db", options={"colour": "red"}), 0))
    (ref,) = list_inputs(CifSource(path="s3://crystals/a/single.cif", options=store), 0)
    ((_, result, _),) = read_inputs([ref], Limits(max_bytes=100))
    assert result.code == "too_large"
    from dataclasses import replace

    ((_, result, _),) = read_inputs([replace(ref, uri="s3://crystals/a/gone.cif")])
    assert result.code == "unreadable"


def test_keys_are_not_taken_from_the_configuration():
    with pytest.raises(ValidationError, match="secret_key would be written beside every output"):
        CifSource(path="s3://crystals", options={"secret_key": "x"})
