"""generate: shards that anyone can open, true to the catalogue, the same bytes for the same input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from phaseray import density
from phaseray.config import ConfigError
from phaseray.pipeline import schema
from phaseray.pipeline.catalogue import read_catalogue
from phaseray.pipeline.loading import open_dataset
from phaseray.pipeline.shards import generate
from tests.pipeline.conftest import small

pytestmark = pytest.mark.timeout(180)


def test_every_ok_crystal_is_in_one_shard(catalogue: Path, shards: Path) -> None:
    table = read_catalogue(catalogue, ["id", "status", "split"])
    expected = {r["id"]: r["split"] for r in table.to_pylist() if r["status"] == "ok"}
    info = json.loads((shards / "dataset.json").read_text())
    found = {}
    for file in info["files"]:
        for name in pq.read_table(shards / file["file"], columns=["id"], partitioning=None)["id"].to_pylist():
            assert name not in found
            found[name] = file["split"]
    assert found == expected
    assert info["ok"] == len(expected) == sum(info["split"].values())
    assert info["shards_version"] == 1
    assert info["units"]["density"].startswith("e/Å³")
    assert len(info["config_digest"]) == len(info["dataset_digest"]) == 16


def test_grids_are_those_of_the_crystal(catalogue: Path, shards: Path) -> None:
    info = json.loads((shards / "dataset.json").read_text())
    table = read_catalogue(catalogue)
    crystals = {c.id: c for c in schema.crystals(table.filter(pc.equal(table["status"], "ok")))}
    shard = pq.read_table(shards / info["files"][0]["file"], partitioning=None)
    maps = shard["density"].combine_chunks().to_numpy_ndarray()
    amplitudes = shard["amplitude"].combine_chunks().to_numpy_ndarray()
    for i, name in enumerate(shard["id"].to_pylist()[:20]):
        crystal = crystals[name].with_default_u_iso(0.02)
        np.testing.assert_allclose(maps[i], density(crystal, (16, 16, 16), 1.8), atol=1e-5)
        np.testing.assert_allclose(amplitudes[i].max(), crystal.n_electrons, rtol=1e-5)
        assert shard["n_electrons"][i].as_py() == crystal.n_electrons


def test_shards_open_without_phaseray(shards: Path) -> None:
    """In plain pyarrow, pandas and a whole folder at once; the program never imports phaseray."""
    program = f"""
import sys, glob, json, numpy as np, pyarrow.parquet as pq, pyarrow.dataset as ds, pandas as pd
files = sorted(glob.glob({str(shards)!r} + "/split=*/shape=*/*.parquet"))
table = pq.ParquetFile(files[0]).read()
maps = table["density"].combine_chunks().to_numpy_ndarray()
assert maps.shape[1:] == (16, 16, 16) and maps.dtype == np.float32, maps.shape
half = table["amplitude"].combine_chunks().to_numpy_ndarray()
assert half.shape[1:] == (16, 16, 9), half.shape
np.testing.assert_allclose(abs(np.fft.rfftn(maps[0])) / maps[0].size * table["volume"][0].as_py(), half[0], atol=1e-3)
frame = pd.read_parquet(files[0])
shape = [int(n) for n in pq.read_schema(files[0]).metadata[b"grid_shape"].split(b"x")]
np.testing.assert_array_equal(np.stack([m.reshape(shape) for m in frame["density"]]), maps)
whole = ds.dataset({str(shards)!r}, partitioning="hive", format="parquet", exclude_invalid_files=True)
assert set(whole.to_table(columns=["split"])["split"].to_pylist()) == {{"train", "val", "test"}}
assert whole.count_rows() == json.load(open({str(shards)!r} + "/dataset.json"))["ok"]
assert "phaseray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_same_catalogue_gives_the_same_bytes(catalogue: Path, cif_folder: Path, shards: Path, tmp_path: Path) -> None:
    generate(small(cif_folder), catalogue, tmp_path / "again")
    first, again = open_dataset(shards), open_dataset(tmp_path / "again")
    assert first.digest == again.digest
    assert [f["sha256"] for f in first.info["files"]] == [f["sha256"] for f in again.info["files"]]


def test_a_run_that_was_cut_off_goes_on(catalogue: Path, cif_folder: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    generate(small(cif_folder), catalogue, out)
    lost = sorted(out.rglob("*.parquet"))[1]
    lost.unlink()
    (out / "dataset.json").unlink()
    with pytest.raises(ConfigError, match="no finished shards"):
        open_dataset(out)
    generate(small(cif_folder), catalogue, out)
    assert open_dataset(out).digest == open_dataset(shards).digest


def test_spacing_gives_one_shape_a_file_and_the_same_spacing_for_all(
    catalogue: Path, cif_folder: Path, tmp_path: Path
) -> None:
    config = small(cif_folder)
    config = config.model_copy(
        update={
            "generate": type(config.generate).model_validate(
                {"grid": {"kind": "spacing", "points_per_d_min": 2.7, "multiple": 4}, "d_min": 2.0}
            )
        }
    )
    generate(config, catalogue, tmp_path / "s")
    data = open_dataset(tmp_path / "s")
    assert len(data.shapes) > 10
    for file in data.info["files"]:
        table = pq.ParquetFile(tmp_path / "s" / file["file"]).read()
        assert table["density"].type.shape == file["shape"]
        for cell, complete in zip(table["cell"].to_pylist(), table["complete_d_min"].to_pylist(), strict=True):
            spacing = np.array(cell[:3]) / file["shape"]
            assert spacing.max() <= 2.0 / 2.7 + 1e-9
            assert complete == 2.0
        assert all(n % 4 == 0 for n in file["shape"])
    batch = next(data.batches("train", 4))
    assert batch.density.shape[1:] == batch.shape


def test_a_grid_over_the_limit_is_rejected_by_name(catalogue: Path, cif_folder: Path, tmp_path: Path) -> None:
    config = small(cif_folder, "generate.grid={kind: spacing}", "generate.max_grid_points=4000")
    summary = generate(config, catalogue, tmp_path / "s")
    assert summary["rejected_by_code"] == {"too_large": summary["rejected"]}
    assert 0 < summary["rejected"] < summary["ok"]
    reasons = open_dataset(tmp_path / "s").info["rejections"]
    assert len(reasons) == summary["rejected"]
    assert "max_grid_points" in reasons[0]["reason"]


def test_half_precision_loads_as_single_and_says_its_error(
    catalogue: Path, cif_folder: Path, shards: Path, tmp_path: Path
) -> None:
    facts = generate(small(cif_folder, "generate.dtype=float16"), catalogue, tmp_path / "s")
    half, single = open_dataset(tmp_path / "s"), open_dataset(shards)
    assert facts["bytes_per_crystal"] < 0.7 * single.info["bytes_per_crystal"]
    for ours, exact in zip(
        half.batches("test", 8, shuffle=False), single.batches("test", 8, shuffle=False), strict=True
    ):
        assert ours.ids == exact.ids
        for name in ("amplitude", "density"):
            stored, grid = getattr(ours, name), getattr(exact, name)
            assert stored.dtype == np.float32
            largest = abs(grid).max(axis=(1, 2, 3), keepdims=True)
            assert (abs(stored - grid) / largest).max() <= half.info["storage_error"][name]["largest"]
    for error in half.info["storage_error"].values():
        assert 0 < error["largest"] < 2**-11
        assert 0 < error["rms"] < 2**-11
    assert single.info["storage_error"] == {}
    assert "half precision" in (tmp_path / "s" / "README.md").read_text()
    assert not (tmp_path / "s" / "plan.parquet").exists()
