"""Reflection files: SHELX columns and what is not in columns, CIF loops, merging and writing out in P1."""

from __future__ import annotations

import numpy as np
import pytest

from phaseray import Crystal
from phaseray.diffraction.structure_factors import structure_factors
from phaseray.sources.reflections import Reflections, is_cif, merge, parse, parse_cif, parse_shelx, read_reflections

FIXED = """\
   1   0   0  541.43    7.74   1
  -1   2 -13-1193.76 1003.41   1
   0   0   0    0.00    0.00   0
TITL what follows is no data
"""
BLANKS = """\
1 0 0 66731.690 1334.634 1
0 2 0 66100.0201322.000 1
""".replace("66100.0201322", "66100.020 1322")
LOOP = """\
data_atoms
_cell_length_a 5
data_reflections
loop_
_refln_index_h
_refln_index_k
_refln_index_l
_refln_F_squared_calc
_refln_F_squared_meas
_refln_F_squared_sigma
_refln_include_status
1 0 0 10.0 11.5 0.5 o
0 1 0 10.0 12.5 0.5 x
0 0 2 10.0 13.5 0.25 o
"""


def test_columns_are_fixed_and_zeros_end_the_list():
    found = parse_shelx(FIXED)
    assert found.hkl.tolist() == [[1, 0, 0], [-1, 2, -13]]
    assert found.value.tolist() == [541.43, -1193.76]
    assert found.sigma.tolist() == [7.74, 1003.41]


def test_columns_20_and_21_filled_means_blanks_between():
    found = parse_shelx("   0   2   0 66731.690 1334.634 1\n   0   2   0 66100.020 1322.000 1\n")
    assert found.value.tolist() == [66731.69, 66100.02]
    assert found.sigma.tolist() == [1334.634, 1322.0]
    assert parse_shelx(BLANKS).value.tolist() == [66731.69, 66100.02]


def test_a_sign_in_column_21_is_no_sign_of_blanks():
    found = parse_shelx("   1   0   099999.99-9999.99   1\n   2   0   0   10.00    1.00   1\n")
    assert found.value.tolist() == [99999.99, 10.0]


def test_reflections_may_stand_in_another_block():
    found = parse_cif(LOOP)
    assert found.kind == "F2"
    assert found.hkl.tolist() == [[1, 0, 0], [0, 0, 2]]
    assert found.value.tolist() == [11.5, 13.5]
    assert found.sigma.tolist() == [0.5, 0.25]


def test_an_hkl_file_inside_a_cif_is_found():
    lines = "\n".join(f"{h:4d}{0:4d}{1:4d}{10.0 * h:8.2f}{1.0:8.2f}" for h in range(1, 9))
    found = parse_cif(f"data_x\n_shelx_hkl_file\n;\n{lines}\n;\n")
    assert found.value.tolist() == [10.0 * h for h in range(1, 9)]


@pytest.mark.parametrize("below", ["_refln_index_h", "loop_", "data_x\nloop_\n_refln_index_h\n_refln_F_meas\n1 2\n"])
def test_items_of_a_cif_below_a_list_do_not_make_it_one(below: str, tmp_path):
    for text in (FIXED, BLANKS + "0 0 0 0.00 0.00 0\n", "\n" + FIXED):
        path = tmp_path / "a.hkl"
        path.write_text(f"{text}{below}\n")
        assert len(read_reflections(path)) == 2
        assert read_reflections(path, "F").kind == "F"
        assert not is_cif(path.read_text())
    for start in ("# 1 0 0 1.0\n", "\n", "DATA_other\n"):
        assert is_cif(start + LOOP)
        assert parse(start + LOOP, "F").kind == "F2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no reflection"),
        ("this is no file\nof reflections\n", "line 1 is no reflection"),
        ("data_x\n_cell_length_a 5\n", "no measured reflections"),
        ("data_x\nloop_\n_refln_index_h\n", "cannot|no measured|not a CIF"),
    ],
)
def test_a_file_without_reflections_is_told(tmp_path, text, message):
    path = tmp_path / "a.hkl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_reflections(path)
    assert "a.hkl" in str(error.value)


