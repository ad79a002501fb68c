"""Scores know no origin and no hand; a calibration gives back the odds that made it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseray.diffraction.ambiguity import move_origin
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.phasing import calibration, scoring
from phaseray.phasing.problem import PhaseProblem, Starts, unit
from tests.strategies import CELLS, random_crystal


@pytest.fixture(scope="module")
def solved():
    crystal = random_crystal(CELLS["monoclinic"], 2, n=8, numbers=(6, 8, 17))
    problem = PhaseProblem.from_crystal(crystal, 1.0)
    return problem, unit(torch.as_tensor(structure_factor_grid(crystal, problem.shape, 1.0)))


def test_features_do_not_change_with_origin_and_hand(solved):
    problem, phases = solved
    # whole grid steps, between which the map itself is the same
    shift = tuple(s / n for s, n in zip((3, 5, 2), problem.shape, strict=True))
    moved = torch.as_tensor(move_origin(phases.numpy(), shift))
    table = scoring.features(problem, torch.stack([phases, moved, phases.conj()]))
    for name, values in table.items():
        # starts are compared with each other on a rougher grid, on which this shift is no whole one
        atol = 0.1 if name == "agreement" else 1e-4
        np.testing.assert_allclose(values, values[0], rtol=2e-3, atol=atol, err_msg=name)


def test_agreement_is_one_for_the_same_map_moved_and_low_for_chance(solved):
    problem, phases = solved
    three = torch.cat([phases[None], phases.conj()[None], problem.random_phases(1, 0)])
    found = scoring.features(problem, three)
    assert found["agreement"][:2] == pytest.approx(1, abs=1e-3)
    assert found["agreement"][2] < 0.5
    assert found["following"].tolist() == [0.5, 0.5, 0.0]
    assert scoring.features(problem, three[:1])["following"].tolist() == [0.0]


def test_what_was_made_of_a_start_does_not_confirm_it(solved):
    problem, phases = solved
    four = torch.cat([problem.random_phases(2, 0), phases[None], phases[None]])
    alone = scoring.features(problem, four, np.array([0, 1, 2, 2]))
    assert alone["agreement"][2:].max() < 0.5
    assert alone["following"][2:].tolist() == [0.0, 0.0]
    beside = scoring.features(problem, torch.cat([four[2:], four[:2]])[[0, 1, 2, 3]], np.array([0, 1, 2, 0]))
    assert beside["agreement"][0] == pytest.approx(1, abs=1e-3)
    assert beside["following"][:2].tolist() == [0.5, 0.5]


def test_the_truth_scores_above_chance(solved):
    problem, phases = solved
    table = scoring.features(problem, torch.cat([phases[None], problem.random_phases(4, 1)]))
    for name in ("skewness", "kurtosis", "top", "sayre", "patterson"):
        assert table[name][0] > table[name][1:].max(), name
    for name in ("residual", "negative"):
        assert table[name][0] < table[name][1:].min(), name


def test_equal_amplitudes_correlate_with_nothing(solved):
    problem, phases = solved
    equal = replace(problem, amplitude=problem.measured.float())
    delta = torch.ones_like(phases)[None]  # all phases 0: one point, and its square the same
    table = scoring.features(equal, torch.cat([delta, problem.random_phases(2, 0)]))
    for name in ("sayre", "patterson"):
        np.testing.assert_array_equal(table[name], 0.0, err_msg=name)


def test_a_fit_gives_back_the_odds_that_drew_the_labels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    right = rng.random(len(x)) < 1 / (1 + np.exp(-(2 * x - 1)))
    made = calibration.fit({"x": x, "d_min": 1.0}, right, ["x"], ridge=0.0)
    np.testing.assert_allclose(made.probability({"x": np.array([0.0, 1.0])}), 1 / (1 + np.exp([1, -1])), atol=0.02)


def test_calibrations_are_written_and_read(tmp_path):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=100), rng.normal(size=100)
    made = calibration.fit({"x": x, "y": y}, x + y > 0, ["x", "x*y"], made={"how": "test"})
    made.write(tmp_path / "c.json")
    again = calibration.load(str(tmp_path / "c.json"))
    table = {"x": x, "y": y}
    np.testing.assert_array_equal(made.probability(table), again.probability(table))
    with pytest.raises(ValueError, match="needs the features y"):
        again.probability({"x": x})
    with pytest.raises(ValueError, match="no calibration"):
        calibration.load("nothing")


def test_starts_of_two_methods_are_judged_each_by_its_own_standards(solved):
    problem, phases = solved
    flipped = Starts(torch.cat([phases[None], problem.random_phases(2, 0)]))
    own = ("misfit", "steadiness", "symmetry", "rotations", "allowed", "expected")
    known = {name: np.array([0.1, 0.4]) for name in own}
    learned = Starts(problem.random_phases(2, 1), known)
    both = Starts(
        torch.cat([flipped.phases, learned.phases]),
        {name: np.concatenate([np.full(3, np.nan), values]) for name, values in known.items()},
        made_by=(("charge_flipping", 3), ("network", 2)),
    )
    p, table = scoring.judge(problem, both, "hybrid")
    np.testing.assert_array_equal(p[:3], scoring.judge(problem, flipped, "charge_flipping")[0])
    np.testing.assert_array_equal(p[3:], scoring.judge(problem, learned, "network")[0])
    assert np.isnan(table["misfit"][:3]).all()
    assert table["misfit"][3:].tolist() == [0.1, 0.4]
