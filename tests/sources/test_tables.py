"""Tables: a crystal a row, the same as pymatgen's reading of it, and a reason for every bad row."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Lattice, Structure

from phaseray.config import Limits, TableSource
from phaseray.crystal import Crystal, Rejection
from phaseray.sources import list_inputs, read_input, read_inputs
from tests.sources.test_files import cif

STRUCTURES = {
    "mp-salt": Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "mp-quartz": Structure.from_spacegroup(
        "P3_221", Lattice.hexagonal(4.91, 5.40), ["Si", "O"], [[0.47, 0, 2 / 3], [0.413, 0.267, 0.786]]
    ),
    "mp-alloy": Structure(
        Lattice.from_parameters(3.1, 4.2, 5.3, 81, 95, 107),
        [{"Cu": 0.7, "Au": 0.25}, "D"],
        [[0.1, 0.2, 0.3], [0.6, 0.7, 1]],
    ),
    "mp-left": Structure(
        [[4, 0, 0], [0, 0, 5], [0.5, 6, 0.3]], ["Fe", "S", "O"], [[0.1, 0, 0], [0.4, 0.5, 0], [0.8, 0.3, 0.6]]
    ),
}


def lemat_row(structure: Structure, id: str) -> dict[str, Any]:
    return {
        "immutable_id": id,
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "cartesian_site_positions": structure.cart_coords.tolist(),
        "species_at_sites": [site.species.elements[0].symbol for site in structure],
    }


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def listed(path: Path, **known: Any):
    return list(list_inputs(TableSource(path=str(path), **known), 0))


def assert_same(actual: Crystal, expected: Crystal) -> None:
    np.testing.assert_allclose(actual.cell, expected.cell, atol=1e-9)
    np.testing.assert_array_equal(actual.numbers, expected.numbers)
    np.testing.assert_array_equal(actual.isotopes, expected.isotopes)
    np.testing.assert_allclose(actual.occupancy, expected.occupancy)
    apart = actual.positions - expected.positions
    np.testing.assert_allclose(apart - np.rint(apart), 0, atol=1e-9)


def pymatgen_tables(folder: Path) -> list[Path]:
    """The same structures as JSON lines, gzipped, as Parquet of dicts, of JSON text, and as bare dicts."""
    documents = [{"material_id": id, "structure": s.as_dict()} for id, s in STRUCTURES.items()]
    lines = write_jsonl(folder / "docs.jsonl", documents)
    (folder / "docs.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    text = [d | {"structure": json.dumps(d["structure"])} for d in documents]
    pq.write_table(pa.Table.from_pylist(text), folder / "text.parquet")
    # Parquet knows no empty structs
    nested = json.loads(json.dumps(documents).replace('"properties": {}', '"properties": null'))
    pq.write_table(pa.Table.from_pylist(nested), folder / "nested.parquet")
    write_jsonl(folder / "bare.jsonl", [s.as_dict() | {"id": id} for id, s in STRUCTURES.items()])
    names = ("docs.jsonl", "docs.jsonl.gz", "text.parquet", "nested.parquet", "bare.jsonl")
    return [folder / name for name in names]


def test_dicts_of_the_materials_project_are_read_as_pymatgen_reads_them(tmp_path: Path):
    for path in pymatgen_tables(tmp_path):
        refs = listed(path)
        assert [ref.id for ref in refs] == [f"{path.name}/{id}" for id in STRUCTURES]
        found = {ref.member: crystal for ref, crystal, _ in read_inputs(refs)}
        for id, structure in STRUCTURES.items():
            assert_same(
                found[id], Crystal.from_pymatgen(Structure.from_dict(json.loads(json.dumps(structure.as_dict()))))
            )


def test_lemat_columns_are_read_as_pymatgen_builds_them(tmp_path: Path):
    ordered = {id: s for id, s in STRUCTURES.items() if s.is_ordered}
    table = pa.Table.from_pylist([lemat_row(s, id) for id, s in ordered.items()])
    pq.write_table(table, tmp_path / "lemat.parquet")
    refs = listed(tmp_path / "lemat.parquet")
    for ref, crystal, _ in read_inputs(refs):
        row = lemat_row(ordered[ref.member], "")
        expected = Structure(
            row["lattice_vectors"], row["species_at_sites"], row["cartesian_site_positions"], coords_are_cartesian=True
        )
        assert_same(crystal, Crystal.from_pymatgen(expected))


def test_the_hand_of_a_crystal_does_not_depend_on_that_of_its_axes(tmp_path: Path):
    quartz = STRUCTURES["mp-quartz"]
    other = Structure(quartz.lattice.matrix[[1, 0, 2]], quartz.species, quartz.frac_coords[:, [1, 0, 2]])
    assert np.linalg.det(other.lattice.matrix) < 0 < np.linalg.det(quartz.lattice.matrix)
    refs = listed(write_jsonl(tmp_path / "x.jsonl", [lemat_row(quartz, "right"), lemat_row(other, "left")]))
    right, left = (crystal for _, crystal, _ in read_inputs(refs))

    assert left.formula == right.formula
    # P3_221 (154) and P3_121 (152) are told apart by pymatgen's own symmetry analysis
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    numbers = [SpacegroupAnalyzer(c.to_pymatgen()).get_space_group_number() for c in (right, left)]
    assert numbers == [154, 154]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_of_cif(tmp_path: Path, suffix: str):
    rows = [{"name": f"crystal {e}", "cif": cif(e).decode()} for e in ("Fe", "Cu")]
    path = tmp_path / f"x.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    refs = listed(path, id_column="name")
    assert [ref.id for ref in refs] == [f"x.{suffix}/crystal Fe", f"x.{suffix}/crystal Cu"]
    results = list(read_inputs(refs))
    assert [crystal.formula for _, crystal, _ in results] == ["Fe2", "Cu2"]
    assert [sha for *_, sha in results] == [hashlib.sha256(cif(e)).hexdigest() for e in ("Fe", "Cu")]
    assert [ref.member for ref in listed(path)] == ["0", "1"]
    assert read_input(refs[1]).formula == "Cu2"


def test_a_folder_of_tables(tmp_path: Path):
    (tmp_path / "top" / "data").mkdir(parents=True)
    for i, (id, s) in enumerate(STRUCTURES.items()):
        write_jsonl(tmp_path / "top" / "data" / f"part-{i}.jsonl", [{"id": id, "structure": s.as_dict()}])
    ids = [ref.id for ref in listed(tmp_path / "top")]
    assert ids == [f"top/data/part-{i}.jsonl/{id}" for i, id in enumerate(STRUCTURES)]


GOOD = STRUCTURES["mp-salt"]
BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "not JSON": ("{broken", "syntax"),
    "no structure": ({"structure": None}, "syntax"),
    "no lattice": ({"structure": {"sites": []}}, "no_cell"),
    "flat": (
        {"structure": {"lattice": {"matrix": [[1, 0, 0], [2, 0, 0], [0, 0, 3]]}, "sites": GOOD.as_dict()["sites"]}},
        "bad_cell",
    ),
    "nothing in it": ({"structure": GOOD.as_dict() | {"sites": []}}, "no_atoms"),
    "no such element": (lambda s: s["sites"][0]["species"][0].update(element="Qq"), "unknown_element"),
    "half a coordinate": (lambda s: s["sites"][0].update(abc=[0.1, 0.2]), "bad_coordinates"),
    "not a number": (lambda s: s["sites"][0].update(abc=[0.1, 0.2, float("nan")]), "bad_coordinates"),
    "too full": (lambda s: s["sites"][0]["species"][0].update(occu=1.4), "bad_occupancy"),
    "empty": (lambda s: s["sites"][0]["species"][0].update(occu=-0.5), "bad_occupancy"),
    "one on another": (lambda s: s["sites"][1].update(abc=s["sites"][0]["abc"]), "clash"),
}


def test_bad_rows_are_rejections_and_the_others_go_on(tmp_path: Path):
    rows: list[Any] = [{"structure": GOOD.as_dict()}]
    for change, _ in BAD.values():
        if callable(change):
            structure = json.loads(json.dumps(GOOD.as_dict()))
            change(structure)
            rows.append({"structure": structure})
        else:
            rows.append(change)
    rows.append({"structure": GOOD.as_dict()})
    results = [result for _, result, _ in read_inputs(listed(write_jsonl(tmp_path / "x.jsonl", rows)))]
    assert isinstance(results[0], Crystal)
    assert isinstance(results[-1], Crystal)
    assert {name: r.code for name, r in zip(BAD, results[1:-1], strict=True)} == {n: c for n, (_, c) in BAD.items()}


def test_limits_hold_for_rows_too(tmp_path: Path):
    refs = listed(write_jsonl(tmp_path / "x.jsonl", [{"structure": GOOD.as_dict()}]))
    for limits in (Limits(max_atoms=7), Limits(max_volume=100), Limits(max_bytes=100)):
        with pytest.raises(Rejection, match="too_large"):
            read_input(refs[0], limits)


def test_a_line_without_end_is_a_rejection_and_not_kept(tmp_path: Path):
    path = tmp_path / "x.jsonl.gz"
    good = json.dumps({"structure": GOOD.as_dict()}).encode() + b"\n"
    path.write_bytes(gzip.compress(good + b"[" * 3_000_000 + b"\n" + good))
    source, limits = TableSource(path=str(path)), Limits(max_bytes=1_000_000)
    for spool in (None, tmp_path / "spool"):
        refs = list(list_inputs(source, 0, spool=spool, limits=limits))
        results = [result for _, result, _ in read_inputs(refs, limits, spool=spool)]
        assert [getattr(r, "code", "ok") for r in results] == ["ok", "too_large", "ok"]


def test_columns_that_are_not_there_say_so(tmp_path: Path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"text": "data_x", "energy": 1.0}])
    with pytest.raises(ValueError, match=r"no column of a known name .*it has text, energy\. Set `column`"):
        listed(path)
    with pytest.raises(ValueError, match="no column structures"):
        listed(path, column="structures")
    with pytest.raises(ValueError, match=r"no column mp.*check `id_column`"):
        listed(path, column="text", id_column="mp")
    assert len(listed(path, column="text")) == 1
    (tmp_path / "y.jsonl").write_text("hello\n")
    with pytest.raises(ValueError, match="neither Parquet nor JSON lines"):
        listed(tmp_path / "y.jsonl")


def test_parquet_with_large_row_groups_is_spooled(tmp_path: Path):
    n = 3000
    table = pa.table({"id": [f"c{i}" for i in range(n)], "cif": [cif("Fe", f"# {i}").decode() for i in range(n)]})
    pq.write_table(table, tmp_path / "x.parquet")
    spool = tmp_path / "spool"
    refs = list(list_inputs(TableSource(path=str(tmp_path / "x.parquet")), 0, spool=spool))
    assert len(list(spool.iterdir())) == 1
    some = refs[1000:1100]
    with_spool = [(ref.id, sha) for ref, _, sha in read_inputs(some, spool=spool)]
    assert with_spool == [(ref.id, sha) for ref, _, sha in read_inputs(some)]
    assert [id for id, _ in with_spool] == [f"x.parquet/c{i}" for i in range(1000, 1100)]
