import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from phaseray.crystal import Crystal, orthogonalization_matrix
from phaseray.diffraction.ambiguity import move_origin
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.evaluation.metrics import align, correlation_maps, pearson
from phaseray.evaluation.peaks import atoms_found, distinct_sites, find_peaks, moved_onto
from phaseray.evaluation.periodic import distance_from_origin, distances, shortest
from phaseray.sources import prototypes

TRICLINIC = (7.0, 8.0, 9.0, 75.0, 100.0, 118.0)
SKEWED = (12.0, 6.0, 6.0, 60.0, 35.0, 40.0)
SHAPE = (20, 24, 24)


def gaussians(cell, shape, positions, heights, sigma=0.45):
    """Σ height · exp(-r²/2σ²), nearest images: (nx, ny, nz)."""
    points = np.stack(np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij"), -1)
    return sum(
        z * np.exp(-0.5 * (shortest(points - x, cell) / sigma) ** 2) for x, z in zip(positions, heights, strict=True)
    )


def map_of(f):
    """(nx, ny, nz) of a half grid of F."""
    return fft.irfftn(f.conj(), s=(*f.shape[:2], 2 * (f.shape[2] - 1)))


def _crystal():
    positions = spread_positions(np.random.default_rng(6), 6, TRICLINIC, 1.8)
    return Crystal(cell=TRICLINIC, numbers=[8, 7, 6, 6, 6, 6], positions=positions, u_iso=np.full(6, 0.02))


def spread_positions(rng, n, cell, least):
    chosen = []
    while len(chosen) < n:
        x = rng.random(3)
        if not chosen or distances([x], chosen, cell).min() > least:
            chosen.append(x)
    return np.array(chosen)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.tuples(*[st.floats(3, 12)] * 3),
    angles=st.sampled_from([(90, 90, 90), (60, 35, 40), (118, 75, 100), (20, 30, 25), (150, 100, 100)]),
    seed=st.integers(0, 10_000),
)
def test_shortest_is_the_least_over_very_many_images(lengths, angles, seed):
    cell = (*lengths, *angles)
    delta = np.random.default_rng(seed).uniform(-3, 3, 3)
    images = np.stack(np.meshgrid(*[np.arange(-14, 15)] * 3, indexing="ij"), -1).reshape(-1, 3)
    by_hand = np.linalg.norm((delta + images) @ orthogonalization_matrix(cell).T, axis=1).min()
    assert shortest(delta, cell) <= by_hand + 1e-9
    if min(angles) > 30:
        assert shortest(delta, cell) == pytest.approx(by_hand, abs=1e-9)


def test_distance_from_origin_is_even_and_nought_at_the_origin():
    d = distance_from_origin(SKEWED, (8, 6, 6))
    assert d[0, 0, 0] == 0
    np.testing.assert_allclose(d, align(d, (0, 0, 0), True))


def test_peaks_stand_on_gaussian_atoms_in_a_triclinic_cell():
    rng = np.random.default_rng(2)
    positions = spread_positions(rng, 8, TRICLINIC, 2.0)
    heights = np.linspace(8, 3, 8)
    peaks = find_peaks(gaussians(TRICLINIC, SHAPE, positions, heights), TRICLINIC, 8)
    apart = distances(peaks.positions, positions, TRICLINIC)
    np.testing.assert_array_equal(apart.argmin(1), np.arange(8))  # strongest first
    assert apart.min(1).max() < 0.05
    assert (peaks.positions >= 0).all()
    assert (peaks.positions < 1).all()


def test_a_constant_map_has_no_peaks_and_a_plateau_one():
    assert len(find_peaks(np.ones((6, 6, 6)), (5, 5, 5, 90, 90, 90), 4).heights) == 0
    rho = np.zeros((12, 12, 12))
    rho[5:7, 5, 5] = 1
    assert len(find_peaks(rho, (4, 4, 4, 90, 90, 90), 4).heights) == 1


@pytest.mark.parametrize("cell", [TRICLINIC, SKEWED])
@pytest.mark.parametrize("inverted", [False, True])
def test_all_atoms_are_found_wherever_the_map_was_moved(cell, inverted):
    rng = np.random.default_rng(5)
    positions = spread_positions(rng, 6, cell, 1.8)
    truth = gaussians(cell, SHAPE, positions, [8, 7, 6, 6, 6, 6])
    match = atoms_found(align(truth, (3, 17, 9), inverted), truth, cell, positions, [8, 7, 6, 6, 6, 6])
    assert (match.recall, match.found, match.n_atoms) == (1.0, 6, 6)
    assert match.rms < 0.06


