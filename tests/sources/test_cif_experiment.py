"""What a CIF or FCF says of the crystal of its reflections, or of those beside it."""

from __future__ import annotations

import pytest

from phaseray.sources.experiment import read_experiment
from tests.sources.experiment_files import CELL, EVERYTHING, HKL, INS, LIST, OF_CELL, OF_CRYSTAL, folder

OPERATIONS = """\
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-x, y+1/2, -z+1/2'
'-x, -y, -z'
'x, -y-1/2, z-1/2'
"""


def test_an_fcf_has_cell_and_operations_and_the_formula_stands_beside_it(tmp_path):
    fcf = f"# h,k,l, Fo-squared\ndata_x\n_shelx_refln_list_code 4\n{OPERATIONS}{OF_CELL}{LIST}"
    path = folder(tmp_path, fcf=fcf)
    alone = read_experiment(path)
    assert alone.space_group.xhm() == "P 1 21/c 1"
    assert alone.cell.tolist() == CELL
    assert alone.origins == dict.fromkeys(("cell", "space_group"), "data.fcf")
    # what is a twin in the list of the refinement is not in this one
    folder(tmp_path, res=INS.replace("HKLF 4", "HKLF 5"))
    found = read_experiment(path, kind="F")
    assert found.reflections.kind == "F2"
    assert found.formula == "C48 H40 N8"
    assert found.origins == alone.origins | dict.fromkeys(("formula", "wavelength"), "data.res")


def test_an_fcf_beside_a_list_tells_the_cell(tmp_path):
    found = read_experiment(folder(tmp_path, hkl=HKL, fcf=f"data_x\n{OPERATIONS}{OF_CELL}{LIST}"))
    assert found.origins == dict.fromkeys(("cell", "space_group"), "data.fcf")


def test_a_cif_may_have_its_cell_in_another_block(tmp_path):
    found = read_experiment(folder(tmp_path, hkl=f"data_a\n{OF_CELL}{OF_CRYSTAL}\ndata_a_Fobs\n{LIST}"))
    assert len(found.reflections) == 2
    assert found.cell.tolist() == CELL
    assert found.space_group.xhm() == "P 1 21/c 1"
    assert found.formula == "C12 H10 N2 O"
    assert found.wavelength == 0.71073
    assert found.origins == dict.fromkeys(EVERYTHING, "data.hkl")


def test_of_several_crystals_the_one_with_the_list_is_meant(tmp_path):
    other = OF_CELL.replace("7.100(2)", "17.1") + "_chemical_formula_sum 'Cu O'\n"
    path = folder(tmp_path, cif=f"data_a\n{other}\ndata_b\n{OF_CELL}{LIST}")
    found = read_experiment(path)
    assert found.cell.tolist() == CELL
    assert found.formula is None
    folder(tmp_path, cif=f"data_a\n{other}\ndata_b\n{OF_CELL}{OF_CRYSTAL}\ndata_c\n{LIST}")
    with pytest.raises(ValueError, match=r"data\.cif: its blocks have different cells.*give --cell"):
        read_experiment(path)
    assert read_experiment(path, cell=CELL).formula == "C12 H10 N2 O"


def test_a_list_inside_a_cif_is_what_its_instructions_say(tmp_path):
    lines = "\n".join(f"{h:4d}{0:4d}{1:4d}{10.0 * h:8.2f}{1.0:8.2f}" for h in range(1, 9))
    start = f"data_x\n{OF_CELL}{OF_CRYSTAL}_shelx_hkl_file\n;\n{lines}\n;\n_shelx_res_file\n;\n"
    for n, kind in ((4, "F2"), (3, "F")):
        path = folder(tmp_path, cif=f"{start}TITL x\nCELL 1 2 3\nHKLF {n}\n;\n")
        found = read_experiment(path)
        assert found.reflections.kind == kind
        assert found.origins == dict.fromkeys(EVERYTHING, "data.cif")
    folder(tmp_path, cif=f"{start}TITL x\nHKLF 5\n;\n")
    with pytest.raises(ValueError, match=r"HKLF 5 in data\.cif .* twin"):
        read_experiment(path)


