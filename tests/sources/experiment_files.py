"""Small files of a measured crystal, for the tests of those that read them."""

from __future__ import annotations

from pathlib import Path

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
EVERYTHING = ("cell", "space_group", "formula", "wavelength")


def folder(path: Path, **texts: str) -> Path:
    """Files data.hkl, data.ins and so on; the first of them."""
    for suffix, text in texts.items():
        (path / f"data.{suffix}").write_text(text)
    return path / f"data.{next(iter(texts))}"
