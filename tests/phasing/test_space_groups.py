"""The space groups that amplitudes allow: all of the International Tables, and those that gemmi's absences leave."""

from __future__ import annotations

import itertools

import gemmi
import numpy as np
import pytest

from phaseray.phasing.atom_model import Reflections
from phaseray.phasing.problem import PhaseProblem, half_sphere
from phaseray.phasing.space_groups import AllowedGroups, extinctions, point_groups, primitive, smith, space_groups
from phaseray.phasing.symmetry import Group
from tests.phasing.test_atom_model import operations
from tests.phasing.test_symmetry import CELLS, crystal

NONE = np.zeros((0, 3), int), np.zeros(0), np.zeros(0)
AXES = {
    "cubic": (5, 5, 5, 90, 90, 90), "hexagonal": (5, 5, 8, 90, 90, 120), "trigonal": (5, 5, 8, 90, 90, 120),
    "tetragonal": (5, 5, 8, 90, 90, 90), "orthorhombic": (5, 6, 8, 90, 90, 90), "monoclinic": (5, 6, 8, 90, 100, 90),
    "triclinic": (5, 6, 8, 80, 100, 95),
}  # fmt: skip
OTHER_HANDS = {78: 76, 95: 91, 96: 92, 144: 145, 151: 153, 152: 154, 169: 170, 171: 172, 178: 179, 180: 181, 213: 212}


def laue(group: gemmi.SpaceGroup) -> tuple[np.ndarray, np.ndarray]:
    """Rotations of the amplitudes, and centrings."""
    found = group.operations()
    rotations = np.array([op.rot for op in found.sym_ops]) // gemmi.Op.DEN
    return np.unique(np.concatenate([rotations, -rotations]), axis=0), np.array(found.cen_ops) / gemmi.Op.DEN


def numbers(group: gemmi.SpaceGroup) -> list[int]:
    """Of the International Tables, of all groups that the amplitudes of this one allow."""
    spglib = pytest.importorskip("spglib")
    rotations, centrings = laue(group)
    lattice = np.array(gemmi.UnitCell(*AXES[group.crystal_system_str()]).orth.mat.tolist()).T
    found = []
    for made, _ in space_groups(rotations, centrings, *NONE):
        all_rotations = np.concatenate([made.rotations] * len(centrings))
        translations = np.concatenate([made.translations + c for c in centrings]) % 1
        found.append(spglib.get_spacegroup_type_from_symmetry(all_rotations, translations, lattice, 1e-4).number)
    return found


def test_all_230_space_groups_are_found_from_their_rotations():
    missing = [n for n in range(1, 231) if n not in numbers(gemmi.find_spacegroup_by_number(n))]
    assert missing == sorted(OTHER_HANDS)  # of two that are mirror images there is one
    for n, other in OTHER_HANDS.items():
        assert other in numbers(gemmi.find_spacegroup_by_number(n))


def test_settings_are_counted_as_they_are_in_the_tables():
    # P-centred groups of mmm, 222 and mm2 with all that the axes may be called: 3 of mm2 to one of mm2
    found = numbers(gemmi.SpaceGroup("P m m m"))
    of_mmm = {
        47: 1,
        48: 1,
        49: 3,
        50: 3,
        51: 6,
        52: 6,
        53: 6,
        54: 6,
        55: 3,
        56: 3,
        57: 6,
        58: 3,
        59: 3,
        60: 6,
        61: 2,
        62: 6,
    }
    assert {n: found.count(n) for n in sorted(set(found)) if n >= 47} == of_mmm
    assert [found.count(n) for n in (16, 17, 18, 19)] == [1, 3, 3, 1]


@pytest.mark.parametrize("symbol", list(CELLS))
def test_the_group_of_a_crystal_is_likely(symbol: str):
    spglib = pytest.importorskip("spglib")
    made = crystal(symbol)
    problem = PhaseProblem.from_crystal(made, 1.2)
    allowed = AllowedGroups(problem, Reflections.of(problem))
    centrings = allowed.symmetry.centrings
    lattice = Reflections.of(problem).matrix.T
    found = []
    for group in allowed.likely:
        translations = np.concatenate([group.translations + c for c in centrings]) % 1
        rotations = np.concatenate([group.rotations] * len(centrings))
        found.append(spglib.get_spacegroup_type_from_symmetry(rotations, translations, lattice, 1e-4).number)
    assert gemmi.SpaceGroup(symbol).number in found
    asu, operations_ = gemmi.ReciprocalAsu(gemmi.SpaceGroup(symbol)), gemmi.SpaceGroup(symbol).operations()
    classes = {tuple(asu.to_asu(h, operations_)[0]) for h in half_sphere(made.cell, 1.2).tolist()}
    assert allowed.independent == len(classes)


def _parts(symbol: str) -> tuple[np.ndarray, np.ndarray]:
    group = operations(symbol)
    return group.rotations, group.translations


@pytest.mark.parametrize("symbol", [*CELLS, "P 41 21 2", "P a -3", "I b a m", "I -4 2 d", "P 61"])
def test_extinctions_are_those_of_gemmi(symbol: str):
    hkl = half_sphere((7.0, 7.0, 7.0, 90, 90, 90), 1.0)
    want = gemmi.SpaceGroup(symbol).operations()
    found = extinctions(*_parts(symbol), hkl)
    assert found.tolist() == [want.is_systematically_absent(h) for h in hkl.tolist()]