def test_instructions_inside_a_cif_tell_of_the_list_beside_it(tmp_path):
    cif = f"data_x\n{OF_CELL}{OF_CRYSTAL}_shelx_res_file\n;\nTITL x\nHKLF 3\n;\n"
    assert read_experiment(folder(tmp_path, hkl=HKL, cif=cif)).reflections.kind == "F"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("_space_group_name_H-M_alt 'P 1 21/c 1'", "P 1 21/c 1"),
        ("_symmetry_space_group_name_H-M P2(1)/c", "P 1 21/c 1"),
        ("_symmetry_space_group_name_H-M P2(1)/n", "P 1 21/n 1"),
        ("_space_group_name_H-M_alt ?\n_space_group_name_Hall '-P 2ybc'", "P 1 21/c 1"),
        ("_space_group_name_H-M_alt 'what'\n_space_group_name_Hall '-P 2ybc'", "P 1 21/c 1"),
        ("_space_group_name_H-M_alt 'what'\n" + OPERATIONS, "P 1 21/c 1"),
        # a symbol leaves open what operations tell
        ("_space_group_name_H-M_alt 'P 21/n'\n" + OPERATIONS, "P 1 21/c 1"),
        # and counts where they are of another group
        ("_space_group_name_H-M_alt 'P 21'\n" + OPERATIONS, "P 1 21 1"),
        ("", None),
        ("_space_group_name_H-M_alt 'what'", None),
    ],
)
def test_a_cif_names_its_group_in_several_ways(tmp_path, said: str, expected: str | None):
    found = read_experiment(folder(tmp_path, cif=f"data_x\n{OF_CELL}{said}\n{LIST}")).space_group
    assert (found.xhm() if found else None) == expected


def test_angles_that_a_cif_does_not_name_are_right(tmp_path):
    cell = "_cell_length_a 5\n_cell_length_b 6\n_cell_length_c 7\n"
    assert read_experiment(folder(tmp_path, cif=f"data_x\n{cell}{LIST}")).cell.tolist() == [5, 6, 7, 90, 90, 90]
    path = folder(tmp_path, cif=f"data_x\n{cell}_cell_angle_beta ?\n{LIST}")
    with pytest.raises(ValueError, match=r"no data\.ins, data\.res or data\.fcf beside it: give --cell"):
        read_experiment(path)


def test_a_structure_without_reflections_is_told(tmp_path):
    path = folder(tmp_path, cif=f"data_x\n{OF_CELL}{OF_CRYSTAL}")
    with pytest.raises(ValueError, match=r"data\.cif: it holds no measured reflections"):
        read_experiment(path)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("_diffrn_radiation_probe neutron", "neutron"),
        ("_diffrn_radiation_probe x-ray", "x-ray"),
        ("_diffrn_radiation_probe 'X-ray'\n_diffrn_radiation_type 'neutron'", "x-ray"),
        ("_diffrn_radiation_probe Electron", "electron"),
        ("_diffrn_radiation_probe ?\n_diffrn_radiation_type 'Constant-wavelength neutron beam'", "neutron"),
        ("_diffrn_radiation_type electron", "electron"),
        ("loop_\n_diffrn_radiation_probe\n_diffrn_radiation_wavelength\n. 1.1\nneutron 1.2\nx-ray 0.7\n", "neutron"),
        ("_diffrn_radiation_probe gamma", None),
        ("_diffrn_radiation_type 'MoK\\a'", None),
        ("_diffrn_radiation_type synchrotron", None),
        ("", None),
    ],
)
def test_a_cif_tells_the_radiation(tmp_path, said: str, expected: str | None):
    found = read_experiment(folder(tmp_path, cif=f"data_x\n{OF_CELL}{said}\n{LIST}"))
    assert found.radiation == expected
    assert found.origins.get("radiation") == ("data.cif" if expected else None)
    # as the wavelength, in another block too, unless that is of another crystal
    folder(tmp_path, cif=f"data_x\n{OF_CELL}{said}\ndata_y\n{LIST}")
    assert read_experiment(tmp_path / "data.cif").radiation == expected
    other = OF_CELL.replace("7.100(2)", "17.1")
    folder(tmp_path, cif=f"data_x\n{other}{said}\ndata_y\n{OF_CELL}{LIST}")
    assert read_experiment(tmp_path / "data.cif").radiation is None


@pytest.mark.parametrize("suffix", ["hkl", "fcf"])
def test_a_cif_beside_tells_the_radiation_though_nothing_else_is_wanted_of_it(tmp_path, suffix: str):
    cif = f"data_x\n{OF_CELL}{OF_CRYSTAL.replace('C12', 'C13')}_diffrn_radiation_probe neutron\n"
    lists = {"hkl": HKL, "fcf": f"data_x\n{OPERATIONS}{OF_CELL}{LIST}"}
    path = folder(tmp_path, **{suffix: lists[suffix]}, ins=INS, cif=cif)
    found = read_experiment(path)
    assert found.radiation == "neutron"
    assert found.formula == "C48 H40 N8"
    assert found.origins["wavelength"] == "data.ins"
    assert found.origins["radiation"] == "data.cif"
    # which is then no reason to refuse what is known without it
    folder(tmp_path, cif="no CIF")
    found = read_experiment(path)
    assert found.radiation is None
    assert "radiation" not in found.origins
    (tmp_path / "data.ins").unlink()
    with pytest.raises(ValueError, match=r"data\.cif: not a CIF"):
        read_experiment(path)
