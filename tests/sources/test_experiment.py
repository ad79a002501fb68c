"""What a measured file and those beside it say: SHELX instructions, CIF and FCF, MTZ, and what is given."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import gemmi
import numpy as np
import pytest

from phaseray.sources.experiment import parse_shelx_instructions, read_experiment

HKL = """\
   1   0   0  541.43    7.74
   0   2   0  193.76    3.41
   1   1  -2   12.50    0.50
   0   0   0    0.00    0.00
"""
INS = """\
TITL something in P2(1)/c =
CELL 0.71073 7.1 8.2 9.3 90 102.5 90
ZERR 4 0.001 0.001 0.001 0 0.01 0
LATT 1
SYMM -X, 0.5+Y, 0.5-Z
SFAC C H N O
UNIT 48 40 8 0
HKLF 4
END
"""
CELL = [7.1, 8.2, 9.3, 90, 102.5, 90]
OF_CELL = """\
_cell_length_a 7.100(2)
_cell_length_b 8.200(3)
_cell_length_c 9.3
_cell_angle_alpha 90
_cell_angle_beta 102.50(1)
_cell_angle_gamma 90
"""
OF_CRYSTAL = """\
_symmetry_space_group_name_H-M 'P 21/c'
_chemical_formula_sum
 'C12 H10 N2 O'
