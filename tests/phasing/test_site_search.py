"""Atoms of a formula placed from amplitudes alone: crystals come out, and what is not there is not claimed."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from phaseray import map_cc, solve_map
from phaseray.crystal import Crystal
from phaseray.diffraction.grid import Shape
from phaseray.diffraction.maps import density
from phaseray.diffraction.structure_factors import structure_factor_grid, structure_factors
from phaseray.phasing import scoring, site_search
from phaseray.phasing.atom_model import Frame
from phaseray.phasing.completion import Completion
from phaseray.phasing.problem import PhaseProblem, half_sphere, resampled, unit
from phaseray.phasing.site_search import SiteSearch, _distinct, apart, place
from phaseray.phasing.solve import atoms_of
from phaseray.sources import prototypes

D_MIN = 2.0


def named(part: str) -> Crystal:
    index = next(i for i, name in enumerate(prototypes.names()) if part in name)
    return prototypes.prototype(index).with_default_u_iso(0.02)


@pytest.fixture(scope="module")
def marcasite() -> Crystal:
    """FeS2, Pnnm: twelve amplitudes to 2 Å, whose zero phases and whose network's maps are wrong."""
    return named("AB2_oP6_58_a_g-FeS2")


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
    assert 2 <= len(found) <= site_search.MODELS
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


def test_a_wrong_formula_is_not_claimed(marcasite: Crystal):
    problem = PhaseProblem.from_crystal(marcasite, D_MIN)
    found = place(problem, {79: 1, 7: 3}, seed=0)
    if found is not None:
        probability, _ = scoring.judge(problem, found, site_search.METHOD)
        assert probability.max() < 0.5


def test_without_time_nothing_is_placed(marcasite: Crystal):
    problem = PhaseProblem.from_crystal(marcasite, D_MIN)
    assert place(problem, {26: 1, 16: 2}, seed=0, until=time.perf_counter() - 1) is None


def test_trials_find_the_atoms_and_use_no_place_twice(marcasite: Crystal):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    group = work.allowed.likely[0]
    search = SiteSearch(Frame(work.reflections, group), {26: 1, 16: 2}, np.random.default_rng(0))
    way = ((0, (2, 0)), (1, (4, 2)))
    assert way in search.ways(marcasite.volume, 1, work.allowed.independent)
    chosen = search.trials(way)
    model = search.model(way, chosen[0])
    assert model.misfit < 0.1
    assert model.known
    assert model.shared_b
    assert model.parameters == 2 + 2
    refined = model.refined(30, 1e-6)
    assert refined.misfit < 1e-6
    assert (refined.electrons == [26, 16]).all()
    assert np.ptp(refined.b) == 0
    twice = search.trials(((0, (2, 0)), (1, (2, 0))))
    assert (twice[:, 0] != twice[:, 1]).all()
    pair = search.trials(((1, (4, 2)), (1, (4, 2))))
    assert (pair[:, 0] < pair[:, 1]).all()
    assert len(np.unique(pair, axis=0)) == len(pair)


def test_no_draw_is_lost_for_the_order_of_its_orbits(marcasite: Crystal):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    frame = Frame(work.reflections, work.allowed.likely[0])
    search = SiteSearch(frame, {26: 1, 16: 2}, np.random.default_rng(0))
    way = ((0, (2, 0)), *((1, (4, 2)),) * 4)
    drawn = np.random.default_rng(1).choice(search.sites.kinds[4, 2], (500, 4))
    drawn = np.concatenate([np.full((500, 1), search.sites.kinds[2, 0][0]), drawn], 1)
    found = _distinct(way, drawn)
    # the same place twice in one draw is rare
    assert len(found) > 450
    assert (np.diff(found[:, 1:], axis=1) > 0).all()


