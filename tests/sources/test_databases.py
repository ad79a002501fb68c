"""The databases that pip brings: their counts, their compositions, and the command that brings them."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys
import tarfile
from pathlib import Path

import gemmi
import numpy as np
import pytest

from phaseray.config import AmcsdSource, CoreMofSource
from phaseray.crystal import Crystal
from phaseray.sources import databases, list_inputs, read_cif, read_inputs


def path_of(uri: str) -> Path:
    try:
        return Path(databases.package_path(uri))
    except ValueError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def amcsd() -> sqlite3.Connection:
    connection = sqlite3.connect(path_of(databases.AMCSD))
    connection.row_factory = sqlite3.Row
    return connection


@pytest.mark.parametrize("source", [AmcsdSource(), CoreMofSource()])
def test_a_package_that_is_not_there_names_the_command(monkeypatch: pytest.MonkeyPatch, source):
    monkeypatch.setattr(databases, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps (larixite|core-mof)` brings it"):
        next(list_inputs(source, 0))


def test_every_mineral_of_amcsd_is_listed(amcsd: sqlite3.Connection):
    refs = list(list_inputs(AmcsdSource(), 0))
    assert len(refs) == amcsd.execute("SELECT count(*) FROM cif").fetchone()[0] == 9275
    assert refs[0].id == "amcsd/00003"
    assert len({ref.id for ref in refs}) == len(refs)


def test_minerals_have_the_volume_density_and_elements_that_the_database_states(amcsd: sqlite3.Connection):
    """The cell's volume and the mass of all that is in it, against AMCSD's own columns."""
    refs = list(list_inputs(AmcsdSource(), 0))[::45]
    ok = near = 0
    for ref, crystal, _ in read_inputs(refs):
        row = amcsd.execute("SELECT * FROM cif WHERE id = ?", (ref.index,)).fetchone()
        if not isinstance(crystal, Crystal):
            continue
        ok += 1
        assert crystal.volume == pytest.approx(float(row["cell_volume"]), rel=2e-3)
        mass = sum(gemmi.Element(int(z)).weight * o for z, o in zip(crystal.numbers, crystal.occupancy, strict=True))
        density = mass * 1.66053907 / crystal.volume
        near += abs(density / float(row["crystal_density"]) - 1) < 0.03
    assert ok >= 0.95 * len(refs)
    # hydrogen that was not located is missing from some sums
    assert near >= 0.95 * ok


def test_amcsd_is_read_as_another_programs_export_of_it(amcsd: sqlite3.Connection, shared_data: Path):
    n = 0
    with tarfile.open(shared_data / "cif.tar.xz") as archive:
        for header in archive:
            name = Path(header.name).name
            if not name.startswith("amcsd_"):
                continue
            n += 1
            other = read_cif(archive.extractfile(header).read())
            crystal = read_cif(databases.amcsd_cif(int(name[6:11])))
            np.testing.assert_array_equal(crystal.cell, other.cell)
            np.testing.assert_array_equal(crystal.numbers, other.numbers)
            np.testing.assert_array_equal(crystal.positions, other.positions)
            np.testing.assert_array_equal(crystal.occupancy, other.occupancy)
            np.testing.assert_array_equal(crystal.u_iso, other.u_iso)
            if n == 60:
                return


def test_a_code_that_is_not_there(amcsd: sqlite3.Connection):
    with pytest.raises(KeyError, match="no structure 1"):
        databases.amcsd_cif(1)


def test_core_mof_lists_what_its_table_lists(tmp_path: Path):
    """The 4,764 of 2014, from the spool that listing made; some against pymatgen's reading."""
    archive = path_of(databases.core_mof_uri("2014"))
    with archive.with_name("2014.csv").open(newline="") as file:
        expected = {row[0] for row in csv.reader(file)} - {"filename"}
    refs = list(list_inputs(CoreMofSource(subsets=("2014",)), 0, spool=tmp_path))
    assert len(refs) == len(expected) == 4764
    assert {Path(ref.member).stem for ref in refs} == expected
    assert refs[0].id == "core-mof/2014/ABAVIJ_clean.cif"
    results = list(read_inputs(refs[2000:2040], spool=tmp_path))
    crystals = [crystal for _, crystal, _ in results if isinstance(crystal, Crystal)]
    assert len(crystals) >= 30
    assert {crystal.source.split("/")[0] for crystal in crystals} == {"CoRE_MOF"}


def test_core_mof_through_a_package_of_the_tests_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the 45 MB: the references, the subsets, and that a worker finds the package where it has it."""
    from tests.sources.test_files import cif

    for place in ("driver", "worker"):
        folder = tmp_path / place / "CoRE_MOF" / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise ImportError('is not imported')")
        with tarfile.open(folder / "2019-ASR.tar.xz", "w:xz") as archive:
            for name in ("AAA_clean.cif", "BBB_clean.cif", "notes.txt"):
                header = tarfile.TarInfo(name)
                header.size = len(cif())
                archive.addfile(header, io.BytesIO(cif()))
    monkeypatch.delitem(sys.modules, "CoRE_MOF", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "driver"))
    refs = list(list_inputs(CoreMofSource(subsets=("2019-ASR",), recover_symmetry=True), 0))
    assert [ref.id for ref in refs] == ["core-mof/2019-ASR/AAA_clean.cif", "core-mof/2019-ASR/BBB_clean.cif"]
    assert json.loads(refs[0].params) == {"symprec": 0.01}
    (tmp_path / "driver").rename(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(tmp_path / "worker"))
    assert [crystal.formula for _, crystal, _ in read_inputs(refs)] == ["Fe2", "Fe2"]
