"""What is written for other programs is read back by them."""

import gemmi
import numpy as np
import pytest

import phaseray
from phaseray.evaluation.solution_files import labels, write_cif, write_hkl, write_map, write_phases, write_res
from phaseray.phasing.structure import Structure
from phaseray.sources.reflections import read_reflections
from phaseray.sources.shelx import parse_shelx_instructions

CELL = (6.1, 7.3, 8.2, 90.0, 104.0, 90.0)


def structure(named=True):
    return Structure(
        positions=np.array([[0.1, 0.2, 0.3], [-0.4, 0.55, 1.02], [0.0, 0.5, 0.0]]), multiplicity=np.array([4, 4, 2]),
        share=np.array([1.0, 1.0, 0.5]), electrons=np.array([26.0, 8.0, 8.0]), b=np.array([1.0, 2.0, -0.5]),
        elements=np.array([26, 8, 8]) if named else np.zeros(3, np.int64), units=2.0 if named else None,
        scale=1.0, r1=0.1,
    )  # fmt: skip


def test_a_map_and_its_phases_are_read_by_gemmi(tmp_path):
    rho = np.random.default_rng(0).random((4, 6, 8))
    ccp4 = gemmi.read_ccp4_map(str(write_map(tmp_path / "map.ccp4", rho, CELL)), setup=True)
    np.testing.assert_allclose(ccp4.grid.array, rho, atol=1e-6)
    assert ccp4.grid.unit_cell.parameters == pytest.approx(CELL)
    hkl = np.array([[1, 0, 2], [0, -3, 1]])
    mtz = gemmi.read_mtz_file(str(write_phases(tmp_path / "p.mtz", CELL, hkl, [3.5, 2.0], [10.0, 350.0], 0.71)))
    np.testing.assert_allclose(mtz.array, [[1, 0, 2, 3.5, 10], [0, -3, 1, 2, 350]], atol=1e-6)
    assert mtz.column_labels() == ["H", "K", "L", "F", "PHI"]
    assert not list(tmp_path.glob(".part*"))


def test_maps_and_phases_mean_the_same(tmp_path):
    from phaseray.diffraction.maps import density
    from phaseray.diffraction.structure_factors import structure_factors
    from phaseray.phasing.problem import half_sphere
    from tests.phasing.test_setting import made

    crystal = made("P 1 21/n 1")
    rho = density(crystal, (48, 60, 64), d_min=1.2)
    hkl = half_sphere(crystal.cell, 1.2)
    f = structure_factors(crystal, hkl)
    path = write_phases(tmp_path / "p.mtz", crystal.cell, hkl, abs(f), np.degrees(np.angle(f)))
    made_by_gemmi = gemmi.read_mtz_file(str(path)).transform_f_phi_to_map("F", "PHI", exact_size=(48, 60, 64)).array
    np.testing.assert_allclose(made_by_gemmi, rho - np.mean(rho), atol=2e-3 * rho.max())


@pytest.mark.parametrize(
    ("value", "largest"), [([12.5, -1.25, 9000.0], 9000.0), ([1e7, 3.0, 5e6], 1e5), ([0.001, 0.004, 0.0], 1e5)]
)
def test_reflections_fit_their_columns_whatever_their_scale(tmp_path, value, largest):
    hkl = [[1, -2, 3], [0, 0, 4], [10, 11, -12]]
    scale = write_hkl(tmp_path / "a.hkl", hkl, value, None)
    again = read_reflections(tmp_path / "a.hkl")
    assert again.hkl.tolist() == hkl
    assert abs(again.value).max() <= largest
    np.testing.assert_allclose(again.value, scale * np.array(value), atol=0.006)


def test_shelx_instructions_say_the_group_again_for_all_settings_that_shelx_knows(tmp_path):
    for group in gemmi.spacegroup_table():
        if group.ext == "1" or group.centring_type() not in "PIFABCR" or not group.is_reference_setting():
            continue
        path = write_res(tmp_path / "a.res", "t", CELL, group, structure(), formula={26: 2, 8: 3})
        told = parse_shelx_instructions(path.read_text())
        assert told.space_group().number == group.number, group.xhm()
        assert told.space_group().operations() == group.operations(), group.xhm()


def test_shelx_instructions_hold_contents_and_atoms(tmp_path):
    path = write_res(
        tmp_path / "a.res", "name", CELL, gemmi.SpaceGroup("P 1 21/n 1"), structure(), formula={26: 2, 8: 3, 6: 1},
        wavelength=1.5418, hklf=3, scale=2.5,
    )  # fmt: skip
    lines = path.read_text().splitlines()
    assert "SFAC C Fe O" in lines
    assert "UNIT 2 4 6" in lines
    assert "FVAR 2.50000" in lines
    assert lines[-2:] == ["HKLF 3", "END"]
    assert [line.split()[:5] for line in lines if line.startswith(("Fe1", "O2"))] == [
        ["Fe1", "2", "0.100000", "0.200000", "0.300000"], ["O2", "3", "0.000000", "0.500000", "0.000000"],
    ]  # fmt: skip
    told = parse_shelx_instructions(path.read_text())
    assert (told.formula, told.wavelength, told.hklf) == ("C2 Fe4 O6", 1.5418, 3)
    assert told.cell == pytest.approx(CELL)
    assert labels(structure(named=False)) == ["Q1", "Q2", "Q3"]


def test_a_cif_is_read_as_the_same_atoms(tmp_path):
    path = write_cif(
        tmp_path / "a.cif", "my crystal", CELL, gemmi.SpaceGroup("P 1 21/n 1"), structure(), notes=["hello"]
    )
    assert path.read_text().startswith("# hello\ndata_my_crystal")
    crystal = phaseray.read_cif(path)
    assert crystal.composition == {"Fe": 4.0, "O": 6.0}
    assert crystal.space_group_number == 14