def test_a_few_places_are_all_tried(marcasite: Crystal):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    frame = Frame(work.reflections, work.allowed.likely[0])
    search = SiteSearch(frame, {26: 1, 16: 2}, np.random.default_rng(0))
    places = search.sites.kinds[2, 0]
    want = {(a, b, c) for a, b in combinations(places, 2) for c in places if c not in (a, b)}
    found = search.trials(((0, (2, 0)), (0, (2, 0)), (1, (2, 0))))
    assert len(found) == len(want) == 12
    assert {tuple(each) for each in found.tolist()} == want


def test_places_that_are_few_are_drawn_once_each(marcasite: Crystal, monkeypatch):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    frame = Frame(work.reflections, work.allowed.likely[0])
    search = SiteSearch(frame, {26: 1, 16: 2}, np.random.default_rng(0))
    way = ((0, (2, 0)), (0, (2, 0)), (1, (2, 0)), (1, (4, 2)))
    drawn = search._drawn(way)
    fixed = np.sort(drawn[:, :3])
    assert (np.diff(fixed) > 0).all()
    assert set(drawn[:, 3]) <= set(search.sites.kinds[4, 2].tolist())
    # nor is an orbit moved to where another one is
    monkeypatch.setattr(site_search, "_TRIALS", 20)
    found = search.trials(way)
    assert len(found) > 0
    assert (np.diff(np.sort(found[:, :3])) > 0).all()
    # two elements that want more places together than there are
    places = len(search.sites.kinds[2, 0])
    crowded = (*((0, (2, 0)),) * (places - 1), *((1, (2, 0)),) * 2, (1, (4, 2)))
    assert search.trials(crowded).shape == (0, places + 2)


def test_atoms_that_the_last_steps_bring_too_near_are_left_where_they_were(marcasite: Crystal, monkeypatch):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    frame = Frame(work.reflections, work.allowed.likely[0])
    search = SiteSearch(frame, {26: 1, 16: 2}, np.random.default_rng(0))
    way = ((0, (2, 0)), (1, (4, 2)))
    polished = search.solve(way)
    # what the last steps make is not apart, what they start from is
    monkeypatch.setattr(site_search, "apart", lambda model: model.misfit > 1.01 * polished.misfit)
    found = search.solve(way)
    assert found is not None
    assert found.misfit > polished.misfit


def test_atoms_that_are_too_near_are_no_model(marcasite: Crystal):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    search = SiteSearch(Frame(work.reflections, work.allowed.likely[0]), {26: 1, 16: 2}, np.random.default_rng(0))
    way = ((0, (2, 0)), (1, (4, 2)))
    model = search.model(way, search.trials(way)[0]).refined(30, 1e-6)
    assert apart(model)
    near = model.positions.copy()
    near[1] = near[0] + [0.15, 0.15, 0]
    assert not apart(replace(model, positions=near))


@pytest.mark.parametrize(
    ("formula", "atoms"),
    [("Mg2SiO4", {14: 1, 12: 2, 8: 4}), ("Ca(OH)2", {20: 1, 8: 2, 1: 2}), ({"Fe": 8, "S": 16}, {26: 1, 16: 2}),
     ("Fe0.5S", {26: 1, 16: 2}), ("D2O", {8: 1, 1: 2})],
)  # fmt: skip
def test_formulas_are_read_as_chemists_write_them(formula, atoms: dict[int, int]):
    assert atoms_of(formula) == atoms


@pytest.mark.parametrize(
    "formula",
    ["", "Xx2", "FeS-2", {"Fe": -1}, "EsO2", {"Fe": float("nan")}, "Na0.04Cl", {"Al": 2, "O": 3, "Cr": 0.05}],
)
def test_what_is_no_formula_is_refused(formula):
    with pytest.raises(ValueError, match=r"formula|too little of (Na|Cr)"):
        atoms_of(formula)


def test_a_formula_helps_some_methods_only(marcasite: Crystal):
    with pytest.raises(ValueError, match="network and hybrid only"):
        solve_map(*arguments(marcasite), method="charge_flipping", formula="FeS2")