_diffrn_radiation_wavelength 0.71073
"""
LIST = """\
loop_
_refln_index_h
_refln_index_k
_refln_index_l
_refln_F_squared_meas
_refln_F_squared_sigma
1 0 0 541.43 7.74
0 2 0 193.76 3.41
"""
OPERATIONS = """\
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-x, y+1/2, -z+1/2'
'-x, -y, -z'
'x, -y-1/2, z-1/2'
"""
EVERYTHING = ("cell", "space_group", "formula", "wavelength")


def folder(path: Path, **texts: str) -> Path:
    """Files data.hkl, data.ins and so on; the first of them."""
    for suffix, text in texts.items():
        (path / f"data.{suffix}").write_text(text)
    return path / f"data.{next(iter(texts))}"


def test_instructions_beside_a_list_tell_its_crystal(tmp_path):
    found = read_experiment(folder(tmp_path, hkl=HKL, ins=INS))
    assert found.reflections.hkl.tolist() == [[1, 0, 0], [0, 2, 0], [1, 1, -2]]
    assert found.reflections.kind == "F2"
    assert found.cell.tolist() == CELL
    assert found.space_group.xhm() == "P 1 21/c 1"
    assert found.formula == "C48 H40 N8"
    assert found.wavelength == 0.71073
    assert found.origins == dict.fromkeys(EVERYTHING, "data.ins")


def test_ins_counts_before_res_and_that_before_cif(tmp_path):
    short = INS.replace("UNIT 48 40 8 0\n", "")
    res = INS.replace("UNIT 48 40 8 0", "UNIT 44 40 8 0").replace("7.1", "7.11")
    cif = f"data_x\n{OF_CELL}{OF_CRYSTAL}"
    found = read_experiment(folder(tmp_path, hkl=HKL, ins=short, res=res, cif=cif))
    assert found.cell.tolist() == CELL
    assert found.formula == "C44 H40 N8"
    assert found.origins == dict.fromkeys(EVERYTHING, "data.ins") | {"formula": "data.res"}
    (tmp_path / "data.ins").unlink()
    (tmp_path / "data.res").unlink()
    found = read_experiment(tmp_path / "data.hkl")
    assert found.formula == "C12 H10 N2 O"
    assert found.origins == dict.fromkeys(EVERYTHING, "data.cif")


def test_files_of_another_name_are_not_used(tmp_path):
    (tmp_path / "other.ins").write_text(INS)
    path = folder(tmp_path, hkl=HKL)
    message = (
        f"{path}: the cell is not in the file and there is no data.ins, data.res, data.cif or data.fcf beside it: "
        "give --cell"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_experiment(path)
    (tmp_path / "data.ins").write_text("TITL nothing\nSFAC C\n")
    with pytest.raises(ValueError, match=r"neither in the file nor in data\.ins beside it: give --cell"):
        read_experiment(path)


def test_what_is_given_counts_more_than_files(tmp_path):
    path = folder(tmp_path, hkl=HKL, ins=INS)
    cell = [7.15, 8.2, 9.3, 90, 102.5, 90]
    found = read_experiment(path, cell=cell, space_group="P 21", formula="C6 H6", kind="F")
    assert found.cell.tolist() == cell
    assert found.space_group.xhm() == "P 1 21 1"
    assert found.formula == "C6 H6"
    assert found.reflections.kind == "F"
    assert found.origins == {
        "cell": "given",
        "space_group": "given",
        "formula": "given",
        "wavelength": "data.ins",
    }
    assert read_experiment(path, space_group="14").space_group.xhm() == "P 1 21/c 1"


def test_the_space_group_of_another_cell_is_not_taken(tmp_path):
    found = read_experiment(folder(tmp_path, hkl=HKL, ins=INS), cell=[9.3, 8.2, 7.1, 90, 102.5, 90])
    assert found.space_group is None
    assert found.formula == "C48 H40 N8"
    assert "space_group" not in found.origins


@pytest.mark.parametrize("word", ["none", "None", " NONE "])
def test_a_formula_may_be_refused(tmp_path, word: str):
    found = read_experiment(folder(tmp_path, hkl=HKL, ins=INS), formula=word)
    assert found.formula is None
    assert "formula" not in found.origins


@pytest.mark.parametrize(
    ("line", "kind"), [("HKLF 4", "F2"), ("HKLF 3", "F"), ("hklf -3 1.0", "F"), ("", "F2"), ("HKLF", "F2")]
)
def test_hklf_tells_what_is_listed(tmp_path, line: str, kind: str):
    path = folder(tmp_path, hkl=HKL, ins=INS.replace("HKLF 4", line))
    assert read_experiment(path).reflections.kind == kind
    assert read_experiment(path, kind="F").reflections.kind == "F"


@pytest.mark.parametrize(
    ("n", "what"), [(2, "of a Laue camera"), (5, "of a twin"), (6, "of a twin"), (1, "other form")]
)
def test_lists_that_are_not_of_one_crystal_are_refused(tmp_path, n: int, what: str):
    path = folder(tmp_path, hkl=HKL, ins=INS.replace("HKLF 4", f"HKLF {n}"))
    with pytest.raises(ValueError, match=rf"data\.hkl: HKLF {n} in data\.ins .*{what}.*not handled"):
        read_experiment(path, kind="F2", cell=CELL, space_group="P -1", formula="none")


def test_the_matrix_of_hklf_turns_indices_to_those_of_the_cell(tmp_path):
    path = folder(tmp_path, hkl=HKL, ins=INS.replace("HKLF 4", "HKLF 4 1.0 0 1 0  1 0 0  0 0 -1"))
    assert read_experiment(path).reflections.hkl.tolist() == [[0, 1, 0], [2, 0, 0], [1, 1, 2]]
    # the list is of the cell that is given, if that is not the one of the instructions
    other = read_experiment(path, cell=[8.2, 7.1, 9.3, 90, 90, 102.5])
    assert other.reflections.hkl.tolist() == [[1, 0, 0], [0, 2, 0], [1, 1, -2]]
    folder(tmp_path, ins=INS.replace("HKLF 4", "HKLF 4 1 1 0 0  0 .5 0  0 0 .5"))
    assert read_experiment(path).reflections.hkl.tolist() == [[1, 0, 0], [0, 1, 0]]
    folder(tmp_path, ins=INS.replace("HKLF 4", "HKLF 4 1 1 0 0"))
    with pytest.raises(ValueError, match=r"data\.ins: HKLF 4 1 1 0 0 has no matrix"):
        read_experiment(path)
    folder(tmp_path, ins=INS.replace("HKLF 4", "HKLF 4 1 1 0 0  0 1 0  1 0 0"))
    with pytest.raises(ValueError, match=r"data\.ins: the matrix of HKLF .* is none by which axes are changed"):
        read_experiment(path)


def test_instructions_are_read_as_shelx_does():
    found = parse_shelx_instructions(
        """\
rem CELL 1 1 1 1 90 90 90
titl ! =
 CELL 2 2 2 2 90 90 90
