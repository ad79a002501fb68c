from dataclasses import replace

import numpy as np
import pytest

from phaseray.crystal import Crystal
from phaseray.diffraction.grid import SpacingGrid, half_shape
from phaseray.diffraction.maps import density, density_from_half_grid, zero_phase_map
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.evaluation import atom_refinement
from phaseray.evaluation.atom_refinement import Atoms, Linearised, refined
from phaseray.evaluation.atoms_in_maps import atoms_in_map, coefficients
from phaseray.evaluation.metrics import align
from phaseray.evaluation.peaks import atoms_found, find_peaks
from phaseray.evaluation.periodic import distances

TRICLINIC = Crystal(
    (6.1, 6.8, 7.5, 80, 95, 102),
    [82, 8, 8, 6, 6, 14],
    [[0.1, 0.1, 0.1], [0.33, 0.1, 0.1], [0.1, 0.32, 0.12], [0.5, 0.6, 0.7], [0.68, 0.6, 0.7], [0.6, 0.2, 0.55]],
    u_iso=np.full(6, 0.02),
)


def map_of(crystal, d_min, points=5.4):
    return density(crystal, SpacingGrid(points).shape(crystal.cell, d_min), d_min)


def worst(crystal, positions):
    """Å from the farthest atom to the nearest of the positions."""
    return distances(crystal.positions, positions, crystal.cell).min(1).max()


@pytest.mark.parametrize(("d_min", "apart"), [(1.5, 1.5), (2.0, 1.5), (2.0, 1.65), (2.0, 1.8)])
def test_oxygen_beside_lead_is_found_where_its_maximum_is_not(d_min, apart):
    cell = (7.0, 7.5, 8.0, 90, 90, 90)
    direction = np.array([0.48, 0.6, 0.64])
    two = Crystal(cell, [82, 8], [[0.2, 0.3, 0.4], [0.2, 0.3, 0.4] + apart * direction / cell[:3]], u_iso=[0.02, 0.02])
    rho = map_of(two, d_min)
    found = atoms_in_map(rho, cell, 2, d_min=d_min)
    assert worst(two, find_peaks(rho, cell, 2).positions) > 0.5
    assert distances(found.positions, two.positions, cell).diagonal().max() < 0.2
    assert found.heights[0] / found.heights[1] == pytest.approx(82 / 8, rel=0.35)


def test_bonded_atoms_that_are_one_maximum_at_two_angstrom_are_two():
    cell = (6.0, 7.0, 8.0, 90, 90, 90)
    pair = Crystal(cell, [8, 8], [[0.4, 0.5, 0.5], [0.4 + 1.2 / 6, 0.5, 0.5]], u_iso=[0.02, 0.02])
    rho = map_of(pair, 2.0)
    assert worst(pair, find_peaks(rho, cell, 2).positions) > 0.5
    assert worst(pair, atoms_in_map(rho, cell, 2, d_min=2.0).positions) < 0.1


@pytest.mark.parametrize("d_min", [1.0, 1.5, 2.0])
def test_all_atoms_of_a_triclinic_cell_stand_where_they_are_with_their_electrons(d_min):
    found = atoms_in_map(map_of(TRICLINIC, d_min), TRICLINIC.cell, 6, d_min=d_min)
    apart = distances(TRICLINIC.positions, found.positions, TRICLINIC.cell)
    assert sorted(apart.argmin(1)) == list(range(6))
    assert apart.min(1).max() < 0.1
    # the shape of one typical element stands for that of all: heavier atoms fall off less, lighter ones more
    ratio = found.heights[apart.argmin(1)] / TRICLINIC.numbers
    assert ratio.max() < 1.25
    assert ratio.min() > 0.75


def test_a_translation_moves_the_atoms_and_inversion_turns_them():
    plain = atoms_in_map(map_of(TRICLINIC, 1.5), TRICLINIC.cell, 6)
    t = np.array([0.137, 0.411, 0.773])
    moved = replace(TRICLINIC, positions=TRICLINIC.positions + t)
    there = atoms_in_map(map_of(moved, 1.5), TRICLINIC.cell, 6)
    assert distances(plain.positions + t, there.positions, TRICLINIC.cell).diagonal().max() < 0.02
    np.testing.assert_allclose(there.heights, plain.heights, rtol=0.02)
    turned = atoms_in_map(align(map_of(TRICLINIC, 1.5), (0, 0, 0), True), TRICLINIC.cell, 6)
    assert distances(-plain.positions, turned.positions, TRICLINIC.cell).diagonal().max() < 0.02


