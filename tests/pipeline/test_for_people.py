"""What people see of a dataset: the card, `phaseray inspect`, and other programs that read the shards."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml

from phaseray import cli
from phaseray.config import ConfigError
from phaseray.inspection import inspect
from phaseray.pipeline.card import write_card
from phaseray.pipeline.origins import ORIGINS, origin, portable
from phaseray.pipeline.storage import read_json

pytestmark = pytest.mark.timeout(180)

SHAPE = "16x16x16"


@pytest.fixture(scope="module")
def density(shards: Path) -> np.ndarray:
    """(n, 16, 16, 16) of the first test shard, by plain pyarrow."""
    table = pq.ParquetFile(shards / f"split=test/shape={SHAPE}/part-00000.parquet").read()
    return table["density"].combine_chunks().to_numpy_ndarray()


# -- the card --------------------------------------------------------------------------------


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_stands_beside_the_shards_and_counts_what_is_there(shards: Path):
    card = (shards / "README.md").read_text()
    info = read_json(shards / "dataset.json")
    facts = front_matter(card)
    # the one good CIF is a duplicate of a prototype, so its source gave nothing
    assert facts["license"] == ["cc0-1.0", "mit"]
    assert facts["size_categories"] == ["n<1K"]
    assert f"{info['ok']:,} crystal structures" in card
    assert info["dataset_digest"] in card
    for kind in ("prototypes", "synthetic"):
        assert ORIGINS[kind].name in card
    assert "Mehl" in card
    assert "`no_cell`" in card
    columns = pq.read_schema(shards / info["files"][0]["file"]).names
    assert [line.split("`")[1] for line in card.splitlines() if re.match(r"\| `\w+` \| \w+\d* ?.* \| .* \|", line)][
        -len(columns) :
    ] == columns


def test_the_card_names_no_machine_and_no_time(shards: Path, catalogue: Path, cif_folder: Path):
    card = (shards / "README.md").read_text()
    for path in (shards, catalogue, cif_folder, Path.home()):
        assert str(path.parent) + "/" not in card
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", card)


def test_the_same_data_in_another_folder_have_the_same_card(shards: Path, catalogue: Path, tmp_path: Path):
    shutil.copytree(shards, tmp_path / "s")
    shutil.copytree(catalogue, tmp_path / "c")
    write_card(tmp_path / "s", tmp_path / "c", read_json(shards / "dataset.json"))
    assert (tmp_path / "s" / "README.md").read_bytes() == (shards / "README.md").read_bytes()
    assert not list((tmp_path / "s").glob(".README*"))


def test_a_configured_licence_and_citation_are_in_the_card():
    said = origin("cif", [{"kind": "cif", "license": "CC0 1.0", "citation": "A. Person (2020)"}])
    assert said.licence == "cc0-1.0"
    assert said.citations == ("A. Person (2020)",)
    assert origin("never heard of", []).licence == "other"


def test_paths_and_passwords_do_not_travel():
    config = {"path": "/home/somebody/cod.tar.xz", "uri": ["s3://key:secret@bucket/a.zip", "file:///data/x.zip", "a/b"]}
    assert portable({"options": {"secret_key": "x"}, "access_key": "y", "kind": "table"}) == {"kind": "table"}
    assert portable(config) == {"path": "cod.tar.xz", "uri": ["s3://bucket/a.zip", "x.zip", "a/b"]}


# -- inspect ---------------------------------------------------------------------------------


def test_inspect_counts_every_crystal_of_the_shards(shards: Path, tmp_path: Path):
    found = inspect(shards, tmp_path / "i")
    info = read_json(shards / "dataset.json")
    assert found["ok"] == info["ok"]
    for key in ("n_atoms", "volume", "crystal_system", "resolution"):
        assert sum(n for _, n in found["histograms"][key]["counts"]) == info["ok"]
    assert read_json(tmp_path / "i" / "summary.json") == json.loads(json.dumps(found))
    page = (tmp_path / "i" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r"<script|<link|src=\"(?!data:)", page)


def test_inspect_shows_rejections_with_examples(catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["inspect", str(catalogue), "--out", str(tmp_path / "i")]) == 0
    told = capsys.readouterr().out
    summary = read_json(tmp_path / "i" / "summary.json")
    assert sum(r["count"] for r in summary["rejections"]) == summary["rejected"] > 0
    page = (tmp_path / "i" / "report.html").read_text()
    for r in summary["rejections"]:
        assert r["code"] in told
        assert r["examples"][0]["id"] in told
        assert r["examples"][0]["sentence"][:20] in page
    assert "█" in told
    assert max(map(len, told.splitlines()[:-1])) <= 120
    assert len(told.splitlines()) <= 50


def test_inspect_gives_json_to_programs(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["inspect", str(shards), "--json", "--out", str(tmp_path / "i")]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "shards"


def test_inspect_reads_no_grids_but_those_it_draws(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read, columns = pq.read_table, []
    monkeypatch.setattr(pq, "read_table", lambda *a, **k: columns.append(k["columns"]) or read(*a, **k))
    inspect(shards, tmp_path / "i")
    assert columns
    assert not {"density", "amplitude"} & {name for names in columns for name in names}


@pytest.mark.parametrize("where", ["nowhere", "empty", "parent", "unfinished"])
def test_what_is_no_dataset_is_status_2_with_a_reason(
    where: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = {"parent": shards.parent}.get(where, tmp_path / where)
    if where in ("empty", "unfinished"):
        folder.mkdir()
    if where == "unfinished":
        (folder / "run.json").write_text('{"command": "generate"}')
    assert cli.run(["inspect", str(folder)]) == 2
    said = {"nowhere": "there is no folder", "empty": "holds neither shards", "parent": "in it are: s",
            "unfinished": "the same `phaseray generate` goes on"}  # fmt: skip
    assert said[where] in capsys.readouterr().err


def test_inspect_writes_over_no_other_command(shards: Path, catalogue: Path):
    before = (catalogue / "summary.json").read_bytes()
    with pytest.raises(ConfigError, match="another --out"):
        inspect(shards, catalogue)
    assert (catalogue / "summary.json").read_bytes() == before


# -- other programs --------------------------------------------------------------------------


def test_pyarrow_reads_a_folder_with_its_splits(shards: Path):
    data = ds.dataset(shards, format="parquet", partitioning="hive", exclude_invalid_files=True)
    table = data.to_table(columns=["id", "split", "shape", "volume"])
    info = read_json(shards / "dataset.json")
    counts = table.group_by("split").aggregate([("id", "count")]).to_pylist()
    assert {row["split"]: row["id_count"] for row in counts} == {s: n for s, n in info["split"].items() if n}


def test_pandas_reads_a_shard(shards: Path, density: np.ndarray):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(shards / f"split=test/shape={SHAPE}/part-00000.parquet", partitioning=None)
    assert np.array_equal(np.stack(frame["density"]).reshape(-1, 16, 16, 16), density)
    assert (frame["numbers"].map(len) == frame["n_atoms"]).all()


def test_polars_reads_the_folder(shards: Path, density: np.ndarray):
    polars = pytest.importorskip("polars")
    everything = polars.scan_parquet(shards / "split=*/shape=*/*.parquet", hive_partitioning=True)
    counts = everything.select("id", "split").group_by("split").len().collect()
    info = read_json(shards / "dataset.json")
    assert dict(counts.iter_rows()) == {s: n for s, n in info["split"].items() if n}
    frame = polars.read_parquet(shards / f"split=test/shape={SHAPE}/part-00000.parquet")
    assert np.array_equal(frame["density"].to_numpy().reshape(-1, 16, 16, 16), density)


def test_hugging_face_datasets_reads_the_folder_by_its_card(
    shards: Path, density: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(str(shards), SHAPE, cache_dir=str(tmp_path / "cache"))
    info = read_json(shards / "dataset.json")
    assert {name: len(split) for name, split in data.items()} == {s: n for s, n in info["split"].items() if n}
    first = data["test"].with_format("numpy")[0]
    assert np.array_equal(first["density"].reshape(16, 16, 16), density[0])
    assert len(first["numbers"]) == first["n_atoms"]
