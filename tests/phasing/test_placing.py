"""Atoms placed from amplitudes alone: crystals come out, and what is not there is not claimed."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseray import map_cc, solve_map
from phaseray.crystal import Crystal, orthogonalization_matrix
from phaseray.diffraction.grid import Shape
from phaseray.diffraction.maps import density
from phaseray.diffraction.structure_factors import structure_factor_grid, structure_factors
from phaseray.phasing import placing, scoring
from phaseray.phasing.placing import guess, place
from phaseray.phasing.problem import PhaseProblem, half_sphere, resampled, unit
from phaseray.phasing.site_search import parts
from phaseray.phasing.solve import atoms_of
from tests.phasing.conftest import named

D_MIN = 2.0


def cc_with(made: Crystal, problem: PhaseProblem, phases: torch.Tensor) -> float:
    """Of the map with the true one, on a grid on which half a point does not count."""
    fine: Shape = tuple(2 * n for n in problem.shape)  # type: ignore[assignment]
    truth = unit(torch.as_tensor(structure_factor_grid(made, problem.shape, problem.d_min * (1 - 1e-6))))
    pair = resampled(torch.stack([phases, truth]), problem.shape, fine)
    return float(scoring.correlations(problem.on_grid(fine), pair, 1)[0])


def arguments(made: Crystal) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hkl = half_sphere(made.cell, D_MIN)
    return made.cell, hkl, abs(structure_factors(made, hkl))


def test_twelve_amplitudes_and_a_formula_are_enough(marcasite: Crystal):
    solution = solve_map(*arguments(marcasite), formula="FeS2", time_limit=60)
    problem = PhaseProblem.from_crystal(marcasite, D_MIN)
    assert map_cc(solution.density, density(marcasite, solution.grid, D_MIN)) > 0.9
    assert solution.density.shape == problem.shape
    assert solution.probability > 0.9
    assert solution.starts == solution.agreeing == 0  # no random phases were needed
    assert solution.features["criterion"] < -7.5


@pytest.mark.parametrize("part", ["A2B3_hR10_167_c_e-Al2O3", "AB2_hP9_180_d_j-CrSi2", "A2BC4_cF56_227_d_a_e-Al2MgO4"])
def test_others_too_in_any_origin_and_hand(part: str):
    made = named(part)
    moved = replace(made, positions=(0.31 - made.positions) % 1)
    problem = PhaseProblem.from_crystal(moved, D_MIN)
    found = place(problem, atoms_of(made.composition), seed=3)
    assert found is not None
    assert cc_with(moved, problem, found.phases[0]) > 0.97
    assert (found.parents == -1).all()


def test_amplitudes_with_errors_and_without_their_equivalents_merged():
    made = named("A2B3_hR10_167_c_e-Al2O3")
    hkl = half_sphere(made.cell, 1.5)
    amplitude = abs(structure_factors(made, hkl))
    sigma = 0.03 * (amplitude + 0.3 * amplitude.mean())
    measured = abs(amplitude + sigma * np.random.default_rng(0).normal(size=len(hkl)))
    problem = PhaseProblem.of(made.cell, hkl, measured, d_min=1.5, sigma=sigma)
    found = place(problem, atoms_of(made.composition), seed=0)
    assert found is not None
    assert cc_with(made, problem, found.phases[0]) > 0.95


def test_models_given_back_are_different_maps_and_say_how_far_apart_they_are():
    made = named("A_tP12_96_ab-Si")
    problem = PhaseProblem.from_crystal(made, D_MIN)
    found = place(problem, {14: 1}, seed=0)
    assert found is not None
    assert 2 <= len(found) <= placing.MODELS
    alike = scoring.likeness(problem, found.phases)
    assert alike.max() < scoring.SAME_MAP
    margin, criterion = found.features["margin"], found.features["criterion"]
    assert (np.diff(criterion) >= 0).all()
    assert margin[0] > 0 > margin[1]
    assert margin[1] == pytest.approx(max(-3, criterion[0] - criterion[1]))


def test_the_same_seed_gives_the_same_bytes(marcasite: Crystal):
    problem = PhaseProblem.from_crystal(marcasite, D_MIN)
    a, b = (place(problem, {26: 1, 16: 2}, seed=1) for _ in range(2))
    assert a is not None
    assert b is not None
    assert torch.equal(a.phases, b.phases)


def test_a_wrong_formula_is_not_claimed_where_it_leads_to_a_wrong_map(marcasite: Crystal):
    problem = PhaseProblem.from_crystal(marcasite, D_MIN)
    found = place(problem, {79: 1, 7: 3}, seed=0)
    assert found is not None
    probability, _ = scoring.judge(problem, found, placing.FORMULA)
    for p, phases in zip(probability, found.phases, strict=True):
        assert p < 0.6 or cc_with(marcasite, problem, phases) > 0.8


def test_a_wrong_formula_may_lead_to_the_right_map_all_the_same():
    made = named("A2B3_hR10_167_c_e-Al2O3")
    problem = PhaseProblem.from_crystal(made, 1.5)
    found = place(problem, {29: 1, 17: 1}, seed=0)
    assert found is not None
    assert cc_with(made, problem, found.phases[0]) > 0.95
    assert found.features["criterion"][0] < -7


def test_what_few_atoms_leave_is_completed(monkeypatch):
    """Six orbits in R-3, of which the simplest ways to place them all are wrong."""
    made = named("AB_hR26_148_b2f_a2f-AlPd")
    problem = PhaseProblem.from_crystal(made, D_MIN)
    found = place(problem, atoms_of(made.composition), seed=0)
    assert found is not None
    assert cc_with(made, problem, found.phases[0]) > 0.95
    assert found.features["criterion"][0] < -6
    monkeypatch.setattr(placing, "_completed", lambda *_: [])
    placed = place(problem, atoms_of(made.composition), seed=0)
    assert placed is not None
    assert placed.features["criterion"][0] > -4


def test_where_all_atoms_are_too_many_heavy_ones_show_them():
    """Two iodine atoms among sixteen of carbon in P-1: 27 coordinates, of which three are placed."""
    rng = np.random.default_rng(5)
    cell = np.array([6.1, 6.9, 8.2, 82.0, 97.0, 104.0])
    matrix = orthogonalization_matrix(cell)
    half = np.array([[0.21, 0.32, 0.13]])
    while len(half) < 9:
        x = rng.random(3)
        difference = np.concatenate([half - x, half + x, [2 * x]])
        if np.linalg.norm((difference - np.rint(difference)) @ matrix.T, axis=1).min() > 1.3:
            half = np.concatenate([half, [x]])
    positions = np.concatenate([half, -half]) % 1
    made = Crystal(cell, np.array([53, *[6] * 8] * 2), positions).with_default_u_iso(0.03)
    problem = PhaseProblem.from_crystal(made, 1.3)
    assert [part.elements for part in parts({53: 1, 6: 8})] == [(53, 6), (53,)]
    found = place(problem, {53: 1, 6: 8}, seed=0)
    assert found is not None
    assert cc_with(made, problem, found.phases[0]) > 0.95


def test_without_time_nothing_is_placed(marcasite: Crystal):
    problem = PhaseProblem.from_crystal(marcasite, D_MIN)
    assert place(problem, {26: 1, 16: 2}, seed=0, until=time.perf_counter() - 1) is None


def test_a_formula_helps_some_methods_only(marcasite: Crystal):
    with pytest.raises(ValueError, match="network and hybrid only"):
        solve_map(*arguments(marcasite), method="charge_flipping", formula="FeS2")


def test_atoms_of_no_formula_lead_to_the_crystal_too():
    """Spinel at 2 Å, of which the network's best map is seldom chosen."""
    made = named("A2BC4_cF56_227_d_a_e-Al2MgO4")
    problem = PhaseProblem.from_crystal(made, D_MIN)
    found = guess(problem, seed=0)
    assert found is not None
    assert cc_with(made, problem, found.phases[0]) > 0.8
    assert (found.parents == -1).all()
    assert len(found) <= placing.MODELS
    assert guess(problem, seed=0, until=time.perf_counter() - 1) is None
