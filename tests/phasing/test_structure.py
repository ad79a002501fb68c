"""Atoms of an asymmetric unit, from a map in its space group."""

import gemmi
import numpy as np
import pytest

from phaseray.crystal import Crystal
from phaseray.evaluation.periodic import distances
from phaseray.phasing.setting import in_space_group
from phaseray.phasing.structure import _given_out, _number, structure_of
from tests.phasing.test_setting import made, moved


@pytest.mark.parametrize("name", ["P -1", "P 1 21/n 1", "P 21 21 21"])
def test_the_atoms_of_a_right_map_are_those_of_the_crystal(name):
    crystal = made(name)
    problem, phases = moved(crystal, (0.123, 0.456, 0.789), True, d_min=1.0)
    placed = in_space_group(problem, phases, gemmi.SpaceGroup(name))
    found = structure_of(problem, placed, {34: 1, 16: 1, 8: 1})
    assert found.elements.tolist() == [34, 16, 8]
    assert found.units == len(gemmi.SpaceGroup(name).operations())
    assert (found.multiplicity == found.units).all()
    assert (found.share == 1).all()
    assert found.r1 < 0.01
    assert abs(found.b - 8 * np.pi**2 * 0.02).max() < 0.1
    # the same crystal, up to an allowed origin and the hand: all distances between its atoms are those of the crystal
    operations = list(gemmi.SpaceGroup(name).operations())
    for a in range(3):
        for b in range(3):
            of = [op.apply_to_xyz(found.positions[b].tolist()) for op in operations]
            true = crystal.positions[b * len(operations) : (b + 1) * len(operations)]
            mine = np.sort(distances(found.positions[a : a + 1], of, crystal.cell)[0])
            theirs = np.sort(distances(crystal.positions[a * len(operations)][None], true, crystal.cell)[0])
            np.testing.assert_allclose(mine, theirs, atol=0.02)


def test_special_positions_keep_their_multiplicity_and_nothing_is_named_without_a_formula():
    salt = Crystal(
        cell=(5.64, 5.64, 5.64, 90, 90, 90),
        numbers=[11] * 4 + [17] * 4,
        positions=[[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0],
                   [0, 0, 0.5]],
        u_iso=np.full(8, 0.02),
    )  # fmt: skip
    problem, phases = moved(salt, (0.1, 0.2, 0.3), False, d_min=1.0)
    found = structure_of(problem, in_space_group(problem, phases, gemmi.SpaceGroup("F m -3 m")))
    assert found.multiplicity.tolist() == [4, 4]
    np.testing.assert_allclose(found.share, 1 / 48)
    assert found.elements.tolist() == [0, 0]
    assert found.units is None
    assert found.electrons[0] > 1.1 * found.electrons[1]  # of so few amplitudes the scale is hardly known


def test_atoms_that_belong_together_come_together():
    # a chain of four, 1.6 Å apart, over the edge of the cell, and its inverse
    chain = np.array([0.9, 0.2, 0.3]) + np.outer(np.arange(4), [1.6 / 9, 0, 0])
    crystal = Crystal(
        cell=(9.0, 4.2, 4.4, 90, 90, 90), numbers=[16, 9, 8, 6] * 2, positions=np.vstack([chain, -chain]) % 1,
        u_iso=np.full(8, 0.02),
    )  # fmt: skip
    problem, phases = moved(crystal, (0.3, 0.1, 0.5), False, d_min=1.0)
    placed = in_space_group(problem, phases, gemmi.SpaceGroup("P -1"))
    found = structure_of(problem, placed, {16: 1, 9: 1, 8: 1, 6: 1})
    assert found.elements.tolist() == [16, 9, 8, 6]
    steps = np.linalg.norm(np.diff(found.positions, axis=0) * [9, 4.2, 4.4], axis=1)
    np.testing.assert_allclose(steps, 1.6, atol=0.03)
    assert ((found.positions.mean(0) >= 0) & (found.positions.mean(0) < 1)).all()


def test_elements_are_given_out_by_electrons_as_many_as_there_are():
    assert _given_out(np.array([2, 2, 4, 4]), {8: 4.0, 16: 2.0, 12: 2.0, 6: 4.0}).tolist() == [16, 12, 8, 6]
    # more places than atoms: the rest is the lightest element
    assert _given_out(np.array([2, 2, 2]), {8: 2.0, 6: 2.0}).tolist() == [8, 6, 6]


def test_hydrogen_and_ripples_are_no_atoms():
    electrons = np.array([8.0, 7.9, 6.2, 6.1, 6.0, 1.2, 1.1, 1.0, 0.6])
    assert _number(electrons, np.full(9, 4), 360.0, 0) == 5
    assert _number(electrons, np.full(9, 4), 360.0, 5) == 5
