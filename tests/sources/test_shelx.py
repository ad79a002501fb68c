"""SHELX instructions: cell, LATT and SYMM, SFAC and UNIT, HKLF."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from phaseray.sources.experiment import read_experiment
from phaseray.sources.shelx import parse_shelx_instructions
from tests.sources.experiment_files import CELL, HKL, INS, folder


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
