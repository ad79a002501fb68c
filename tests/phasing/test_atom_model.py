"""Models of atoms: their structure factors against the direct sums, their derivatives, what they are led to."""

from __future__ import annotations

from dataclasses import replace

import gemmi
import numpy as np
import pytest

from phaseray.crystal import Crystal
from phaseray.diffraction.structure_factors import structure_factors
from phaseray.phasing.atom_model import AtomModel, Frame, Reflections
from phaseray.phasing.problem import PhaseProblem
from phaseray.phasing.symmetry import Group
from tests.phasing.test_symmetry import crystal

D_MIN, U_ISO = 1.2, 0.02
B = 8 * np.pi**2 * U_ISO
P1 = Group(np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)))


def operations(symbol: str) -> Group:
    ops = list(gemmi.SpaceGroup(symbol).operations())
    return Group(np.array([op.rot for op in ops]) // gemmi.Op.DEN, np.array([op.tran for op in ops]) / gemmi.Op.DEN)


def true_model(made: Crystal, frame: Frame) -> AtomModel:
    """The atoms that were put in, one of each orbit: `tests.phasing.test_symmetry.crystal` lists orbit after orbit."""
    g = len(frame.rotations)
    first = slice(None, None, made.n_atoms // 3) if g > 1 else slice(None)
    positions = made.positions[first]
    n = len(positions)
    return AtomModel(
        frame, positions, made.numbers[first].astype(float), np.full(n, B), np.ones(n),
        np.array([np.linalg.inv(frame.reflections.matrix)] * n),
    )  # fmt: skip


@pytest.fixture(params=["P -1", "P 21 21 21", "C 1 2/c 1", "R -3 c", "P 21 3"])
def symbol(request) -> str:
    return request.param


@pytest.mark.parametrize("with_symmetry", [True, False])
def test_structure_factors_are_the_direct_sums(symbol: str, with_symmetry: bool):
    made = crystal(symbol)
    reflections = Reflections.of(PhaseProblem.from_crystal(made, D_MIN))
    frame = Frame(reflections, operations(symbol) if with_symmetry else P1)
    model = true_model(made, frame)
    want = structure_factors(made, reflections.hkl)
    np.testing.assert_allclose(model.everywhere(), want, atol=2e-5 * abs(want).max())
    assert model.misfit < 1e-8
    assert model.atoms == pytest.approx(made.n_atoms)
    if with_symmetry and symbol != "P -1":
        assert len(frame) < 0.75 * len(reflections.hkl)


def test_amplitudes_that_the_group_relates_are_one(symbol: str):
    made = crystal(symbol)
    reflections = Reflections.of(PhaseProblem.from_crystal(made, D_MIN))
    asu = gemmi.ReciprocalAsu(gemmi.SpaceGroup(symbol))
    group = gemmi.SpaceGroup(symbol).operations()
    classes = {tuple(asu.to_asu(h, group)[0]) for h in reflections.hkl.tolist()}
    assert len(Frame(reflections, operations(symbol))) == len(classes)


def test_distances_are_those_of_pymatgen(symbol: str):
    made = crystal(symbol)
    model = true_model(made, Frame(Reflections.of(PhaseProblem.from_crystal(made, D_MIN)), operations(symbol)))
    matrix = made.to_pymatgen().distance_matrix
    np.fill_diagonal(matrix, np.inf)
    assert model.distances().shape == (3, len(model.frame.rotations), 3)
    assert model.distances().min() == pytest.approx(matrix.min(), abs=1e-6)


def test_distances_in_a_primitive_cell():
    """Rock salt, where half an edge in each coordinate is not half of the shortest way."""
    a = 5.64
    cell = (a / np.sqrt(2),) * 3 + (60, 60, 60)
    salt = Crystal(cell=cell, numbers=np.array([11, 17]), positions=np.array([[0, 0, 0], [0.5, 0.5, 0.5]]))
    reflections = Reflections.of(PhaseProblem.from_crystal(salt.with_default_u_iso(U_ISO), D_MIN))
    model = AtomModel(
        Frame(reflections, P1), salt.positions, salt.numbers.astype(float), np.full(2, B), np.ones(2),
        np.zeros((2, 3, 3)),
    )  # fmt: skip
    want = [[a / np.sqrt(2), a / 2], [a / 2, a / np.sqrt(2)]]
    np.testing.assert_allclose(model.distances()[:, 0], want, atol=1e-6)
    assert AtomModel.without_atoms(model.frame).distances().size == 0


def test_derivatives_are_those_of_the_cost():
    made = crystal("P 21 21 21")
    reflections = Reflections.of(PhaseProblem.from_crystal(made, D_MIN))
    rng = np.random.default_rng(0)
    model = true_model(made, Frame(reflections, operations("P 21 21 21")))
    off = rng.normal(0, 0.01, model.positions.shape)
    # electrons between whole numbers, where form factors have a slope
    model = replace(
        model, positions=model.positions + off, electrons=model.electrons + 0.4, b=model.b + np.array([0.1, 0.2, 0.3])
    )
    _, right = model._equations()
    step = 1e-5
    for i in range(len(right)):
        move = np.zeros(len(right))
        move[i] = step
        slope = (model._moved(move)._penalised() - model._moved(-move)._penalised()) / (2 * step)
        assert slope == pytest.approx(-2 * right[i], rel=2e-2, abs=2e-3 * abs(right).max()), i


def test_atoms_near_their_places_are_led_there():
    made = crystal("P n m a")
    reflections = Reflections.of(PhaseProblem.from_crystal(made, D_MIN))
    true = true_model(made, Frame(reflections, operations("P n m a")))
    rng = np.random.default_rng(1)
    start = replace(
        true,
        positions=true.positions + rng.normal(0, 0.12, (3, 3)) / made.cell[:3],
        electrons=np.array([20.0, 20.0, 5.0]),
        b=np.full(3, 1.0),
        scale=1.2,
    )
    found = start.refined(30, 1e-6)
    assert start.misfit > 0.05
    assert found.misfit < 1e-5
    for atom, place in zip(found.positions, true.positions, strict=True):
        assert found.frame.length(found.frame.images(atom) - place).min() < 0.01
    # scale and electrons go together: only their ratios are certain
    np.testing.assert_allclose(found.electrons / found.electrons[0], true.electrons / true.electrons[0], rtol=0.15)


def test_a_scale_of_their_own_is_fitted_with_the_amplitudes():
    made = crystal("P n m a")
    problem = PhaseProblem.from_crystal(made, D_MIN)
    scaled = PhaseProblem.of(
        made.cell, Reflections.of(problem).hkl, 40 * Reflections.of(problem).amplitude, d_min=D_MIN
    )
    reflections = Reflections.of(scaled)
    true = true_model(made, Frame(reflections, operations("P n m a")))
    assert true.misfit > 0.5
    found = replace(true, scale=25.0).refined(30, 1e-6)
    assert found.misfit < 1e-5


def test_peaks_near_special_positions_settle_there():
    made = crystal("P n m a")
    reflections = Reflections.of(PhaseProblem.from_crystal(made, D_MIN))
    frame = Frame(reflections, operations("P n m a"))
    place, keeping, free = frame.settled(np.array([0.2, 0.24, 0.3]))
    assert place[1] == pytest.approx(0.25)
    assert (keeping, np.linalg.matrix_rank(free)) == (2, 2)
    assert abs(free[1]).max() < 1e-9
    place, keeping, free = frame.settled(np.array([0.01, -0.02, 0.51]))
    assert place == pytest.approx([0, 0, 0.5])
    assert (keeping, free.any()) == (2, False)
    place, keeping, free = frame.settled(np.array([0.2, 0.08, 0.3]))
    assert (keeping, np.linalg.matrix_rank(free)) == (1, 3)
    # its image is too far to be the same atom, and too near to be another
    assert frame.settled(np.array([0.2, 0.25 - 0.42 / made.cell[1], 0.3])) is None


def test_parameters_are_counted_and_the_criterion_asks_for_what_they_gain():
    made = crystal("P n m a")
    reflections = Reflections.of(PhaseProblem.from_crystal(made, D_MIN))
    model = true_model(made, Frame(reflections, operations("P n m a")))
    assert model.parameters == pytest.approx(2 + 3 * 4.5)
    assert model.share() == pytest.approx(model.parameters / len(model.frame))
    fewer = model.only(np.array([0, 1]))
    assert fewer.parameters < model.parameters
    assert fewer.criterion() > model.criterion()
    # an atom of next to no electrons gains nothing, and counts for more than one
    weak = model.extended(np.exp(1j * np.arange(len(reflections.hkl))), 1, 0.5)
    assert len(weak) == 4
    weak = replace(weak, electrons=np.append(model.electrons, 0.01))
    assert weak.parameters > model.parameters + 6
    assert weak.criterion() > model.criterion()
    assert AtomModel.without_atoms(model.frame).criterion() == np.inf


def test_what_sigma_says_is_no_misfit():
    made = crystal("P n m a")
    clean = PhaseProblem.from_crystal(made, D_MIN)
    held = Reflections.of(clean)
    rng = np.random.default_rng(3)
    sigma = 0.05 * np.sqrt((held.amplitude**2).mean()) * np.ones(len(held.hkl))
    noisy = np.maximum(held.amplitude + rng.normal(0, sigma), 0)
    misfits = []
    for known in (None, sigma):
        problem = PhaseProblem.of(made.cell, held.hkl, noisy, d_min=D_MIN, sigma=known)
        reflections = Reflections.of(problem)
        misfits.append(true_model(made, Frame(reflections, P1)).misfit)
    assert misfits[0] > 1.5e-3
    assert misfits[1] < 0.35 * misfits[0]
