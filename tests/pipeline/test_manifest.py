"""The manifest is what listing everything in a row would give, whoever lists."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phaseray.config import ConfigError, load
from phaseray.pipeline.catalogue import ingest, read_catalogue
from phaseray.pipeline.manifest import Listing
from phaseray.sources import InputRef, list_inputs
from tests.pipeline.conftest import SALT
from tests.sources.test_files import FIVE, cif, tar_of, write, zip_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> str:
    top = tmp_path_factory.mktemp("sources")
    for name in ("b.cif", "1/00/x.cif", "1/01/x.cif", "2/00/x.cif", "2/y.cif"):
        write(top / "tree" / name, SALT.encode())
    write(top / "five.tar.gz", tar_of([*FIVE, *FIVE], "gz"))
    write(top / "five.zip", zip_of(FIVE))
    paths = [top / "tree", top / "five.tar.gz", top / "tree", top / "five.zip"]
    given = ", ".join(f"{{kind: cif, path: '{path}'}}" for path in paths)
    return f"ingest.sources=[{{kind: synthetic, count: 3}}, {given}]"


def test_side_by_side_gives_what_one_after_the_other_gives(sources: str, tmp_path: Path, ray_cluster: None) -> None:
    config = load(None, [sources, "ingest.rows_per_part=7"])
    expected = [asdict(ref) for ref in list_inputs(config.ingest.sources, config.seed, spool=tmp_path / "spool")]
    assert Listing(config, tmp_path / "c").write() == len(expected) == 3 + 5 + 10 + 5 + 5
    manifest = pq.ParquetFile(tmp_path / "c" / "inputs.parquet")
    assert manifest.read().to_pylist() == expected
    assert [manifest.metadata.row_group(i).num_rows for i in range(manifest.num_row_groups)] == [7, 7, 7, 7]
    ids = [row["id"] for row in expected]
    assert len(set(ids)) == len(ids)
    assert "tree/1/00/x.cif#2" in ids


def test_digests_that_listing_knows_are_those_of_the_catalogue(sources: str, tmp_path: Path, ray_cluster: None) -> None:
    ingest(load(None, [sources]), tmp_path / "c")
    listed = pq.read_table(tmp_path / "c" / "inputs.parquet", columns=["id", "sha256"]).to_pylist()
    found = {row["id"]: row["sha256"] for row in read_catalogue(tmp_path / "c", ["id", "sha256"]).to_pylist()}
    known = {row["id"]: row["sha256"] for row in listed if row["sha256"]}
    assert known == {id: found[id] for id in known}
    assert len(known) == 10
    assert found["tree/b.cif"] == hashlib.sha256(SALT.encode()).hexdigest()
    assert not (tmp_path / "c" / "listing").exists()


def test_what_a_task_finds_wrong_is_told_in_its_words(tmp_path: Path, ray_cluster: None) -> None:
    good = write(tmp_path / "good" / "x.cif", cif()).parent
    damaged = write(tmp_path / "x.tar.gz", tar_of(FIVE, "gz")[:-200])
    for other, message in ((f"'{damaged}'", "^cannot list"), (f"'{good}', pattern: '*.mcif'", "^nothing in the CIF")):
        sources = f"ingest.sources=[{{kind: cif, path: '{good}'}}, {{kind: cif, path: {other}}}]"
        with pytest.raises(ValueError, match=message):
            Listing(load(None, [sources]), tmp_path / "c").write()
    with pytest.raises(ConfigError, match="no crystal at all"):
        Listing(load(None, ["ingest.sources=[{kind: synthetic, count: 0}]"]), tmp_path / "d").write()
    assert not (tmp_path / "d" / "inputs.parquet").exists()


def starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no Ray runs yet and `connected` would start one."""
    monkeypatch.setattr("phaseray.pipeline.cluster.will_start", lambda config: True)


@pytest.mark.parametrize("few", [0, 1, 100])
def test_listing_that_begins_before_ray_gives_the_same(
    few: int, sources: str, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting(monkeypatch)
    monkeypatch.setattr("phaseray.pipeline.manifest._FEW", few)
    config = load(None, [sources])
    with Listing(config, tmp_path / "c") as listing:
        assert listing.early
        assert listing.write() == 28
    expected = [asdict(ref) for ref in list_inputs(config.ingest.sources, config.seed, spool=tmp_path / "spool")]
    assert pq.read_table(tmp_path / "c" / "inputs.parquet").to_pylist() == expected
    with Listing(config, tmp_path / "c") as listing:
        assert not listing.early
        assert listing.write() == 28


def test_a_path_that_is_not_there_is_told_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starting(monkeypatch)
    config = load(None, [f"ingest.sources=[{{kind: cif, path: '{tmp_path}/nowhere'}}]"])
    with pytest.raises(ValueError, match="there is no CIF source"), Listing(config, tmp_path / "c"):
        pass


def test_listing_stops_when_its_block_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starting(monkeypatch)
    seen = threading.Event()

    def endless(*_: object, **__: object) -> Iterator[InputRef]:
        for index in count():
            seen.set()
            yield InputRef(str(index), "synthetic", index=index)

    monkeypatch.setattr("phaseray.pipeline.manifest.list_stretch", endless)
    archive = write(tmp_path / "five.zip", zip_of(FIVE))
    config = load(None, [f"ingest.sources=[{{kind: cif, path: '{archive}'}}]"])
    with Listing(config, tmp_path / "c") as listing:
        assert seen.wait(10)
    assert "stopped" in listing.early[0].result(0)
    assert not listing.path.exists()
    assert not list((tmp_path / "c" / "listing").iterdir())
