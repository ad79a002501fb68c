"""Symmetry of cells written in P1: the space group they were made from, its symbol only where it holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phaseray.config import CifSource, TableSource
from phaseray.crystal import Crystal
from phaseray.sources import list_inputs, read_cif, read_inputs
from phaseray.sources.symmetry import recover_symmetry

SALT = """data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 0 0 0
Cl1 0.5 0.5 0.5
"""
QUARTZ = """data_quartz
_cell_length_a 4.913
_cell_length_b 4.913
_cell_length_c 5.405
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_space_group_name_H-M_alt 'P 32 2 1'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Si 0.4697 0 0.6666667
O 0.4135 0.2669 0.7858
"""
MONOCLINIC = """data_m
_cell_length_a 7.1
_cell_length_b 9.3
_cell_length_c 6.2
_cell_angle_alpha 90
_cell_angle_beta 103
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 1 21/n 1'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ti1 0.11 0.22 0.08
O1 0.35 0.27 0.17
C1 0.71 0.41 0.36
"""


def p1(crystal: Crystal) -> Crystal:
    return replace(crystal, space_group="P 1", space_group_number=1)


@pytest.mark.parametrize("cif", [SALT, QUARTZ, MONOCLINIC], ids=["Fm-3m", "P3221", "P21/n"])
def test_the_group_that_a_crystal_was_made_from_is_found(cif: str):
    known = read_cif(cif.encode())
    found = recover_symmetry(p1(known))
    assert (found.space_group, found.space_group_number) == (known.space_group, known.space_group_number)
    assert "found by spglib" in found.notes[-1]
    np.testing.assert_array_equal(found.positions, known.positions)


def test_no_symbol_where_its_operators_do_not_hold():
    known = read_cif(MONOCLINIC.encode())
    moved = recover_symmetry(p1(replace(known, positions=known.positions + np.array([0.03, 0.1, 0.07]))))
    assert (moved.space_group, moved.space_group_number) == (None, 14)
    assert "another setting" in moved.notes[-1]


def test_occupancies_count_and_groups_that_are_known_stay():
    salt = read_cif(SALT.encode())
    occupancy = np.where(np.arange(8) == 3, 0.5, 1.0)
    assert recover_symmetry(p1(replace(salt, occupancy=occupancy))).space_group_number == 221
    other = replace(salt, space_group=None, space_group_number=225)
    assert recover_symmetry(other) is other
    rng = np.random.default_rng(0)
    alone = recover_symmetry(replace(p1(salt), positions=rng.random((8, 3)), space_group=None, space_group_number=None))
    assert (alone.space_group, alone.space_group_number) == ("P 1", 1)


def test_atoms_that_share_a_place_are_one_site():
    salt = read_cif(SALT.encode())
    potassium = np.where(salt.numbers == 11, 19, 35)
    both = Crystal(
        cell=salt.cell,
        numbers=np.concatenate([salt.numbers, potassium]),
        positions=np.concatenate([salt.positions, salt.positions]),
        occupancy=np.repeat([0.75, 0.25], 8),
        space_group_number=1,
    )
    assert recover_symmetry(both).space_group == "F m -3 m"
    other = np.where(np.arange(16) == 3, 0.5, both.occupancy)
    assert recover_symmetry(replace(both, occupancy=other)).space_group_number == 221


def test_atoms_on_top_of_one_another_are_a_note():
    salt = p1(read_cif(SALT.encode()))
    close = replace(salt, positions=np.arange(24).reshape(8, 3) * 0.0003, occupancy=np.full(8, 0.1))
    assert "No symmetry could be found" in recover_symmetry(close).notes[-1]


def test_recovery_on_request_from_files_and_tables(tmp_path: Path):
    salt = p1(read_cif(SALT.encode()))
    (tmp_path / "salt.cif").write_text(salt.to_pymatgen().to(fmt="cif"))
    (tmp_path / "salt.jsonl").write_text(json.dumps({"structure": salt.to_pymatgen().as_dict()}) + "\n")
    for source, given in ((CifSource, 1), (TableSource, None)):
        path = str(tmp_path / ("salt.cif" if source is CifSource else "salt.jsonl"))
        for asked, number in ((False, given), (True, 225)):
            ((_, crystal, _),) = read_inputs(list_inputs(source(path=path, recover_symmetry=asked), 0))
            assert crystal.space_group_number == number


def test_published_groups_are_found_again_when_they_are_forgotten(shared_data: Path):
    """Real files, expanded to P1: the published symbol, but for cells that have more symmetry than they say."""
    same = n = 0
    for ref, crystal, _ in read_inputs(list(list_inputs(CifSource(path=str(shared_data / "cif.tar.xz")), 0))[:160]):
        if not isinstance(crystal, Crystal) or crystal.space_group_number in (None, 1) or crystal.n_atoms > 400:
            continue
        n += 1
        found = recover_symmetry(p1(crystal))
        same += (found.space_group, found.space_group_number) == (crystal.space_group, crystal.space_group_number)
        np.testing.assert_array_equal(found.positions, crystal.positions, ref.id)
    assert n > 80
    assert same > 0.93 * n
