"""The symmetry found in maps: against gemmi's operations, and the laws that a group obeys."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
import torch

from phaseray.crystal import Crystal
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.phasing.problem import PhaseProblem, density_of, unit
from phaseray.phasing.symmetry import AmplitudeSymmetry, Group, closed, lattice_rotations

CELLS = {
    "P -1": (5.1, 6.2, 7.3, 83, 97, 104),
    "P 21": (5.1, 6.2, 7.3, 90, 104, 90),
    "C 1 2/c 1": (9.1, 5.3, 6.9, 90, 108, 90),
    "P 21 21 21": (5.1, 6.2, 7.3, 90, 90, 90),
    "P n m a": (7.6, 5.4, 6.1, 90, 90, 90),
    "I 41/a m d": (5.9, 5.9, 8.3, 90, 90, 90),
    "R -3 c": (5.9, 5.9, 12.3, 90, 90, 120),
    "P 63/m m c": (5.5, 5.5, 8.1, 90, 90, 120),
    "P 21 3": (6.4, 6.4, 6.4, 90, 90, 90),
    "F d -3 m": (8.4, 8.4, 8.4, 90, 90, 90),
}
HOLOHEDRIES = {"P -1": 2, "P 21": 4, "P n m a": 8, "I 41/a m d": 16, "R -3 c": 24, "P 63/m m c": 24, "F d -3 m": 48}


def crystal(symbol: str, seed: int = 0) -> Crystal:
    """Three atoms in general positions and what the group makes of them, far apart enough or not."""
    group = gemmi.SpaceGroup(symbol)
    rng = np.random.default_rng(seed)
    seeds, numbers = rng.random((3, 3)), [26, 16, 8]
    positions, kinds = [], []
    for x, z in zip(seeds, numbers, strict=True):
        images = np.array([op.apply_to_xyz(list(x)) for op in group.operations()]) % 1
        positions.append(images)
        kinds += [z] * len(images)
    n = len(kinds)
    return Crystal(
        np.array(CELLS[symbol], float), np.array(kinds), np.concatenate(positions), occupancy=np.ones(n),
        u_iso=np.full(n, 0.02), id=symbol, source="test",
    )  # fmt: skip


def moved(f: torch.Tensor, shape: tuple[int, int, int], x: tuple[float, float, float]) -> torch.Tensor:
    """F of the same crystal with its origin elsewhere."""
    h, k = (np.fft.fftfreq(n, 1 / n) for n in shape[:2])
    H = np.stack(np.meshgrid(h, k, np.arange(shape[2] // 2 + 1), indexing="ij"), -1)
    return f * torch.as_tensor(np.exp(2j * np.pi * (H @ np.array(x))).astype(np.complex64))


def problem_and_f(symbol: str) -> tuple[PhaseProblem, torch.Tensor]:
    made = crystal(symbol)
    problem = PhaseProblem.from_crystal(made, 1.2)
    f = torch.as_tensor(structure_factor_grid(made, problem.shape, 1.2 * (1 - 1e-6))) * problem.measured
    return problem, moved(f, problem.shape, (0.137, 0.241, 0.373))


@pytest.mark.parametrize("symbol", HOLOHEDRIES)
def test_rotations_of_the_lattice_are_its_holohedry(symbol: str) -> None:
    rotations = lattice_rotations(np.array(CELLS[symbol], float))
    assert len(rotations) == HOLOHEDRIES[symbol]
    orth = np.array(gemmi.UnitCell(*CELLS[symbol]).orth.mat.tolist())
    metric = orth.T @ orth
    for r in rotations:
        np.testing.assert_allclose(r.T @ metric @ r, metric, atol=1e-9)


@pytest.mark.parametrize("symbol", CELLS)
def test_the_space_group_is_found_about_any_origin(symbol: str) -> None:
    problem, f = problem_and_f(symbol)
    symmetry = AmplitudeSymmetry(problem)
    operations = gemmi.SpaceGroup(symbol).operations()
    assert len(symmetry.centrings) == len(operations.cen_ops)
    laue = gemmi.SpaceGroup(symbol).operations()
    laue.add_inversion()
    assert len(symmetry.rotations) == len(laue.sym_ops)
    (group,) = symmetry.groups(f, (0.99,))
    expected = {tuple(np.array(op.rot).ravel() // gemmi.Op.DEN) for op in operations.sym_ops}
    assert {tuple(r.ravel()) for r in group.rotations} == expected
    # the true map is its own mean, and any pair of rotations has one that shows
    assert float((symmetry.projection(group)(f) - f).abs().max()) < 1e-3 * float(f.abs().max())
    assert symmetry.shown(f[None])[0] > 0.999


@pytest.mark.parametrize("symbol", ["P 21 21 21", "I 41/a m d", "F d -3 m"])
def test_products_of_the_operations_are_operations(symbol: str) -> None:
    problem, f = problem_and_f(symbol)
    symmetry = AmplitudeSymmetry(problem)
    (group,) = symmetry.groups(f, (0.99,))
    number = {r.tobytes(): i for i, r in enumerate(group.rotations)}
    for r1, t1 in zip(group.rotations, group.translations, strict=True):
        for r2, t2 in zip(group.rotations, group.translations, strict=True):
            off = t1 + r1 @ t2 - group.translations[number[(r1 @ r2).tobytes()]] - symmetry.centrings
            assert abs(off - np.rint(off)).max(1).min() < 1e-6


@pytest.mark.parametrize("symbol", ["P -1", "P n m a", "P 21 3", "R -3 c"])
def test_the_mean_over_the_group_is_nearer_to_the_truth(symbol: str) -> None:
    problem, f = problem_and_f(symbol)
    generator = torch.Generator().manual_seed(1)
    # errors with Friedel's law: the phases of real noise, a share of them
    noise = torch.fft.rfftn(torch.randn(problem.shape, generator=generator), norm="forward")
    wrong = problem.amplitude * unit(unit(f) + 0.5 * unit(noise))
    symmetry = AmplitudeSymmetry(problem)
    group = symmetry.groups(wrong, (0.6,))[0]
    assert len(group) == len(gemmi.SpaceGroup(symbol).operations().sym_ops)
    project = symmetry.projection(group)
    mean = project(wrong)
    torch.testing.assert_close(project(mean), mean, atol=1e-3 * float(mean.abs().max()), rtol=0)

    def cc(g: torch.Tensor) -> float:
        a, b = density_of(problem.amplitude * unit(g), problem.shape), density_of(f, problem.shape)
        return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])

    assert cc(mean) > cc(wrong) + 0.3 * (1 - cc(wrong))
    batch = torch.stack([wrong, f])
    torch.testing.assert_close(project(batch)[0], mean)


@pytest.mark.parametrize("symbol", ["P 21", "P n m a", "I 41/a m d", "R -3 c", "P 21 3", "P 21 21 21"])
def test_a_group_is_placed_where_the_map_has_it(symbol: str) -> None:
    problem, f = problem_and_f(symbol)
    symmetry = AmplitudeSymmetry(problem)
    ops = gemmi.SpaceGroup(symbol).operations()
    rotations = np.array([op.rot for op in ops.sym_ops]) // gemmi.Op.DEN
    group = Group(rotations, np.array([op.tran for op in ops.sym_ops]) / gemmi.Op.DEN)
    for hand in (f, f.conj().resolve_conj()):
        found, correlation = symmetry.placed(hand, group)
        assert correlation > 0.999
        project = symmetry.projection(found)
        torch.testing.assert_close(project(hand), hand, atol=2e-3 * float(f.abs().max()), rtol=0)
    random = problem.amplitude * problem.random_phases(1, 0)[0]
    assert symmetry.placed(random, group)[1] < 0.7


def test_nothing_is_placed_for_the_identity() -> None:
    problem, f = problem_and_f("P -1")
    alone = Group(np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)))
    assert AmplitudeSymmetry(problem).placed(f, alone) == (alone, 1.0)


def test_a_map_fits_the_group_that_it_has_and_no_other() -> None:
    problem, f = problem_and_f("P n m a")
    symmetry = AmplitudeSymmetry(problem)
    groups = []
    for symbol in ("P n m a", "P m m n", "P b c n"):  # all of the same rotations
        ops = gemmi.SpaceGroup(symbol).operations().sym_ops
        rotations = np.array([op.rot for op in ops]) // gemmi.Op.DEN
        groups.append(Group(rotations, np.array([op.tran for op in ops]) / gemmi.Op.DEN))
    random = problem.amplitude * problem.random_phases(1, 0)[0]
    maps = torch.stack([f, random, f.conj().resolve_conj()])
    fits = symmetry.fits(maps, groups)
    assert (fits[[0, 2]] > 0.999).all()
    assert fits[1] < 0.7
    assert (symmetry.fits(maps, groups[1:]) < 0.9).all()
    assert fits[1] == pytest.approx(max(symmetry.placed(random, group)[1] for group in groups))
    assert symmetry.fits(maps, []).tolist() == [1, 1, 1]
    alone = Group(np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)))
    assert symmetry.fits(maps, [groups[1], alone]).tolist() == [1, 1, 1]


def test_a_map_of_either_hand_fits_a_group_without_a_centre() -> None:
    problem, f = problem_and_f("P 21 3")
    ops = gemmi.SpaceGroup("P 21 3").operations().sym_ops
    rotations = np.array([op.rot for op in ops]) // gemmi.Op.DEN
    group = Group(rotations, np.array([op.tran for op in ops]) / gemmi.Op.DEN)
    fits = AmplitudeSymmetry(problem).fits(torch.stack([f, f.conj().resolve_conj()]), [group])
    assert (fits > 0.999).all()


def test_random_phases_show_no_symmetry() -> None:
    problem, _ = problem_and_f("P n m a")
    symmetry = AmplitudeSymmetry(problem)
    random = problem.amplitude * problem.random_phases(2, 0)
    assert symmetry.shown(random).max() < 0.6
    assert symmetry.groups(random[0], (0.85,)) == []


def test_a_crystal_without_symmetry_has_none() -> None:
    rng = np.random.default_rng(3)
    made = Crystal(np.array([5.1, 6.2, 7.3, 83, 97, 104.0]), np.array([26, 16, 8, 8]), rng.random((4, 3)),
                   occupancy=np.ones(4), u_iso=np.full(4, 0.02), id="p1", source="test")  # fmt: skip
    problem = PhaseProblem.from_crystal(made, 1.2)
    f = torch.as_tensor(structure_factor_grid(made, problem.shape, 1.2 * (1 - 1e-6))) * problem.measured
    symmetry = AmplitudeSymmetry(problem)
    assert len(symmetry.rotations) == 2
    assert symmetry.groups(f, (0.9,)) == []
    assert symmetry.shown(f[None])[0] == 1


def test_translations_that_are_a_little_off_are_made_a_group_again() -> None:
    operations = gemmi.SpaceGroup("I 41/a m d").operations()
    rotations = np.array([np.array(op.rot) // gemmi.Op.DEN for op in operations.sym_ops])
    exact = np.array([np.array(op.tran) / gemmi.Op.DEN for op in operations.sym_ops])
    centrings = np.array([np.array(c) / gemmi.Op.DEN for c in operations.cen_ops])
    rng = np.random.default_rng(0)
    every = list(range(1, len(rotations)))
    off = exact + rng.normal(0, 0.01, exact.shape)
    found = closed(rotations, off, every, centrings)
    assert found is not None
    # the same group about a nearby origin: t' = t + (1 - R) x
    x = np.linalg.lstsq(np.concatenate(np.eye(3) - rotations), (found - exact).ravel(), rcond=None)[0]
    np.testing.assert_allclose(found, exact + (np.eye(3) - rotations) @ x, atol=1e-9)
    assert closed(rotations, exact + rng.normal(0, 0.2, exact.shape), every, centrings) is None