def test_a_shift_between_grid_points_costs_nothing():
    rng = np.random.default_rng(6)
    positions = spread_positions(rng, 6, TRICLINIC, 1.8)
    heights = [8, 7, 6, 6, 6, 6]
    truth = gaussians(TRICLINIC, SHAPE, positions, heights)
    moved = gaussians(TRICLINIC, SHAPE, positions + np.array([0.5 / 20, 3.4 / 24, 0.45 / 24]), heights)
    assert atoms_found(moved, truth, TRICLINIC, positions, heights).rms < 0.06


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("shift", [(0, 0, 0), (0.5 / 20, 3.4 / 24, 0.45 / 24), (0.137, 0.52, 0.911)])
def test_a_map_is_moved_onto_another_between_grid_points(shift, inverted):
    crystal = _crystal()
    f = structure_factor_grid(crystal, SHAPE, 1.2)
    truth, elsewhere = map_of(f), map_of(move_origin(f.conj() if inverted else f, shift))
    moved = moved_onto(elsewhere, truth)
    assert pearson(moved, truth) > 0.9995 >= 0.999 * correlation_maps(elsewhere, truth).max()


def test_atoms_found_do_not_depend_on_where_the_origin_was():
    # cristobalite at 2.0 Å: 29 amplitudes for 6 atoms, whose fit fails at some origins
    crystal = prototypes.prototype(prototypes.names().index("aflow/A2B_cF24_227_c_a-O2Si")).with_default_u_iso(0.02)
    atoms = (crystal.cell, crystal.positions, crystal.numbers)
    f = structure_factor_grid(crystal, (16, 16, 16), 2.0)
    truth = map_of(f)
    for shift in [(0, 0, 0), (0.1, 0.2, 0.3), (0.5, 0.5, 0.5), (0.03, 0.41, 0.77)]:
        match = atoms_found(map_of(move_origin(f, shift)), truth, *atoms, d_min=2.0)
        assert match.recall == 1, shift


def test_half_an_angstrom_is_in_angstrom_and_not_in_fractions_of_the_cell():
    # one heavy atom fixes the origin; a second is off by 0.4 or 0.6 Å along an edge of 3 or of 30 Å
    for edge, off, expected in [(30.0, 0.4, 1.0), (30.0, 0.6, 0.5), (4.0, 0.4, 1.0), (4.0, 0.6, 0.5)]:
        cell = (edge, 5.0, 5.0, 90, 90, 90)
        shape = (round(edge * 4), 20, 20)
        atoms = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
        wrong = atoms + np.array([[0, 0, 0], [off / edge, 0, 0]])
        truth = gaussians(cell, shape, atoms, [50, 6])
        assert atoms_found(gaussians(cell, shape, wrong, [50, 6]), truth, cell, atoms, [50, 6]).recall == expected


def test_each_atom_is_matched_once():
    cell = (8.0, 8.0, 8.0, 90, 90, 90)
    atoms = np.array([[0.25, 0.25, 0.25], [0.75, 0.75, 0.75]])
    truth = gaussians(cell, (24, 24, 24), atoms, [6, 6])
    pair = gaussians(cell, (24, 24, 24), [[0.21, 0.25, 0.25], [0.31, 0.25, 0.25]], [6, 6], sigma=0.25)
    assert atoms_found(pair, truth, cell, atoms, [6, 6]).found <= 1


def test_hydrogen_is_left_out_and_shared_sites_count_once():
    positions = [[0, 0, 0], [0.0, 0.0, 0.999], [0.5, 0.5, 0.5], [0.3, 0.3, 0.3]]
    assert len(distinct_sites((10, 10, 10, 90, 90, 90), positions, [26, 27, 8, 1])) == 2
    rho = np.random.default_rng(0).random((8, 8, 8))
    match = atoms_found(rho, rho, (5, 5, 5, 90, 90, 90), [[0, 0, 0]], [1])
    assert (match.recall, match.rms, match.n_atoms) == (None, None, 0)


def test_a_constant_prediction_finds_no_atom():
    positions = [[0.1, 0.2, 0.3]]
    truth = gaussians(TRICLINIC, (8, 8, 8), positions, [6])
    match = atoms_found(np.full((8, 8, 8), 0.1, np.float32), truth, TRICLINIC, positions, [6])
    assert (match.recall, match.rms) == (0.0, None)
