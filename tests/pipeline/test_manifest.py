"""The manifest is what listing everything in a row would give, whoever lists."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phaseray.config import ConfigError, load
from phaseray.pipeline.catalogue import ingest, read_catalogue
from phaseray.pipeline.manifest import write_manifest
from phaseray.sources import list_inputs
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
    assert write_manifest(config, tmp_path / "c") == len(expected) == 3 + 5 + 10 + 5 + 5
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
            write_manifest(load(None, [sources]), tmp_path / "c")
    with pytest.raises(ConfigError, match="no crystal at all"):
        write_manifest(load(None, ["ingest.sources=[{kind: synthetic, count: 0}]"]), tmp_path / "d")
    assert not (tmp_path / "d" / "inputs.parquet").exists()