def test_the_same_map_gives_the_same_atoms_and_another_scale_other_heights_only():
    rho = map_of(TRICLINIC, 1.5)
    one, again, larger = (atoms_in_map(x, TRICLINIC.cell, 6) for x in (rho, rho.copy(), 1000.0 * rho + 7))
    np.testing.assert_array_equal(one.positions, again.positions)
    np.testing.assert_array_equal(one.heights, again.heights)
    np.testing.assert_allclose(larger.positions, one.positions, atol=1e-4)
    np.testing.assert_allclose(larger.heights, 1000 * one.heights, rtol=1e-3)


def test_a_constant_map_has_no_atoms():
    for value in (0.0, 0.1, -3e5):
        assert len(atoms_in_map(np.full((8, 8, 8), value), (5, 5, 5, 90, 90, 90), 4).heights) == 0
    assert len(atoms_in_map(map_of(TRICLINIC, 2.0), TRICLINIC.cell, 0).heights) == 0


def test_reflections_that_a_centred_cell_lacks_are_known_to_be_nought():
    half = Crystal((7, 7, 7, 90, 90, 90), [26, 8, 8], [[0, 0, 0], [0.25, 0.1, 0.3], [0.6, 0.8, 0.05]], u_iso=[0.02] * 3)
    whole = Crystal(
        half.cell, [*half.numbers] * 2, np.concatenate([half.positions, half.positions + 0.5]), u_iso=np.full(6, 0.02)
    )
    assert worst(whole, atoms_in_map(map_of(whole, 1.5), whole.cell, 6).positions) < 0.1


def test_reflections_said_to_be_unknown_are_not_taken_for_nought():
    shape = (24, 28, 32)
    f = structure_factor_grid(TRICLINIC, shape, 1.5)
    observed = np.random.default_rng(1).random(half_shape(shape)) > 0.25
    # both of a pair, or neither
    observed[..., 0] = True
    rho = density_from_half_grid(np.where(observed, f, 0), shape, 1.0) / TRICLINIC.volume
    found = atoms_in_map(rho, TRICLINIC.cell, 6, d_min=1.5, observed=observed)
    assert worst(TRICLINIC, found.positions) < 0.1


def test_wrong_phases_give_no_success():
    shape = (24, 28, 32)
    light = replace(TRICLINIC, numbers=[8, 7, 8, 6, 6, 7])
    f = structure_factor_grid(light, shape, 1.5)
    f[0, 0, 0] = 0
    truth = density(light, shape, 1.5)
    wrong = zero_phase_map(abs(f), shape, light.volume)
    match = atoms_found(wrong, truth, light.cell, light.positions, light.numbers, d_min=1.5)
    assert match.recall < 0.8
    assert atoms_found(truth, truth, light.cell, light.positions, light.numbers, d_min=1.5).recall == 1.0


def test_the_equations_of_the_fit_are_the_derivatives_of_the_misfit(monkeypatch):
    data = coefficients(map_of(TRICLINIC, 1.5), TRICLINIC.cell, 1.5)
    rng = np.random.default_rng(3)
    atoms = Atoms(TRICLINIC.positions + rng.normal(0, 0.01, (6, 3)), TRICLINIC.numbers * 0.9, rng.normal(0, 0.5, 6))
    to_fractional = np.linalg.inv(TRICLINIC.orthogonalization).T

    def around(step):
        shift = step[1:4].T @ to_fractional
        return Atoms(atoms.positions + shift, atoms.heights + step[0], atoms.b + step[4])

    fit = Linearised(data, atoms, 0.0, 0.0)
    steps = 1e-5 * np.eye(30).reshape(30, 5, 6)
    by_differences = [(data.misfit(around(s)) - data.misfit(around(-s))) / 2e-5 for s in steps]
    np.testing.assert_allclose(-2 * fit.gradient().ravel(), by_differences, rtol=1e-4, atol=1e-7)
    jacobian = np.stack([fit.forward(s / 1e-5).ravel() for s in steps])
    coefficient = (jacobian @ jacobian.T).reshape(5, 6, 5, 6)
    np.testing.assert_allclose(np.einsum("injn->nij", coefficient), fit.blocks(), rtol=1e-9, atol=1e-12)
    u = rng.normal(size=(2, len(data.s2)))
    np.testing.assert_allclose(jacobian @ u.ravel(), fit.backward(u).ravel(), atol=1e-10)
    whole = jacobian @ jacobian.T
    exact = np.linalg.solve(whole + 1e-2 * np.diag(np.diag(whole)), fit.gradient().ravel())
    # the search itself stops earlier
    monkeypatch.setattr(atom_refinement, "_ENOUGH", 1e-16)
    monkeypatch.setattr(atom_refinement, "_MOST_CONJUGATE", 200)
    np.testing.assert_allclose(fit.step(1e-2).ravel(), exact, atol=1e-5 * abs(exact).max())
    assert data.misfit(refined(data, atoms, 8)) < 1e-3 < data.misfit(atoms)