def test_equivalents_are_merged_and_written_out_with_the_amplitudes_of_the_crystal():
    # P 21/c, written out by hand: x y z, -x y+1/2 -z+1/2, and their inverses
    x = np.array([0.11, 0.23, 0.37])
    half = np.array([0.0, 0.5, 0.5])
    other = np.array([-1, 1, -1]) * x + half
    crystal = Crystal(np.array([5, 6, 7, 90, 105, 90.0]), np.array([26] * 4), np.array([x, other, -x, -other]))
    hkl = np.array([[h, k, n] for h in range(-3, 4) for k in range(-3, 4) for n in range(-3, 4)])
    f2 = abs(structure_factors(crystal, hkl)) ** 2
    merged = merge(Reflections(hkl, f2, np.ones(len(hkl)), "F2"), "P 1 21/c 1")
    expected = abs(structure_factors(crystal, merged.hkl))
    np.testing.assert_allclose(merged.amplitude, expected, atol=1e-6)
    assert merged.r_int == pytest.approx(0, abs=1e-9)
    assert merged.n_absent > 0
    # one unique reflection gives two of the half sphere, unless k = 0 or h = l = 0
    pairs = {tuple(h) for h in merged.hkl.tolist()}
    assert not any(tuple(-np.array(h)) in pairs for h in pairs)


def test_amplitudes_and_their_squares_merge_alike():
    hkl = np.array([[1, 0, 0], [2, 0, 0], [0, 1, 0]])
    f = np.array([3.0, 4.0, 5.0])
    a = merge(Reflections(hkl, f, None, "F"), "P 1")
    b = merge(Reflections(hkl, f**2, None, "F2"), "P 1")
    np.testing.assert_allclose(a.amplitude, b.amplitude)


def test_an_intensity_below_zero_has_no_amplitude():
    merged = merge(
        Reflections(np.array([[1, 0, 0], [2, 0, 0]]), np.array([-3.0, 9.0]), np.array([1.0, 1.0]), "F2"), "P 1"
    )
    assert sorted(merged.amplitude.tolist()) == [0.0, 3.0]
    assert (merged.sigma > 0).all()


@pytest.mark.parametrize("index", ["inf", "-inf", "nan", "1e308", "99999999999"])
def test_an_index_that_is_none_is_refused(index: str):
    """Found by damaging real files: infinity went up as OverflowError."""
    with pytest.raises(ValueError, match="no reflection"):
        parse_shelx(f"{index} 0 1 12.5 0.4 and more so that columns are not fixed\n")
    with pytest.raises(ValueError, match="an index of"):
        parse_cif(
            f"data_x\nloop_\n_refln_index_h\n_refln_index_k\n_refln_index_l\n_refln_F_squared_meas\n{index} 0 1 5\n"
        )


def test_a_line_cut_short_after_data_ends_them():
    """Found by damaging real files: it went up as IndexError."""
    text = "1 0 0 12.5000000000000 0.4\n2 0 0 8.25000000000000 0.4\n3 0\n"
    assert len(parse_shelx(text).hkl) == 2


@pytest.mark.parametrize("value", ["1e308", "-1e308", "inf", "nan"])
def test_a_value_that_nobody_measures_is_refused(value: str):
    """Found by damaging real files: an amplitude came out infinite."""
    with pytest.raises(ValueError, match=r"the value of reflection \(0, 0, 1\)"):
        parse_shelx(f"1 0 0 12.5000000000000 0.4\n0 0 1 {value} 0.4\n", "F")


@pytest.mark.parametrize("sigma", ["1e308", "1e-320", "inf", "0", "-1"])
def test_a_deviation_that_nobody_measures_does_not_make_the_amplitudes_bad(sigma: str):
    """A weight would be infinite, or all of them none."""
    found = parse_shelx(f"1 0 0 12.5000000000000 {sigma}\n0 0 1 9.0 {sigma}\n0 1 0 4.0 {sigma}\n", "F")
    assert found.sigma is None
    assert sorted(merge(found, "P 1").amplitude) == pytest.approx([4, 9, 12.5])


def test_an_index_that_is_no_integer_is_refused():
    with pytest.raises(ValueError, match="no reflection"):
        parse_shelx("1.5 0 0 12.5000000000000 0.4\n")
    with pytest.raises(ValueError, match=r"an index of 1\.5"):
        parse_cif("data_x\nloop_\n_refln_index_h\n_refln_index_k\n_refln_index_l\n_refln_F_squared_meas\n1.5 0 1 5\n")


def test_a_file_that_is_no_list_of_one_crystal_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "endless.hkl"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"endless\.hkl: over 64 MiB"):
        read_reflections(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(end: str, tmp_path):
    for name, text in (("a.hkl", FIXED), ("a.fcf", LOOP)):
        path = tmp_path / name
        path.write_bytes(text.replace("\n", end).encode())
        assert len(read_reflections(path)) == 2
