"""ingest: every input ends exactly once, the same bytes for the same seed, and nothing is lost."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from phaseray.config import ConfigError, load
from phaseray.pipeline import schema
from phaseray.pipeline.catalogue import catalogue_facts, ingest, part_path, read_catalogue
from phaseray.pipeline.run_folder import open_folder
from phaseray.pipeline.split import split_of
from phaseray.sources.prototypes import prototype
from tests.pipeline.conftest import SALT, small
from tests.stores import STORES

pytestmark = pytest.mark.timeout(180)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def test_every_input_ends_once_as_ok_or_rejected_with_its_code(catalogue: Path) -> None:
    table = read_catalogue(catalogue)
    ids = table["id"].to_pylist()
    assert len(ids) == len(set(ids)) == 288 + 40 + 4
    outcome = {row["id"].split("/")[-1]: (row["status"], row["code"]) for row in table.to_pylist()}
    assert outcome["salt.cif"] == ("duplicate", None)
    assert outcome["no_cell.cif"] == ("rejected", "no_cell")
    assert outcome["empty.cif"][0] == outcome["noise.cif"][0] == "rejected"
    facts = catalogue_facts(catalogue)
    assert [facts[k] for k in ("inputs", "ok", "rejected", "duplicates")] == [332, 327, 3, 2]
    assert sum(facts["rejected_by_code"].values()) == 3
    assert sum(facts["split"].values()) == 327
    assert facts["units"]["u_iso"] == "Å²"
    for row in table.to_pylist():
        assert (row["reason"] is None) == (row["status"] != "rejected")
        assert (row["duplicate_of"] is None) == (row["status"] != "duplicate")


def test_rows_give_the_crystals_back(catalogue: Path) -> None:
    table = read_catalogue(catalogue)
    crystals = schema.crystals(table.filter(pc.not_equal(table["status"], "rejected")))
    for crystal, i in zip(crystals[:288], range(288), strict=True):
        expected = prototype(i)
        assert crystal.id == expected.id
        assert (crystal.cell == expected.cell).all()
        assert (crystal.positions == expected.positions).all()
        assert (crystal.numbers == expected.numbers).all()
        assert (crystal.u_iso == expected.u_iso).all()
        assert crystal.space_group_number == expected.space_group_number


def test_the_first_of_one_structure_stays(catalogue: Path) -> None:
    """AFLOW has pyrite twice, and the CIF is its rock salt, on other axes."""
    rows = read_catalogue(catalogue, ["id", "duplicate_of"]).to_pylist()
    found = {row["id"].split("/")[-1]: row["duplicate_of"].split("/")[-1] for row in rows if row["duplicate_of"]}
    assert found == {
        "AB2_aP12_1_4a_8a-FeS2": "AB2_cP12_205_a_c-FeS2",
        "salt.cif": "AB_cF8_225_a_b-ClNa",
    }
    status = read_catalogue(catalogue, ["status"])
    assert status.column_names == ["status", "part", "row"]
    assert status["status"].to_pylist().count("duplicate") == 2


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_is_ingested_as_a_folder_on_a_disk(
    scheme: str, cif_folder: Path, tmp_path: Path, ray_cluster: None
) -> None:
    objects = {str(p.relative_to(cif_folder)): p.read_bytes() for p in cif_folder.rglob("*.cif")}
    sources = "ingest.sources=[{{kind: cif, path: '{}', options: {}}}]"
    ingest(load(None, [sources.format(cif_folder, {})]), tmp_path / "disk")
    with STORES[scheme]({f"{cif_folder.name}/{name}": content for name, content in objects.items()}) as store:
        path = f"{store.address}/{cif_folder.name}"
        facts = ingest(load(None, [sources.format(path, json.dumps(store.options))]), tmp_path / "store")
    assert [facts[k] for k in ("inputs", "ok", "rejected")] == [4, 1, 3]
    columns = ["id", "sha256", "status", "code", "formula"]
    disk, stored = (read_catalogue(tmp_path / name, columns).select(columns) for name in ("disk", "store"))
    assert stored.to_pylist() == disk.to_pylist()


def test_duplicates_are_kept_on_request(cif_folder: Path, tmp_path: Path, ray_cluster: None) -> None:
    facts = ingest(small(cif_folder, "ingest.duplicates=keep"), tmp_path / "c")
    assert (facts["ok"], facts["duplicates"]) == (329, 0)
    assert set(read_catalogue(tmp_path / "c")["duplicate_of"].to_pylist()) == {None}


def test_same_seed_gives_the_same_bytes_and_another_does_not(catalogue: Path, cif_folder: Path, tmp_path: Path) -> None:
    ingest(small(cif_folder), tmp_path / "again")
    assert files(tmp_path / "again") == files(catalogue)
    ingest(small(cif_folder, "seed=1"), tmp_path / "other")
    assert files(tmp_path / "other") != files(catalogue)


def test_a_run_that_was_cut_off_goes_on(catalogue: Path, cif_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    ingest(small(cif_folder), out)
    before = part_path(out, 0).stat().st_mtime_ns
    part_path(out, 1).unlink()
    (out / "catalogue.json").unlink()
    (out / "parts" / ".part-00002.parquet.0123.tmp").write_bytes(b"half")
    with pytest.raises(ConfigError, match="no finished catalogue"):
        read_catalogue(out)
    ingest(small(cif_folder), out)
    assert files(out) == files(catalogue)
    assert part_path(out, 0).stat().st_mtime_ns == before
    assert not list(out.rglob("*.tmp"))


def test_a_folder_whose_maker_was_killed_at_once_is_gone_on_with(cif_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".run.json.0123.tmp").write_text("{")
    open_folder(tmp_path / "c", {"command": "ingest"}, small(cif_folder))
    (tmp_path / "c" / "config.yaml").unlink()
    open_folder(tmp_path / "c", {"command": "ingest"}, small(cif_folder))


def test_a_folder_of_another_run_is_left_alone(catalogue: Path, cif_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another run"):
        ingest(small(cif_folder, "seed=5"), catalogue)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not empty"):
        ingest(small(cif_folder), tmp_path / "mine")


def test_limits_reject(tmp_path: Path, ray_cluster: None) -> None:
    config = load(None, ["ingest.sources=[{kind: prototypes}]", "ingest.limits.max_atoms=30"])
    summary = ingest(config, tmp_path / "c")
    assert summary["rejected_by_code"] == {"too_large": summary["rejected"]}
    assert summary["rejected"] > 5
    table = read_catalogue(tmp_path / "c", ["status", "reason"])
    reasons = [r for r in table["reason"].to_pylist() if r]
    assert all("limits.max_atoms" in reason for reason in reasons)


def test_a_worker_that_a_monster_kills_costs_one_row(tmp_path: Path, ray_cluster: None) -> None:
    """The kernel ends the actor, Ray starts another, and that one reads the part input by input."""
    atoms = "".join(f"C{i} C 0.{i:06d} 0.{i * 7 % 1000003:06d} 0\n" for i in range(700_000))
    (tmp_path / "cif").mkdir()
    (tmp_path / "cif" / "monster.cif").write_text(SALT.replace("5.64", "400").replace("F m -3 m", "P 1") + atoms)
    (tmp_path / "cif" / "salt.cif").write_text(SALT)
    sources = f"ingest.sources=[{{kind: cif, path: '{tmp_path / 'cif'}'}}]"
    limits = "ingest.limits={max_seconds: 1.5, max_volume: 1.0e+9, max_bytes: 100000000}"
    ingest(load(None, [sources, limits]), tmp_path / "c")
    rows = read_catalogue(tmp_path / "c", ["status", "code", "reason"]).to_pylist()
    assert [(row["status"], row["code"]) for row in rows] == [("rejected", "too_slow"), ("ok", None)]


def test_the_list_of_inputs_has_a_row_group_a_part(catalogue: Path) -> None:
    inputs = pq.ParquetFile(catalogue / "inputs.parquet")
    sizes = [inputs.metadata.row_group(i).num_rows for i in range(inputs.num_row_groups)]
    assert sizes == [100, 100, 100, 32]


def test_missing_source_is_a_clear_error(tmp_path: Path) -> None:
    config = load(None, ["ingest.sources=[{kind: cif, path: /not/there}]"])
    with pytest.raises(ValueError, match="/not/there"):
        ingest(config, tmp_path / "c")


def test_split_is_by_formula_alone() -> None:
    config = load(None).ingest.split
    splits = {f: split_of(f, config) for f in ("Na Cl", "C H4", "Si O2", "Fe2 O3")}
    assert splits == {f: split_of(f, config) for f in reversed(splits)}
    # pinned: the same on every machine, for ever
    assert json.dumps(splits) == json.dumps(SPLITS)
    shares = [split_of(f"X{i}", config) for i in range(5000)]
    assert abs(shares.count("test") / 5000 - 0.1) < 0.02
    assert abs(shares.count("val") / 5000 - 0.1) < 0.02


SPLITS: dict[str, str] = {"Na Cl": "train", "C H4": "train", "Si O2": "train", "Fe2 O3": "train"}


def test_no_formula_is_in_two_splits(catalogue: Path) -> None:
    table = read_catalogue(catalogue, ["status", "split", "reduced_formula"])
    seen: dict[str, str] = {}
    for row in table.to_pylist():
        if row["status"] == "ok":
            assert seen.setdefault(row["reduced_formula"], row["split"]) == row["split"]