cell 1.54178 =
  10 11 12 =   what follows the sign is left out
  90 95 90   ! comment
Latt -7
symm -x, y, -z ! two
SFAC $C H
SFAC ZN 14.0743 3.2655 7.0318 0.2333 5.1652 10.3163 2.41 58.7097 =
     1.3041 0.2839 1.4301 6.81 1.25 65.38
SFAC CL C
UNIT 10 0 =
  2 3.5 4
C1 1 0.1 0.2 0.3
END
LATT 4
UNIT 9 9 9 9
"""
    )
    assert found.cell.tolist() == [10, 11, 12, 90, 95, 90]
    assert found.wavelength == 1.54178
    assert found.space_group().xhm() == "C 1 2 1"
    assert found.formula == "C14 Zn2 Cl3.5"
    assert found.hklf is None


def test_without_latt_the_lattice_is_primitive_and_has_a_centre():
    assert parse_shelx_instructions("CELL 1 5 6 7 80 85 95\n").space_group().xhm() == "P -1"
    # and one that is also in SYMM does no harm
    assert parse_shelx_instructions("CELL 1 5 6 7 80 85 95\nSYMM -x,-y,-z\n").space_group().xhm() == "P -1"


@pytest.mark.parametrize("unit", ["UNIT 0 0\n", ""])
def test_no_contents_are_no_formula(unit: str):
    assert parse_shelx_instructions(f"SFAC C H\n{unit}").formula is None


def test_an_element_that_is_none_makes_the_formula_unknown():
    assert parse_shelx_instructions("SFAC C Q\nUNIT 10 4\n").formula is None


@pytest.mark.parametrize(
    ("third", "decimals"), [("1/3 2/3", ".3333 0.66667"), ("1/6 5/6", "0.1667 .83333"), ("1/4 3/4", ".25 0.750")]
)
def test_decimals_are_fractions(third: str, decimals: str):
    pairs = list(zip(third.split(), decimals.split(), strict=True))
    if third.startswith("1/3"):
        expected, symm = "P 31 2 1", "SYMM -Y, X-Y, Z+{0}\nSYMM Y-X, -X, Z+{1}\nSYMM Y, X, -Z\n"
    elif third.startswith("1/6"):
        expected, symm = "P 61", "SYMM X-Y, X, {0}+Z\nSYMM Y, Y-X, {1} + Z\n"
    else:
        expected, symm = "P 41", "SYMM -Y, X, {0}+Z\nSYMM Y, -X, {1}+Z\n"
    for column in (0, 1):
        text = "LATT -1\n" + symm.format(*(pair[column] for pair in pairs))
        assert parse_shelx_instructions(text).space_group().xhm() == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SYMM -X, 0.5+Y, 0.5-Z", "SYMM -X, 0.4+Y, 0.5-Z", "LATT 1 and SYMM .* no space group that is known: give"),
        ("SYMM -X, 0.5+Y, 0.5-Z", "SYMM X, X, Z", "no space group that is known: give --space-group"),
        ("LATT 1", "LATT 8", "LATT 8 is no lattice"),
        ("LATT 1", "LATT", "'LATT' has not the 1 number of LATT"),
        ("90 102.5 90", "90 102.5", "has not the 7 numbers of CELL"),
        ("90 102.5 90", "90 beta 90", "'CELL 0.71073 7.1 8.2 9.3 90 BETA 90' has not"),
        ("90 102.5 90", "90 182.5 90", "angles that do not close a cell"),
        ("7.1", "0", "not above zero"),
    ],
)
def test_instructions_that_cannot_be_are_told(tmp_path, old: str, new: str, message: str):
    with pytest.raises(ValueError, match=message) as error:
        read_experiment(folder(tmp_path, hkl=HKL, ins=INS.replace(old, new)))
    assert "data.ins: " in str(error.value)


def test_operations_that_are_unknown_do_no_harm_where_the_group_is_given(tmp_path):
    path = folder(tmp_path, hkl=HKL, ins=INS.replace("0.5+Y", "0.4+Y"))
    assert read_experiment(path, space_group="P 21/c").space_group.number == 14


def shelx_lines(group: gemmi.SpaceGroup) -> str | None:
    """LATT and SYMM of a group; None where SHELX has none: a centre that is not at the origin."""
    operations = group.operations()
    centre = gemmi.Op("-x,-y,-z")
    number = "PIRFABC".index(group.centring_type()) + 1
    centred = operations.is_centrosymmetric()
    inverses = {tuple(op.tran) for op in operations if op.rot == centre.rot}
    if centred and (0, 0, 0) not in inverses:
        return None
    lines, seen = [f"LATT {number if centred else -number}"], [np.eye(3)]
    for op in operations.sym_ops:
        rotation = np.array(op.rot) / gemmi.Op.DEN
        if any((rotation == other).all() or (centred and (rotation == -other).all()) for other in seen):
            continue
        seen.append(rotation)
        lines.append(f"SYMM {op.triplet().upper()}")
    return "\n".join(lines)


def test_latt_and_symm_of_every_setting_are_its_group():
    n = 0
    for group in gemmi.spacegroup_table():
        text = shelx_lines(group)
        if text is None:
            continue
        found = parse_shelx_instructions(text).space_group()
        assert found.number == group.number, group.xhm()
        assert found.operations() == group.operations(), group.xhm()
        n += 1
    assert n > 500


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


def test_a_rhombohedral_group_has_the_axes_of_the_cell(tmp_path):
    path = folder(tmp_path, hkl=HKL)
    for cell, expected in (([9, 9, 12, 90, 90, 120], "R -3:H"), ([7, 7, 7, 80, 80, 80], "R -3:R")):
        assert read_experiment(path, cell=cell, space_group="R -3").space_group.xhm() == expected
    with pytest.raises(ValueError, match="R -3:H does not fit the cell 7 7 7 80 80 80"):
        read_experiment(path, cell=[7, 7, 7, 80, 80, 80], space_group="R -3:H")
    folder(tmp_path, ins="CELL 0.7 9 9 12 90 90 120\nLATT 3\nSYMM -Y, X-Y, Z\nSYMM Y-X, -X, Z\n")
    assert read_experiment(path).space_group.xhm() == "R -3:H"


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


def test_items_of_a_cif_below_a_list_do_not_make_it_one(tmp_path):
    below = "_diffrn_reflns_theta_max 25\ndata_x\nloop_\n"
    assert len(read_experiment(folder(tmp_path, hkl=HKL + below), cell=CELL).reflections) == 3


def write_mtz(path: Path, columns: dict[str, tuple[str, list[float]]], wavelength: float = 0.9) -> Path:
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 21 21 21")
    mtz.set_cell_for_all(gemmi.UnitCell(10, 11, 12, 90, 90, 90))
    mtz.add_dataset("x").wavelength = wavelength
    for name, (letter, _) in columns.items():
        mtz.add_column(name, letter)
    hkl = [[1, 2, 3], [0, 2, 4], [3, -1, 5]]
    mtz.set_data(np.column_stack([hkl, *(values for _, values in columns.values())]).astype(np.float32))
    mtz.write_to_file(str(path))
    return path


NAN = float("nan")
FREE = ("I", [0.0, 1.0, 2.0])
CALCULATED = ("F", [9.0, 9.0, 9.0])
PHASE = ("P", [90.0, 90.0, 90.0])
AMPLITUDE, OF_AMPLITUDE = ("F", [4.0, 5.0, NAN]), ("Q", [0.5, 0.25, NAN])
INTENSITY, OF_INTENSITY = ("J", [16.0, NAN, -1.0]), ("Q", [2.0, NAN, 4.0])


@pytest.mark.parametrize(
    ("columns", "kind", "hkl", "values", "sigmas"),
    [
        (
            {"FREE": FREE, "F": AMPLITUDE, "SIGF": OF_AMPLITUDE, "I": INTENSITY, "SIGI": OF_INTENSITY},
            "F2", [[1, 2, 3], [3, -1, 5]], [16, -1], [2, 4],
        ),
        (
            {"FC": CALCULATED, "PHIC": PHASE, "F": AMPLITUDE, "SIGF": OF_AMPLITUDE},
            "F", [[1, 2, 3], [0, 2, 4]], [4, 5], [0.5, 0.25],
        ),
        (
            {
                "I(+)": ("K", [10.0, NAN, NAN]), "SIGI(+)": ("M", [3.0, NAN, NAN]),
                "I(-)": ("K", [20.0, 8.0, NAN]), "SIGI(-)": ("M", [4.0, 2.0, NAN]),
            },
            "F2", [[1, 2, 3], [0, 2, 4]], [15, 8], [2.5, 2],
        ),
        ({"F(+)": ("G", [1.0, 2.0, NAN]), "F(-)": ("G", [3.0, NAN, 5.0])}, "F", [[1, 2, 3], [0, 2, 4], [3, -1, 5]],
         [2, 2, 5], None),
        ({"I": INTENSITY}, "F2", [[1, 2, 3], [3, -1, 5]], [16, -1], None),
    ],
)  # fmt: skip
def test_columns_of_an_mtz_file(tmp_path, columns, kind, hkl, values, sigmas):
    path = write_mtz(tmp_path / "data.hkl", columns)
    found = read_experiment(path, kind="F2" if kind == "F" else "F")
    assert found.reflections.kind == kind
    assert found.reflections.hkl.tolist() == hkl
    assert found.reflections.value.tolist() == values
    assert (None if found.reflections.sigma is None else found.reflections.sigma.tolist()) == sigmas
    assert found.cell.tolist() == [10, 11, 12, 90, 90, 90]
    assert found.space_group.xhm() == "P 21 21 21"
    assert found.wavelength == pytest.approx(0.9)
    assert found.origins == dict.fromkeys(("cell", "space_group", "wavelength"), "data.hkl")


def test_the_formula_of_an_mtz_file_stands_beside_it(tmp_path):
    path = write_mtz(tmp_path / "data.mtz", {"I": INTENSITY}, wavelength=0)
    folder(tmp_path, ins=INS)
    found = read_experiment(path)
    assert found.origins == {
        "cell": "data.mtz",
        "space_group": "data.mtz",
        "formula": "data.ins",
        "wavelength": "data.ins",
    }


def test_an_mtz_file_may_have_a_number_for_what_is_missing(tmp_path):
    path = write_mtz(tmp_path / "data.mtz", {"I": ("J", [16.0, -99.0, -1.0])})
    path.write_bytes(path.read_bytes().replace(b"VALM NAN", b"VALM -99"))
    assert read_experiment(path).reflections.value.tolist() == [16, -1]


def test_an_mtz_file_that_holds_nothing_measured_is_told(tmp_path):
    path = write_mtz(tmp_path / "data.mtz", {"FC": CALCULATED, "PHIC": PHASE})
    with pytest.raises(ValueError, match=r"data\.mtz: the MTZ file has no measured intensities"):
        read_experiment(path)


def test_an_mtz_file_that_is_cut_or_lies_is_told(tmp_path):
    path = write_mtz(tmp_path / "data.mtz", {"I": INTENSITY})
    content = path.read_bytes()
    for damaged in (content[:100], content[:1000], b"MTZ " + b"\0" * 100, content.replace(b"J ", b"\xff ", 1)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"data\.mtz: "):
            read_experiment(path)
    number = content.index(b"NCOL")
    path.write_bytes(content[:number] + b"NCOL        4   1999999999" + content[number + 26 :])
    with pytest.raises(ValueError, match="shorter than its header says"):
        read_experiment(path)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([5, 6, 7], "the cell that is given is 3 numbers; six are wanted"),
        ("large", "is not six numbers"),
        ([5, 6, 7, 90, 90, float("nan")], "not above zero"),
        ([5, 6, -7, 90, 90, 90], r"\(5 6 -7 90 90 90\) has numbers that are not above zero"),
        ([5, 6, 7, 90, 90, 190], "angles that do not close a cell"),
        ([5, 6, 7, 120, 120, 130], "angles that do not close a cell"),
        ([5e9, 6, 7, 90, 90, 90], "edges that no crystal has"),
        ([0.05, 0.06, 0.07, 90, 90, 90], r"data\.hkl: the cell .* does not belong to the reflections"),
        ([5000, 6000, 7000, 90, 90, 90], r"data\.hkl: the cell .* does not belong to the reflections"),
    ],
)
def test_a_cell_that_cannot_be_is_told(tmp_path, cell, message: str):
    with pytest.raises(ValueError, match=message):
        read_experiment(folder(tmp_path, hkl=HKL), cell=cell)


@pytest.mark.parametrize(
    ("cell", "group", "fits"),
    [
        ([5, 5.09, 7, 90, 90, 90], "P 4/m", True),
        ([5, 5.2, 7, 90, 90, 90], "P 4/m", False),
        ([5, 5, 5.2, 90, 90, 90], "P m -3 m", False),
        ([5, 5, 7, 90, 90, 90], "P 6/m", False),
        ([5, 5, 7, 90, 90, 119.8], "P 6/m", True),
        ([5, 6, 7, 90, 100, 90], "P 21/c", True),
        ([5, 6, 7, 100, 90, 90], "P 21/c", False),
        ([5, 6, 7, 80, 100, 70], "P -1", True),
    ],
)
def test_a_space_group_must_fit_the_cell(tmp_path, cell: list[float], group: str, fits: bool):
    path = folder(tmp_path, hkl=HKL)
    if fits:
        assert read_experiment(path, cell=cell, space_group=group).space_group is not None
    else:
        with pytest.raises(
            ValueError, match=r"data\.hkl: the space group P .* does not fit the cell 5 .*--space-group"
        ):
            read_experiment(path, cell=cell, space_group=group)


def test_a_space_group_that_is_none_is_told(tmp_path):
    for name in ("P 99", "231"):
        with pytest.raises(ValueError, match="no space group"):
            read_experiment(folder(tmp_path, hkl=HKL), cell=CELL, space_group=name)


@pytest.mark.parametrize("name", ["data.hkl", "data.ins"])
def test_endless_files_are_not_read_to_their_end(tmp_path, name: str):
    path = folder(tmp_path, hkl=HKL, ins=INS)
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: over 64 MiB"):
        read_experiment(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path, end: str):
    for suffix, text in (("hkl", HKL), ("ins", INS)):
        (tmp_path / f"data.{suffix}").write_bytes(text.replace("\n", end).encode())
    assert read_experiment(tmp_path / "data.hkl").origins == dict.fromkeys(EVERYTHING, "data.ins")


WITH_CELL = {
    **{f"cod_{n}": (f"original_{n}.hkl",) for n in (2012000, 2013000, 2016452, 2100301, 2200000)},
    **{f"codtools_{n}": ("original.cif",) for n in (1516218, 1518592, 2238212, 2240655)},
    "gemmi_4003024": ("original.cif",),
    "structurefinder_P-1": ("original_P-1.fcf",),
    "structurefinder_p-1_a": ("original.cif",),
}


@pytest.fixture
def measured(shared_data: Path, tmp_path: Path) -> list[Path]:
    """Folders of measured sets."""
    if not (shared_data / "measured.tar.xz").is_file():
        pytest.skip("no measured sets")
    with tarfile.open(shared_data / "measured.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return sorted(path.parent for path in tmp_path.rglob("structure.cif"))


def test_measured_sets_have_the_cells_of_their_structures(measured: list[Path], tmp_path: Path):
    n = 0
    for folder_of_set in measured:
        structure = gemmi.read_small_structure(str(folder_of_set / "structure.cif"))
        assert structure.spacegroup is not None
        for path in folder_of_set.glob("original*"):
            if path.name not in WITH_CELL.get(folder_of_set.name, ()):
                with pytest.raises(ValueError, match=r"no measured reflections|cell is not in the file"):
                    read_experiment(path)
                continue
            found = read_experiment(path)
            np.testing.assert_allclose(found.cell, structure.cell.parameters, rtol=1e-3)
            assert found.space_group is not None
            assert found.space_group.number == structure.spacegroup.number
            n += 1
        # a list of its own, with the structure beside it under its name
        shutil.copy(folder_of_set / "reflections.hkl", tmp_path / "data.hkl")
        shutil.copy(folder_of_set / "structure.cif", tmp_path / "data.cif")
        found = read_experiment(tmp_path / "data.hkl")
        assert found.origins["cell"] == found.origins["space_group"] == "data.cif"
        assert found.space_group is not None
        assert found.space_group.number == structure.spacegroup.number
    assert len(measured) == 15
    assert n == sum(map(len, WITH_CELL.values()))