def test_a_reflection_that_is_there_forbids_its_extinction():
    rotations, centrings = laue(gemmi.SpaceGroup("P 1 21/c 1"))
    special = [[0, 1, 0], [0, 3, 0], [1, 0, 1], [2, 0, 1]]
    general = [[h, k, 3] for h in range(1, 5) for k in range(1, 5)]
    hkl = np.array(special + general)

    def groups(special: list[float], error: float = 0.0) -> list[tuple[Group, int]]:
        intensity = np.array(special + [1.0] * len(general))
        return space_groups(rotations, centrings, hkl, intensity, np.full(len(hkl), error))

    every = groups([1e-3] * 4)
    assert [every[0][1], every[-1][1]] == [4, 0]
    assert {explained for _, explained in groups([1.0] * 4)} == {0}
    assert {explained for _, explained in groups([1e-3, 1e-3, 1, 1])} == {0, 2}
    # but what is uncertain may be absent, and explains nothing
    unsure = groups([0.2] * 4, 0.1)
    assert len(unsure) == len(every)
    assert max(explained for _, explained in unsure) <= 0


def test_what_the_centring_extinguishes_and_the_scale_say_nothing():
    rotations, centrings = laue(gemmi.SpaceGroup("F d -3 m"))
    hkl = half_sphere((7.0, 7.0, 7.0, 90, 90, 90), 1.0)
    there = ~np.array([gemmi.SpaceGroup("F m -3 m").operations().is_systematically_absent(h) for h in hkl.tolist()])
    # the reflections that the d glide would extinguish are weak, not absent: of the mean of all, lattice absences
    # among them, they would be more
    axial = (hkl == 0).sum(1) == 2
    intensity = there * np.where(axial & (abs(hkl).sum(1) % 4 == 2), 0.02, 1.0)
    nothing = np.zeros(len(hkl))
    alone = space_groups(rotations, centrings, hkl[there], intensity[there], nothing[there])
    with_all = space_groups(rotations, centrings, hkl, 30 * intensity, nothing)
    assert [explained for _, explained in alone] == [0, 0, 0, -6]
    assert [explained for _, explained in with_all] == [0, 0, 0, -6]
    for (one, _), (other, _) in zip(alone, with_all, strict=True):
        np.testing.assert_array_equal(one.rotations, other.rotations)
        np.testing.assert_array_equal(one.translations, other.translations)


def test_rotations_that_are_no_group_have_no_space_groups():
    rotations = laue(gemmi.SpaceGroup("P m m m"))[0][:-1]
    assert space_groups(rotations, np.zeros((1, 3)), *NONE) == []


@pytest.mark.parametrize(
    ("symbol", "number"), [("P -1", 2), ("P 2/m", 3), ("P m m m", 5), ("P 4/m m m", 5), ("P m -3 m", 3)]
)
def test_point_groups_make_the_laue_group_with_their_negatives(symbol: str, number: int):
    rotations = laue(gemmi.SpaceGroup(symbol))[0]
    found = point_groups(rotations)
    assert len(found) == number
    for group in found:
        assert {r.tobytes() for r in np.concatenate([group, -group])} == {r.tobytes() for r in rotations}
        members = {r.tobytes() for r in group}
        assert {(a @ b).tobytes() for a in group for b in group} == members


@pytest.mark.parametrize("symbol", ["P 1", "C 2", "I 2 3", "F d -3 m", "R -3 c"])
def test_primitive_bases_span_the_centred_lattice(symbol: str):
    centrings = laue(gemmi.SpaceGroup(symbol))[1]
    basis = primitive(centrings)
    assert abs(np.linalg.det(basis)) == pytest.approx(1 / len(centrings))
    vectors = np.concatenate([np.eye(3), centrings])
    coordinates = vectors @ np.linalg.inv(basis).T
    np.testing.assert_allclose(coordinates, np.rint(coordinates), atol=1e-9)


def test_smith_is_a_diagonal_up_to_unimodular_matrices():
    rng = np.random.default_rng(0)
    for _ in range(20):
        matrix = rng.integers(-4, 5, (6, 4))
        matrix[:, 3] = matrix[:, 0] - 2 * matrix[:, 1]  # of rank 3
        diagonal, right = smith(matrix)
        assert round(abs(np.linalg.det(right))) == 1
        assert (diagonal > 0).sum() == np.linalg.matrix_rank(matrix) == 3
        # the columns are L⁻¹ D: multiples of its entries, whose 3 × 3 minors have the product for common divisor
        columns = matrix @ right
        assert not columns[:, diagonal == 0].any()
        assert all((columns[:, i] % diagonal[i] == 0).all() for i in np.flatnonzero(diagonal))
        own = columns[:, diagonal > 0]
        minors = [round(np.linalg.det(own[list(rows)])) for rows in itertools.combinations(range(6), 3)]
        assert np.gcd.reduce(minors) == np.prod(diagonal[diagonal > 0])
