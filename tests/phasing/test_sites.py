"""Sites of space groups: the positions of the International Tables, and how they are shared out."""

from __future__ import annotations

import time

import numpy as np
import pytest

from phaseray.phasing.atom_model import Frame, Reflections
from phaseray.phasing.problem import PhaseProblem
from phaseray.phasing.sites import Sites, contents, freedom, ways
from phaseray.phasing.symmetry import Group
from tests.phasing.test_atom_model import operations
from tests.phasing.test_symmetry import crystal


def sites(symbol: str, group: Group | None = None) -> Sites:
    reflections = Reflections.of(PhaseProblem.from_crystal(crystal(symbol), 2.0))
    return Sites.of(Frame(reflections, group or operations(symbol)), np.random.default_rng(0))


# the Wyckoff positions of the tables: multiplicity, free coordinates → how many without freedom
TABLES = {
    "P -1": {(1, 0): 8, (2, 3): 0},
    "P 21": {(2, 3): 0},
    "C 1 2/c 1": {(4, 0): 4, (4, 1): 0, (8, 3): 0},
    "P 21 21 21": {(4, 3): 0},
    "P n m a": {(4, 0): 2, (4, 2): 0, (8, 3): 0},
    "I 41/a m d": {(4, 0): 2, (8, 0): 2, (8, 1): 0, (16, 1): 0, (16, 2): 0, (32, 3): 0},
    "P 63/m m c": {(2, 0): 4, (4, 1): 0, (6, 0): 1, (6, 1): 0, (12, 1): 0, (12, 2): 0, (24, 3): 0},
    "P 21 3": {(4, 1): 0, (12, 3): 0},
}


@pytest.mark.parametrize("symbol", list(TABLES))
def test_special_positions_are_those_of_the_tables(symbol: str):
    found = sites(symbol)
    assert set(found.kinds) == set(TABLES[symbol])
    for kind, number in TABLES[symbol].items():
        if not kind[1]:
            assert len(found.kinds[kind]) == number
    for kind, numbers in found.kinds.items():
        assert (found.keeping[numbers] * kind[0] == len(operations(symbol).rotations)).all()


def test_the_origin_may_be_anywhere():
    group, p = operations("P n m a"), np.array([0.21, 0.37, 0.11])
    moved = Group(group.rotations, group.translations + (np.eye(3) - group.rotations) @ p)
    found = sites("P n m a", moved)
    assert {k: len(v) for k, v in found.kinds.items() if not k[1]} == {(4, 0): 2}
    points = found.positions[found.kinds[4, 0]] - p
    np.testing.assert_allclose(2 * points, np.rint(2 * points), atol=1e-6)


@pytest.mark.parametrize("symbol", ["P n m a", "I 41/a m d", "P 21 3"])
def test_waves_are_the_sums_over_the_atoms_of_the_orbit(symbol: str):
    found = sites(symbol)
    rng = np.random.default_rng(1)
    for i in rng.choice(len(found.positions), 20, replace=False):
        images = found.frame.images(found.positions[i]) % 1
        off = images[:, None] - images
        first = (found.frame.length(off) < 0.1).argmax(1) == np.arange(len(images))
        hkl = found.frame.image_indices[:, 0]  # the first operation is the identity
        want = np.exp(2j * np.pi * hkl @ images[first].T).sum(1)
        np.testing.assert_allclose(found.waves[i], want, atol=2e-3 * len(images))


def test_ways_share_out_every_atom_and_no_place_twice():
    kinds = {(4, 0): np.arange(2), (4, 2): np.arange(2, 9), (8, 3): np.arange(9, 20)}
    found = list(ways(kinds, (4, 8)))
    assert len(found) == len(set(found))
    for way in found:
        for e, count in enumerate((4, 8)):
            assert sum(kind[0] for own, kind in way if own == e) == count
        assert sum(kind == (4, 0) for _, kind in way) <= 2
    # by hand: the second has 8, or 4 + 4 of three sorts where both places are left, or of two where one is
    assert len(found) == 4 + 3
    assert list(ways(kinds, (2,))) == []
    assert all(len(way) <= 2 for way in ways(kinds, (4, 8), orbits=2))
    assert {min(map(freedom, found)), max(map(freedom, found))} == {2, 6}


def test_the_search_for_ways_ends():
    kinds = {(n, f): np.arange(50) for n in (1, 2, 3, 4, 6, 8, 12, 24) for f in (0, 1, 2)}
    began = time.perf_counter()
    assert len(list(ways(kinds, (48, 96, 97, 50)))) < 200_000
    assert time.perf_counter() - began < 20


def test_contents_are_those_that_fit_in_the_cell():
    found = contents({22: 1, 8: 2}, 62.4)
    assert found[0] in ((1, 2), (2, 4))
    assert (2, 4) in found
    assert all(5.5 <= 62.4 / sum(each) <= 120 for each in found)
    # a body-centred lattice has everything twice
    assert all(sum(each) % 2 == 0 for each in contents({22: 1, 8: 2}, 62.4, centrings=2))
    assert contents({6: 1}, 5.0) == []
