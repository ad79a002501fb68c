"""The AFLOW prototypes, held against pymatgen's own loading of them."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

from phaseray.crystal import Crystal
from phaseray.sources import prototypes


def test_every_prototype_of_pymatgen_is_there_once():
    assert prototypes.count() == len(AFLOW_PROTOTYPE_LIBRARY) >= 288
    assert len(set(prototypes.names())) == prototypes.count()


def test_the_crystals_are_those_that_pymatgen_loads():
    for index, entry in enumerate(AFLOW_PROTOTYPE_LIBRARY):
        expected = Crystal.from_pymatgen(entry["snl"].structure)
        actual = prototypes.prototype(index)
        np.testing.assert_allclose(actual.cell, expected.cell, atol=1e-9)
        np.testing.assert_array_equal(actual.numbers, expected.numbers)
        apart = actual.positions - expected.positions
        np.testing.assert_allclose(apart - np.rint(apart), 0, atol=1e-9)
        np.testing.assert_array_equal(actual.occupancy, expected.occupancy)


def test_id_and_symmetry_come_from_the_aflow_label():
    by_id = {id: index for index, id in enumerate(prototypes.names())}
    sphalerite = prototypes.prototype(by_id["aflow/AB_cF8_216_c_a-SZn"])
    assert sphalerite.space_group is None  # the cell is primitive, F -4 3 m is not its setting
    assert sphalerite.space_group_number == 216
    assert sphalerite.id == "aflow/AB_cF8_216_c_a-SZn"
    assert "Zincblende" in sphalerite.source


def test_labels_that_stand_for_several_crystals_are_told_apart_by_formula():
    of_one_label = [name for name in prototypes.names() if name.startswith("aflow/AB_oP8_62_c_c-")]
    assert sorted(of_one_label) == [f"aflow/AB_oP8_62_c_c-{f}" for f in ("BFe", "GeS", "MnP", "SSn")]


@pytest.mark.parametrize("index", [-1, 100_000])
def test_a_number_out_of_range_is_refused(index: int):
    with pytest.raises(ValueError, match="numbered from 0 to"):
        prototypes.prototype(index)


def test_a_fresh_process_has_them_without_importing_pymatgen():
    """pymatgen.analysis.prototypes takes four seconds to import, and every Ray worker would pay it."""
    code = (
        "import sys; from phaseray.sources import prototypes; assert prototypes.count() >= 288;"
        "assert 'pymatgen.core' not in sys.modules; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_falls_back_on_the_library_that_pymatgen_has_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prototypes, "find_spec", lambda name: None)
    records = prototypes._records()
    assert [r["tags"] for r in records] == [e["tags"] for e in AFLOW_PROTOTYPE_LIBRARY]
    assert prototypes._crystal(**records[0]).id == prototypes.names()[0]


def test_a_second_look_costs_nothing():
    prototypes.count()
    start = time.process_time()
    for index in range(prototypes.count()):
        prototypes.prototype(index)
    assert time.process_time() - start < 0.1
