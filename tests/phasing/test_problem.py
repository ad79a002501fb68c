"""The half grid of amplitudes: Friedel's law, averages, signs, and errors that say what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseray.diffraction.maps import density
from phaseray.diffraction.structure_factors import structure_factor_grid, structure_factors
from phaseray.phasing.problem import PhaseProblem, Starts, grid_shape, half_sphere, resampled, unit
from tests.strategies import CELLS, random_crystal

CELL = CELLS["triclinic"]
D_MIN = 1.2


@pytest.fixture(scope="module")
def crystal():
    return random_crystal(CELL, 1, n=6, numbers=(7, 8, 26))


@pytest.fixture(scope="module")
def measurement(crystal):
    hkl = half_sphere(CELL, D_MIN)
    return hkl, structure_factors(crystal, hkl)


def test_half_sphere_holds_every_reflection_once():
    import gemmi

    hkl = half_sphere(CELL, D_MIN)
    expected = gemmi.make_miller_array(gemmi.UnitCell(*CELL), gemmi.SpaceGroup("P 1"), D_MIN)
    either = {tuple(h) for h in hkl.tolist()} | {tuple(h) for h in (-hkl).tolist()}
    assert {tuple(h) for h in expected.tolist()} <= either
    assert len(hkl) == len(expected)


def test_amplitudes_obey_friedel_and_stand_at_their_place(crystal, measurement):
    hkl, f = measurement
    problem = PhaseProblem.of(CELL, hkl, abs(f), d_min=D_MIN)
    grid = structure_factor_grid(crystal, problem.shape, D_MIN)
    grid[0, 0, 0] = 0
    np.testing.assert_allclose(problem.amplitude, abs(grid), atol=1e-4 * abs(f).max())
    assert not problem.missing.any()
    # the plane l = 0 holds both of a pair
    plane = problem.amplitude[:, :, 0].numpy()
    mate = np.roll(plane[::-1, ::-1], (1, 1), (0, 1))
    np.testing.assert_array_equal(plane, mate)


def test_true_phases_give_the_true_map(crystal, measurement):
    hkl, f = measurement
    problem = PhaseProblem.of(CELL, hkl, abs(f), d_min=D_MIN)
    phases = unit(torch.as_tensor(structure_factor_grid(crystal, problem.shape, D_MIN)))
    expected = density(crystal, problem.shape, D_MIN)
    np.testing.assert_allclose(problem.density(phases), expected - expected.mean(), atol=2e-4 * expected.max())
    off = (problem.phases_of_hkl(phases) - np.degrees(np.angle(f)) + 180) % 360 - 180
    np.testing.assert_allclose(off[abs(f) > 0.1], 0, atol=0.1)


def test_mates_are_averaged_and_unmeasured_ones_known_as_missing():
    hkl = half_sphere(CELL, D_MIN)
    amplitude = np.linspace(1, 2, len(hkl))
    twice = PhaseProblem.of(CELL, np.concatenate([hkl, -hkl[:5]]), np.concatenate([amplitude, 3 * amplitude[:5]]))
    once = PhaseProblem.of(CELL, hkl[5:], amplitude[5:], d_min=D_MIN)
    at = tuple((hkl[0] % np.array(twice.shape)).tolist())
    assert twice.amplitude[at] == pytest.approx(2 * amplitude[0])
    assert int(once.missing[at]) == 1
    assert int((once.weight * once.missing).sum()) == 10


def test_weights_of_sigma_count():
    problem = PhaseProblem.of(CELL, [[1, 0, 0], [-1, 0, 0]], [1.0, 4.0], sigma=[1.0, 0.5])
    assert problem.amplitude[1, 0, 0] == pytest.approx((1 + 4 * 4) / 5)
    assert problem.sigma[1, 0, 0] == pytest.approx(1 / np.sqrt(5))


def test_phases_beyond_d_min_are_nan_and_mates_have_opposite_ones(measurement):
    hkl, f = measurement
    problem = PhaseProblem.of(CELL, np.concatenate([hkl, -hkl]), np.tile(abs(f), 2), d_min=1.5)
    found = problem.phases_of_hkl(problem.random_phases(1, 3)[0])
    n = len(hkl)
    known = np.isfinite(found[:n])
    assert 0 < known.sum() < n
    total = (found[:n] + found[n:])[known] / 360
    np.testing.assert_allclose(total, np.rint(total), atol=3e-6)


def test_resampling_to_another_grid_and_back_keeps_every_reflection(crystal):
    problem = PhaseProblem.from_crystal(crystal, D_MIN)
    fine = grid_shape(CELL, D_MIN, 4.0)
    np.testing.assert_array_equal(
        resampled(resampled(problem.amplitude, problem.shape, fine), fine, problem.shape), problem.amplitude
    )
    assert problem.on_grid(fine).amplitude.square().sum() == pytest.approx(float(problem.amplitude.square().sum()))


def test_grid_sides_are_friendly():
    for edge in (2.0, 7.3, 14.9, 23.0):
        side = grid_shape((edge, edge, edge, 90, 90, 90), 0.9)[0]
        assert side >= 8
        assert side % 4 == 0
        assert edge / side <= 0.9 / 2.7
        assert side % 11
        assert side % 13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hkl": np.empty((0, 3))}, "no reflection is given"),
        ({"hkl": [[1.5, 0, 0]]}, "whole numbers"),
        ({"hkl": [[1, 0]]}, r"shape \(n, 3\)"),
        ({"amplitude": [np.nan]}, "not finite or below zero"),
        ({"amplitude": [-1.0]}, "below zero"),
        ({"amplitude": [0.0]}, "nothing to phase"),
        ({"amplitude": [1.0, 2.0]}, "one value a reflection"),
        ({"hkl": [[0, 0, 0]]}, "000"),
        ({"cell": (6, 7, 8, 20, 20, 170)}, "no unit cell"),
        ({"cell": (6, 7, 8)}, "six finite numbers"),
        ({"d_min": -1.0}, "d_min"),
        ({"d_min": 9.0}, "largest d is"),
        ({"shape": (8, 8, 8), "hkl": [[5, 0, 0]]}, "cannot hold"),
        ({"sigma": [0.0]}, "sigma"),
    ],
)
def test_bad_input_is_told(change, message):
    good = {"cell": CELL, "hkl": [[1, 0, 0]], "amplitude": [1.0]}
    with pytest.raises(ValueError, match=message):
        PhaseProblem.of(**(good | change))


def test_from_crystal_does_not_mind_where_the_origin_is(crystal):
    there = replace(crystal, positions=crystal.positions + np.array([0.1, 0.2, 0.3]))
    a, b = (PhaseProblem.from_crystal(c, D_MIN).amplitude for c in (crystal, there))
    np.testing.assert_allclose(a, b, atol=1e-4 * float(a.max()))


def test_starts_of_several_methods_stand_one_after_the_other():
    problem = PhaseProblem.from_crystal(random_crystal(CELL, 1, n=3, numbers=(8,)), 2.5)
    maps = Starts(problem.random_phases(3, 0), {"misfit": np.arange(3.0)}, parent=np.array([0, 1, 1]), seconds=1.0)
    models = Starts(problem.random_phases(2, 1), {"criterion": np.arange(2.0)}, parent=np.array([1, 0]), seconds=2.0)
    both = Starts.of_methods(("network", maps), ("atoms", models))
    assert both.makers.tolist() == ["network"] * 3 + ["atoms"] * 2
    assert both.parents.tolist() == [0, 1, 1, 1, 0]
    assert both.seconds == 3.0
    np.testing.assert_equal(both.features["misfit"], [0, 1, 2, np.nan, np.nan])
    np.testing.assert_equal(both.features["criterion"], [np.nan, np.nan, np.nan, 0, 1])
    assert Starts.of_methods(("", both), ("", both)).made_by == (("network", 3), ("atoms", 2)) * 2
    (first, own), (second, others) = both.of_each_method()
    assert (first, second) == ("network", "atoms")
    assert own.parents.tolist() == [0, 1, 1]
    # made of starts of another method: each its own parent
    assert others.parents.tolist() == [0, 1]
    assert set(own.features) == {"misfit"}
    assert maps.makers.tolist() == [""] * 3
