"""solve_map: crystals are solved, amplitudes are kept, the same seed gives the same bytes."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from phaseray import map_cc, solve_map
from phaseray.diffraction.maps import density
from phaseray.diffraction.structure_factors import structure_factor_grid, structure_factors
from phaseray.evaluation.metrics import half_grid_of
from phaseray.evaluation.peaks import atoms_found
from phaseray.phasing import network, rounds, scoring, solve
from phaseray.phasing.problem import PhaseProblem, Starts, half_sphere, unit
from phaseray.phasing.symmetry import Group
from phaseray.sources import prototypes

D_MIN = 0.9


@pytest.fixture(scope="module")
def quartz():
    """Low quartz: P3221, chiral, three SiO2; zero phases do not solve it."""
    index = next(i for i, name in enumerate(prototypes.names()) if "A2B_hP9_152" in name or "A2B_hP9_154" in name)
    return prototypes.prototype(index).with_default_u_iso(0.02)


@pytest.fixture(scope="module")
def data(quartz):
    hkl = half_sphere(quartz.cell, D_MIN)
    return quartz.cell, hkl, abs(structure_factors(quartz, hkl))


@pytest.fixture(scope="module", params=["charge_flipping", "rrr"])
def solution(request, data):
    return solve_map(*data, method=request.param, starts=8, seed=1)


def test_a_small_crystal_is_solved_in_seconds(quartz, solution):
    truth = density(quartz, solution.grid, D_MIN)
    assert map_cc(solution.density, truth) >= 0.8
    assert atoms_found(solution.density, truth, quartz.cell, quartz.positions, quartz.numbers).recall >= 0.8
    assert solution.probability > 0.5
    assert solution.agreeing >= 1


def test_measured_amplitudes_are_kept_exactly(data, solution):
    cell, hkl, amplitude = data
    volume = PhaseProblem.of(cell, hkl, amplitude).volume
    f = half_grid_of(solution.density, volume)
    found = f[tuple((hkl % np.array(solution.grid)).T)]
    np.testing.assert_allclose(abs(found), amplitude, atol=1e-4 * amplitude.max())
    strong = amplitude > 0.05 * amplitude.max()
    off = (np.degrees(np.angle(found)) - solution.phases + 180) % 360 - 180
    np.testing.assert_allclose(off[strong], 0, atol=0.1)


def test_solution_has_the_shapes_that_it_says(data, solution):
    assert solution.density.dtype == np.float32
    assert solution.density.shape == solution.grid
    assert solution.phases.shape == (len(data[1]),)
    assert ((solution.phases >= 0) & (solution.phases < 360)).all()
    assert 0 < solution.probability < 1
    assert solution.score == pytest.approx(np.log(solution.probability / (1 - solution.probability)))
    assert solution.seconds > 0
    assert abs(solution.density.mean()) < 1e-4 * solution.density.max()


@pytest.mark.parametrize("method", ["charge_flipping", "rrr"])
def test_the_same_seed_gives_the_same_bytes(data, method):
    from phaseray.phasing import charge_flipping, rrr
    from phaseray.phasing.milestones import Schedule

    module = {"charge_flipping": charge_flipping, "rrr": rrr}[method]
    problem = PhaseProblem.of(*data)
    settings = module.Settings(schedule=Schedule(first=10, cycles=20))
    a, b, c = (module.solve_starts(problem, 4, seed, settings=settings).phases.numpy() for seed in (5, 5, 6))
    assert a.tobytes() == b.tobytes()
    assert a.tobytes() != c.tobytes()


def test_the_scale_of_the_amplitudes_changes_only_the_scale_of_the_map(data):
    cell, hkl, amplitude = data
    a, b = (solve_map(cell, hkl, k * amplitude, method="zero") for k in (1.0, 7.0))
    np.testing.assert_allclose(7 * a.density, b.density, rtol=1e-4, atol=1e-5 * b.density.max())
    assert a.probability == pytest.approx(b.probability, rel=1e-3)


def test_the_time_limit_holds(data):
    began = time.perf_counter()
    found = solve_map(*data, method="charge_flipping", time_limit=0.05)
    assert np.isfinite(found.density).all()
    assert time.perf_counter() - began < 5


def test_bad_use_is_told(data):
    with pytest.raises(ValueError, match="no method 'magic'"):
        solve_map(*data, method="magic")
    with pytest.raises(ValueError, match="starts"):
        solve_map(*data, method="zero", starts=0)
    with pytest.raises(ValueError, match="time_limit"):
        solve_map(*data, method="zero", time_limit=0)


@pytest.mark.parametrize(
    ("probability", "criterion", "enough"),
    [([0.95, 0.3], [-8.0, -8.0], True), ([0.95], [-5.0], False), ([0.5], [-8.0], False), ([0.95], [np.nan], False)],
)
def test_only_atoms_that_are_probable_and_leave_little_end_the_search(
    data, monkeypatch, probability, criterion, enough
):
    problem = PhaseProblem.of(*data)
    found = Starts(problem.random_phases(len(probability), 0))
    monkeypatch.setattr(scoring, "judge", lambda *_: (np.array(probability), {"criterion": np.array(criterion)}))
    assert rounds.explained(problem, found, "network") is enough
    # maps alone have no criterion
    monkeypatch.setattr(scoring, "judge", lambda *_: (np.array(probability), {}))
    assert not rounds.explained(problem, found, "network")


@pytest.mark.parametrize(("probability", "times"), [(0.2, 4), (0.95, 1)])
def test_the_network_tries_again_until_a_start_is_probably_right(data, monkeypatch, probability, times):
    seeds, groups = [], []

    def tried(problem, starts, seed, time_limit, device, watch, projections):
        seeds.append(seed)
        # every second start is under a space group, another one each time while there are others
        assert [p is None for p in projections] == [i % 2 == 0 for i in range(starts)]
        groups.extend(p.factors.numpy().tobytes() for p in projections[1::2])
        return Starts(problem.random_phases(starts, seed), {"misfit": np.full(starts, 0.3)}, cycles=60, seconds=1.0)

    def judged(problem, found, method):
        return np.full(len(found), probability), {}

    monkeypatch.setattr(network, "solve_starts", tried)
    monkeypatch.setattr(scoring, "judge", judged)
    monkeypatch.setattr(rounds.Completion, "complete", lambda *_: None)
    guessed = []
    monkeypatch.setattr(rounds.placing, "guess", lambda *_: guessed.append(len(seeds)))
    # random phases have no symmetry
    problem = PhaseProblem.of(*data)
    found = solve.solve_starts(problem, "network", None, 5, None)
    assert (len(found), len(seeds), len(set(seeds)), seeds[0]) == (8 * times, times, times, 5)
    assert found.features["misfit"].shape == found.features["symmetry"].shape == found.features["allowed"].shape
    assert found.features["allowed"].shape == (8 * times,)
    assert found.parents.tolist() == list(range(8 * times))
    assert found.cycles == 60 * times
    assert len(groups) == 4 * times
    # no atoms explain any of it: some are guessed, once, after the first round
    assert guessed == [1]
    # as many as asked for, and no more
    assert len(solve.solve_starts(problem, "network", 3, 5, None)) == 3
    # a round that would be cut short is not begun
    assert len(solve.solve_starts(problem, "network", None, 5, 1.0)) == 8


def test_groups_are_taken_in_turn_as_far_as_there_are_any():
    groups = [Group(np.eye(3, dtype=np.int64)[None], np.full((1, 3), t)) for t in (0.0, 0.5, 0.25)]
    assert [groups.index(rounds._in_turn(groups, i)) for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert rounds._in_turn([], 4) is None


def network_finds(crystal, monkeypatch, *, error: float, misfit: float, expected: float):
    """The problem of a crystal at 1.5 Å and its true phases, with a network whose starts are these with errors."""
    problem = PhaseProblem.from_crystal(crystal, 1.5)
    truth = unit(torch.as_tensor(structure_factor_grid(crystal, problem.shape, 1.5 * (1 - 1e-6))))

    def tried(problem, starts, seed, time_limit, device, watch, projections):
        phases = unit(truth + error * problem.random_phases(starts, seed))
        known = {"misfit": misfit, "steadiness": 1.0, "expected": expected}
        return Starts(phases, {name: np.full(starts, v) for name, v in known.items()}, cycles=60, seconds=1.0)

    monkeypatch.setattr(network, "solve_starts", tried)
    return problem, truth


def test_the_symmetry_of_the_best_maps_is_put_in(quartz, monkeypatch):
    """Starts that are the truth, with errors: what is made of them comes after all starts of all rounds."""
    problem, _ = network_finds(quartz, monkeypatch, error=0.5, misfit=0.3, expected=0.7)
    monkeypatch.setattr(rounds.Completion, "complete", lambda *_: None)
    monkeypatch.setattr(rounds.placing, "guess", lambda *_: None)
    found = rounds.network_rounds(problem, 3, 2, 5, None)
    parents = found.parents
    starts = int((parents == np.arange(len(found))).sum())
    assert starts in (3, 6)
    assert (parents[:starts] == np.arange(starts)).all()
    assert len(found) > starts
    assert (parents[starts:] < starts).all()
    # every second start is under a group from the beginning
    np.testing.assert_array_equal(found.features["order"][:starts][[i % 3 != 1 for i in range(starts)]], 0)
    assert (found.features["order"][1:starts:3] > 0).all()
    assert (parents[starts:] % 3 != 1).all()
    # P3221: six operations, or of the pseudosymmetry that the silicon has, twelve
    assert set(np.rint(2 ** found.features["order"][starts:])) & {6, 12}
    assert (found.features["symmetry"][starts:] > 0.9).all()
    solution = solve.judged(problem, found, "network", time.perf_counter())
    assert solution.starts == starts
    assert solution.agreeing <= starts


def test_the_finest_of_a_family_is_taken():
    parents = np.array([0, 1, 2, 1, 1, 0])
    probability = np.array([0.2, 0.9, 0.1, 0.7, 0.8, 0.3])
    misfit = np.array([0.1, 0.10, 0.01, 0.11, 0.40, 0.01])
    order = np.log2([1, 1, 1, 4, 8, 48])
    # a group of 4 for a tenth more misfit is the better map, one of 8 for four times as much is not
    assert solve.finest(parents, probability, {"misfit": misfit, "order": order}) == 3
    assert solve.finest(parents, probability, {"residual": misfit}) == 1
    # a residual may grow by a hundredth for each doubling
    assert solve.finest(parents, probability, {"residual": misfit, "order": order}) == 1
    misfit[3] = 0.1015
    assert solve.finest(parents, probability, {"residual": misfit, "order": order}) == 3


def test_charge_flipping_puts_its_symmetry_in(quartz, data, solution):
    assert 2 ** solution.features["order"] >= 6
    truth = density(quartz, solution.grid, D_MIN)
    # on another processor other phases come out of it, and an origin between the points of the grid costs up to a tenth
    assert map_cc(solution.density, truth) >= 0.85


def test_atoms_that_explain_all_end_the_search_and_are_the_solution(quartz, monkeypatch):
    """Maps with too many errors to be called right, and the atoms in them: the second of four rounds is not begun."""
    problem, truth = network_finds(quartz, monkeypatch, error=0.7, misfit=0.5, expected=0.3)
    found = rounds.network_rounds(problem, 4, 4, 5, None)
    makers = found.makers
    own = found.parents == np.arange(len(found))
    assert (own.sum(), set(makers[own])) == (4, {"network"})
    assert makers[-1] == "atoms"
    assert (found.parents[makers == "atoms"] < 4).all()
    assert np.isnan(found.features["misfit"][makers == "atoms"]).all()
    solution = solve.judged(problem, found, "network", time.perf_counter())
    assert makers[solution.start] == "atoms"
    assert solution.probability >= rounds.ENOUGH
    assert solution.starts == 4
    assert "criterion" in solution.features
    assert "misfit" not in solution.features
    # which of equal models is taken is a matter of rounding; an origin between the points of the grid costs a little
    assert map_cc(solution.density, problem.density(truth).numpy()) > 0.97


@pytest.mark.parametrize("method", ["network", "hybrid"])
def test_guessed_atoms_are_made_from_no_start(quartz, monkeypatch, method):
    """Where neither the network nor charge flipping has a clue, atoms in special positions lead to the crystal."""
    problem, truth = network_finds(quartz, monkeypatch, error=30.0, misfit=0.9, expected=0.1)

    def flipped(problem, starts, seed, time_limit):
        return Starts(problem.random_phases(4, seed), cycles=10, seconds=0.1)

    monkeypatch.setattr(rounds.charge_flipping, "solve_starts", flipped)
    monkeypatch.setattr(rounds.Completion, "complete", lambda *_: None)
    found = solve.solve_starts(problem, method, 4, 5, None)
    of_guesses = found.makers == "guesses"
    assert of_guesses.any()
    assert (found.parents[of_guesses] == -1).all()
    assert (found.parents[~of_guesses] >= 0).all()
    solution = solve.judged(problem, found, method, time.perf_counter())
    assert of_guesses[solution.start]
    assert solution.starts == (4 if method == "network" else 8)
    assert map_cc(solution.density, problem.density(truth).numpy()) > 0.9


@pytest.mark.parametrize(("criterion", "asked"), [(-7.0, False), (-3.0, True)])
def test_atoms_of_a_formula_end_the_search_where_they_explain_it_all(quartz, monkeypatch, criterion, asked):
    problem = PhaseProblem.from_crystal(quartz, D_MIN)
    one = torch.ones_like(problem.structure_factors(torch.ones(problem.amplitude.shape)))[None]
    placed = Starts(one, {"criterion": np.array([criterion])}, parent=np.array([-1]))
    monkeypatch.setattr(rounds.placing, "place", lambda *_: placed)
    monkeypatch.setattr(rounds.scoring, "judge", lambda *_: (np.array([0.95]), dict(placed.features)))
    given = []

    def otherwise(left):
        given.append(left)
        return Starts(one, {"misfit": np.array([0.5])})

    found = rounds.placed_first(problem, {14: 1, 8: 2}, 0, 10.0, otherwise)
    assert bool(given) == asked
    assert all(0 < left <= 10 for left in given)
    assert list(found.makers) == ["", "formula"][not asked :]


def test_of_maps_and_atoms_the_best_atoms_of_good_odds_are_taken():
    probability = np.array([0.99, 0.98, 0.95, 0.92])
    makers = np.array(["network", "network", "atoms", "atoms"])
    parents = np.array([0, 1, 0, 1])
    table = {"misfit": np.array([0.3, 0.2, np.nan, np.nan]), "criterion": np.array([np.nan, np.nan, -7.0, -8.0])}
    # odds of 99, 49, 19 and 11.5
    assert solve.finest(parents, probability, table, makers) == 3
    assert solve.finest(parents, np.array([0.99, 0.98, 0.95, 0.8]), table, makers) == 2
    # few atoms of any are probable, and those with the best criterion are not out of the question
    assert solve.finest(parents, np.array([0.3, 0.2, 0.2, 0.1]), table, makers) == 3
    # atoms that are stand behind, and are not of the family of their start
    assert solve.finest(parents, np.array([0.5, 0.99, 0.6, 0.7]), table, makers) == 1
