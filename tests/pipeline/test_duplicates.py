"""Fingerprints are made only where something is near, and nothing is missed by that."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from phaseray.config import SyntheticSource
from phaseray.crystal import Crystal
from phaseray.fingerprint import fingerprint, rough, rough_neighbourhood, same
from phaseray.pipeline import duplicates, schema
from phaseray.pipeline.storage import write_table
from phaseray.sources import prototype, synthetic_crystal


@pytest.fixture(scope="module")
def crystals() -> list[Crystal]:
    """Prototypes and artificial crystals, then copies of some with noise, moved, and twice the cell."""
    rng = np.random.default_rng(3)
    source = SyntheticSource(count=40, max_atoms=40)
    originals = [*(prototype(i) for i in range(0, 120, 3)), *(synthetic_crystal(source, 0, i) for i in range(40))]
    copies = []
    for crystal in originals[::4]:
        noise = rng.normal(0, 0.0005, crystal.positions.shape) @ np.linalg.inv(crystal.orthogonalization).T
        moved = replace(crystal, positions=crystal.positions + noise + rng.random(3))
        copies += [moved, replace(moved, cell=moved.cell * np.array([1.0001, 1.0002, 1, 1, 1, 1]))]
    return [*originals, *copies]


def parts_of(crystals: list[Crystal], folder: Path, size: int = 30) -> list[Path]:
    paths = []
    for number, first in enumerate(range(0, len(crystals), size)):
        rows = [
            {"id": f"{first + i}", "status": "ok", **schema.atom_values(c), **schema.rough_values(c)}
            for i, c in enumerate(crystals[first : first + size])
        ]
        rows.insert(3, {"id": f"rejected/{number}", "status": "rejected"})
        paths.append(folder / f"part-{number:05d}.parquet")
        write_table(paths[-1], schema.rows_to_table(rows, schema.CATALOGUE))
    return paths


def test_what_is_the_same_is_near_at_a_glance(crystals: list[Crystal]) -> None:
    known, found = [rough(c) for c in crystals], [fingerprint(c) for c in crystals]
    pairs = 0
    for i, j in combinations(range(len(crystals)), 2):
        if same(found[i], found[j]):
            pairs += 1
            near = rough_neighbourhood(np.array([known[i][1], known[j][1]]), np.stack([known[i][2], known[j][2]]))
            assert abs(near[0] - near[1]).max() <= 1
    assert pairs >= 60


def test_all_copies_are_found_whatever_the_batches(
    crystals: list[Crystal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    parts = parts_of(crystals, tmp_path / "parts")
    expected: dict[str, str] = {}
    found = [fingerprint(c) for c in crystals]
    for later in range(len(crystals)):
        for earlier in range(later):
            if str(earlier) not in expected and same(found[earlier], found[later]):
                expected[str(later)] = str(earlier)
                break
    units = duplicates.write_candidates(parts, tmp_path / "f")
    made = sum(unit["count"] for unit in units)
    assert len(expected) <= made < 0.8 * len(crystals)
    worker = duplicates.FingerprintWriter(str(tmp_path / "parts"), str(tmp_path / "f"))
    for unit in units:
        worker(unit)
    for at_once in (50_000, 7):
        monkeypatch.setattr(duplicates, "_AT_ONCE", at_once)
        assert duplicates.mark_duplicates(parts, tmp_path / "f", units, tmp_path / "d.parquet") == len(expected)
        rows = pq.read_table(tmp_path / "d.parquet").to_pylist()
        assert {row["id"]: row["duplicate_of"] for row in rows} == expected
        assert [(row["part"], row["row"]) for row in rows] == sorted((row["part"], row["row"]) for row in rows)


def test_nothing_to_compare(tmp_path: Path) -> None:
    write_table(
        tmp_path / "part-00000.parquet", schema.rows_to_table([{"id": "x", "status": "rejected"}], schema.CATALOGUE)
    )
    parts = [tmp_path / "part-00000.parquet"]
    assert duplicates.write_candidates(parts, tmp_path / "f") == []
    assert duplicates.mark_duplicates(parts, tmp_path / "f", [], tmp_path / "d.parquet") == 0
