"""Ways to share sites out, and trials of atoms in them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from phaseray.crystal import Crystal
from phaseray.phasing import site_search
from phaseray.phasing.atom_model import Frame
from phaseray.phasing.completion import Completion
from phaseray.phasing.problem import PhaseProblem
from phaseray.phasing.site_search import SiteSearch, _distinct, apart, parts
from phaseray.phasing.solve import atoms_of

D_MIN = 2.0


@pytest.mark.parametrize(
    ("formula", "elements"),
    [
        ("FeS2", [(26, 16)]),
        ("Mg2SiO4", [(14, 12, 8), (14, 12)]),
        ("NH3", [(7, 1), (7,)]),
        ("C6H6", [(6, 1), (6,)]),
        ("C11H16N5O4", [(8, 7, 6)]),
        ("MnC10H8Cl2N2", [(25, 17, 7, 6), (25, 17)]),
        ("AuC9H2F4N2", [(79, 9, 7, 6), (79,)]),
        ("H2", [(1,)]),
    ],
)
def test_hydrogen_is_placed_where_it_matters_and_heavy_atoms_by_themselves(formula, elements):
    assert [part.elements for part in parts(atoms_of(formula))] == elements


def test_trials_find_the_atoms_and_use_no_place_twice(marcasite: Crystal):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    group = work.allowed.likely[0]
    search = SiteSearch(Frame(work.reflections, group), parts({26: 1, 16: 2})[0], np.random.default_rng(0))
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
    search = SiteSearch(frame, parts({26: 1, 16: 2})[0], np.random.default_rng(0))
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
    search = SiteSearch(frame, parts({26: 1, 16: 2})[0], np.random.default_rng(0))
    places = search.sites.kinds[2, 0]
    want = {(a, b, c) for a, b in combinations(places, 2) for c in places if c not in (a, b)}
    found = search.trials(((0, (2, 0)), (0, (2, 0)), (1, (2, 0))))
    assert len(found) == len(want) == 12
    assert {tuple(each) for each in found.tolist()} == want


def test_places_that_are_few_are_drawn_once_each(marcasite: Crystal, monkeypatch):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    frame = Frame(work.reflections, work.allowed.likely[0])
    search = SiteSearch(frame, parts({26: 1, 16: 2})[0], np.random.default_rng(0))
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
    search = SiteSearch(frame, parts({26: 1, 16: 2})[0], np.random.default_rng(0))
    way = ((0, (2, 0)), (1, (4, 2)))
    polished = search.solve(way)
    # what the last steps make is not apart, what they start from is
    monkeypatch.setattr(site_search, "apart", lambda model: model.misfit > 1.01 * polished.misfit)
    found = search.solve(way)
    assert found is not None
    assert found.misfit > polished.misfit


def test_atoms_that_are_too_near_are_no_model(marcasite: Crystal):
    work = Completion(PhaseProblem.from_crystal(marcasite, D_MIN))
    search = SiteSearch(
        Frame(work.reflections, work.allowed.likely[0]), parts({26: 1, 16: 2})[0], np.random.default_rng(0)
    )
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
