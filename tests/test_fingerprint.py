"""Fingerprints forget origin, setting, hand, supercell and order; they do not forget the structure."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phaseray.config import SyntheticSource
from phaseray.crystal import Crystal
from phaseray.fingerprint import fingerprint, neighbourhood, same
from phaseray.sources import prototype, synthetic_crystal
from tests.strategies import CELLS, crystals, random_crystal, shifts

NAMED = {
    "rock salt": "AB_cF8_225_a_b-ClNa", "diamond": "A_cF8_227_a-C", "graphite": "A_hP4_194_bc-C",
    "rutile": "A2B_tP6_136_f_a-O2Ti", "anatase": "A2B_tI12_141_e_a-O2Ti", "quartz": "A2B_hP9_152_c_a-O2Si",
}  # fmt: skip


@pytest.fixture(scope="module")
def library() -> list[Crystal]:
    return [prototype(i) for i in range(288)]


def on_axes(crystal: Crystal, matrix: list[list[int]]) -> Crystal:
    """The same crystal on other axes, the columns of an integer matrix; a supercell where |det| > 1."""
    p = np.array(matrix)
    if np.linalg.det(p) < 0:
        p = -p
    orth = crystal.orthogonalization @ p
    lengths = np.linalg.norm(orth, axis=0)
    unit = orth / lengths
    angles = np.degrees(np.arccos([unit[:, i] @ unit[:, j] for i, j in ((1, 2), (0, 2), (0, 1))]))
    steps = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    places = steps @ np.linalg.inv(p).T
    inside = steps[((places > -1e-9) & (places < 1 - 1e-9)).all(1)]
    n = len(inside)
    assert n == round(np.linalg.det(p))
    positions = (crystal.positions[None] + inside[:, None]).reshape(-1, 3) @ np.linalg.inv(p).T
    return Crystal(
        cell=np.array([*lengths, *angles]), numbers=np.tile(crystal.numbers, n), positions=positions,
        occupancy=np.tile(crystal.occupancy, n),
    )  # fmt: skip


def assert_same(a: Crystal, b: Crystal) -> None:
    """Far inside the tolerance, and found by the search that comes before the comparison."""
    one, other = fingerprint(a), fingerprint(b)
    assert one is not None
    assert other is not None
    assert one.system == other.system
    assert same(one, other)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-4, atol=1e-5)
    near = neighbourhood(np.stack([one.values, other.values]))
    assert abs(near[0] - near[1]).max() < 0.1


@settings(max_examples=40, deadline=None)
@given(crystals, shifts, st.randoms(use_true_random=False))
def test_origin_order_hand_and_displacements_do_not_count(crystal: Crystal, shift, random) -> None:
    order = list(range(crystal.n_atoms))
    random.shuffle(order)
    moved = Crystal(
        cell=crystal.cell, numbers=crystal.numbers[order], positions=crystal.positions[order] + np.array(shift),
        occupancy=crystal.occupancy[order],
    )  # fmt: skip
    assert_same(crystal, moved)
    assert_same(crystal, replace(moved, positions=-moved.positions))


@pytest.mark.parametrize("system", CELLS)
@pytest.mark.parametrize(
    "matrix",
    [
        [[2, 0, 0], [0, 1, 0], [0, 0, 1]],  # supercells
        [[1, 0, 0], [0, 3, 0], [0, 0, 2]],
        [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
        [[0, 0, 1], [1, 0, 0], [0, 1, 0]],  # settings
        [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 2, 0], [0, 1, -1], [0, 0, 1]],
        [[-1, 0, 0], [0, 0, 1], [0, 1, 0]],
    ],
)
def test_axes_and_supercells_do_not_count(system: str, matrix: list[list[int]]) -> None:
    crystal = random_crystal(CELLS[system], seed=5, n=6)
    assert_same(crystal, on_axes(crystal, matrix))


@pytest.mark.parametrize("name", NAMED)
def test_primitive_and_conventional_cells_of_pymatgen_are_one(name: str, library: list[Crystal]) -> None:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    (crystal,) = (c for c in library if c.id.endswith(f"/{NAMED[name]}"))
    structure = crystal.to_pymatgen()
    conventional = SpacegroupAnalyzer(structure).get_conventional_standard_structure()
    for other in (conventional, structure.get_primitive_structure(), conventional.get_reduced_structure()):
        assert_same(crystal, Crystal.from_pymatgen(other))


def test_rounding_does_not_count(library: list[Crystal]) -> None:
    """As CIF files round: 0.001 Å in edges, 0.01° in angles, four decimals in coordinates, two in thirds."""
    rng = np.random.default_rng(0)
    lost = []
    source = SyntheticSource(count=60)
    for crystal in [*library, *(synthetic_crystal(source, 0, i) for i in range(60))]:
        cell = np.concatenate([crystal.cell[:3].round(3), crystal.cell[3:].round(2)])
        noise = rng.normal(0, 0.001, crystal.positions.shape) @ np.linalg.inv(crystal.orthogonalization).T
        other = replace(crystal, cell=cell, positions=(crystal.positions + noise).round(4))
        a, b = fingerprint(crystal), fingerprint(other)
        assert a is not None
        assert b is not None
        if not same(a, b):
            lost.append(crystal.id)
    assert lost == []


def test_different_crystals_are_not_merged(library: list[Crystal]) -> None:
    """Of 41,328 pairs one is the same: AFLOW has pyrite once more, in P1, with its atoms 0.001 Å off."""
    found = [fingerprint(crystal) for crystal in library]
    merged = [
        (library[i].id, library[j].id)
        for i, j in combinations(range(len(found)), 2)
        if found[i].system == found[j].system and same(found[i], found[j])
    ]
    assert merged == [("aflow/AB2_cP12_205_a_c-FeS2", "aflow/AB2_aP12_1_4a_8a-FeS2")]


@pytest.mark.parametrize(("one", "other"), [("diamond", "graphite"), ("rutile", "anatase")])
def test_polymorphs_of_one_density_are_not_merged(one: str, other: str, library: list[Crystal]) -> None:
    """Brought to one density, so that the pattern alone tells them apart."""
    a, b = (next(c for c in library if c.id.endswith(f"/{NAMED[name]}")) for name in (one, other))
    per_atom = [c.volume / c.n_atoms for c in (a, b)]
    scale = (per_atom[0] / per_atom[1]) ** (1 / 3)
    b = replace(b, cell=np.array([*(b.cell[:3] * scale), *b.cell[3:]]))
    assert not same(fingerprint(a), fingerprint(b))


@pytest.mark.parametrize("change", ["an atom moved by 0.3 Å", "two elements exchanged", "1 % longer", "another atom"])
def test_changes_count(change: str) -> None:
    source = SyntheticSource(count=40, max_atoms=60, elements_per_crystal=(2, 4))
    for index in range(40):
        crystal = synthetic_crystal(source, 3, index)
        positions, numbers, cell = crystal.positions.copy(), crystal.numbers.copy(), crystal.cell.copy()
        if change == "an atom moved by 0.3 Å":
            positions[0] += np.linalg.inv(crystal.orthogonalization) @ [0.3, 0, 0]
            if crystal.n_atoms < 3:
                continue
        elif change == "two elements exchanged":
            other = int(np.flatnonzero(numbers != numbers[0])[0])
            if abs(numbers[0] - numbers[other]) < 3 or crystal.n_atoms < 5:
                continue
            numbers[[0, other]] = numbers[[other, 0]]
        elif change == "1 % longer":
            cell[0] *= 1.01
        else:
            numbers[-1] = 36
        changed = replace(crystal, positions=positions, numbers=numbers, cell=cell)
        assert not same(fingerprint(crystal), fingerprint(changed)), (index, crystal.n_atoms)


def test_what_cannot_be_compared_has_none() -> None:
    crystal = Crystal(
        cell=np.array([90.0, 90, 90, 90, 90, 90]), numbers=np.ones(20_000), positions=np.zeros((20_000, 3))
    )
    assert fingerprint(crystal) is None
    empty = Crystal(cell=np.array([5.0, 5, 5, 90, 90, 90]), numbers=np.array([]), positions=np.empty((0, 3)))
    assert fingerprint(empty) is None


def test_a_flat_cell_costs_what_its_volume_costs() -> None:
    """Long, nearly parallel axes are reduced first: the box of indices around the sphere is far smaller then."""
    plain = random_crystal((4.0, 5.0, 6.0, 90.0, 90.0, 90.0), seed=1, n=4)
    assert_same(plain, on_axes(plain, [[1, 8, 12], [0, 1, 8], [0, 0, 1]]))
