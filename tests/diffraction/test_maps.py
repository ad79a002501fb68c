"""Maps against the laws of Fourier synthesis: electron count, Parseval, sign, autocorrelation."""

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose

from phaseray import Crystal, backend, density
from phaseray.diffraction import maps
from phaseray.diffraction.structure_factors import structure_factor_grid
from tests.strategies import CELLS, crystals, random_crystal

SHAPE = (20, 24, 27)  # an odd side too


def full_sum(half: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Σ over the whole grid of a real quantity given on the half with l ≥ 0 (no Nyquist planes)."""
    return float(2 * half.sum() - half[..., 0].sum())


@given(crystals)
@settings(max_examples=25, deadline=None)
def test_electron_count(crystal: Crystal) -> None:
    """The mean density times the volume is the number of electrons, to 1e-5."""
    rho = density(crystal, SHAPE, 1.0)
    assert rho.shape == SHAPE
    assert rho.dtype == np.float32
    assert_allclose(rho.mean(dtype=float) * crystal.volume, crystal.n_electrons, rtol=1e-5)


@given(crystals)
@settings(max_examples=25, deadline=None)
def test_parseval(crystal: Crystal) -> None:
    f = structure_factor_grid(crystal, SHAPE, 1.0)
    rho = maps.density_from_half_grid(f, SHAPE, crystal.volume)
    real = (rho.astype(float) ** 2).mean() * crystal.volume
    assert_allclose(real, full_sum(np.abs(f.astype(complex)) ** 2, SHAPE) / crystal.volume, rtol=1e-5)


@given(crystals)
@settings(max_examples=25, deadline=None)
def test_there_and_back(crystal: Crystal) -> None:
    f = structure_factor_grid(crystal, SHAPE, 1.0)
    rho = maps.density_from_half_grid(f, SHAPE, crystal.volume)
    assert_allclose(maps.half_grid_from_density(rho, crystal.volume), f, atol=1e-5 * crystal.n_electrons)


def test_peaks_stand_on_the_atoms_of_a_chiral_cell() -> None:
    """The sign convention: with the other sign the peaks stand at -x."""
    positions = np.array([[0.1, 0.2, 0.3], [0.4, 0.15, 0.6], [0.7, 0.8, 0.25], [0.35, 0.6, 0.9]])
    crystal = Crystal(
        cell=[7.0, 8.0, 9.0, 80.0, 95.0, 105.0], numbers=[26, 26, 26, 26], positions=positions, u_iso=[0.01] * 4
    )
    shape = (40, 40, 40)
    rho = density(crystal, shape, 0.9)
    at = np.round(positions * 40).astype(int)
    on, opposite = rho[tuple(at.T)], rho[tuple((-at % 40).T)]
    assert on.min() > 20
    assert opposite.max() < 5


def test_density_is_the_sum_that_the_books_write() -> None:
    """ρ(x) = (1/V) Σ F exp(-2πi h·x), term by term, at a few points."""
    from tests.strategies import indices_of

    crystal = random_crystal(CELLS["triclinic"], seed=1)
    shape = (12, 12, 12)
    f = structure_factor_grid(crystal, shape, 1.4).reshape(-1).astype(complex)
    hkl = indices_of(shape)
    weight = np.where(hkl[:, 2] == 0, 1, 2)  # Friedel mates of l > 0
    rho = density(crystal, shape, 1.4)
    for point in [(0, 0, 0), (3, 5, 7), (11, 1, 2)]:
        x = np.array(point) / shape
        expected = (weight * f * np.exp(-2j * np.pi * (hkl @ x))).real.sum() / crystal.volume
        assert_allclose(rho[point], expected, atol=1e-4)


def test_patterson_is_the_autocorrelation_of_the_density() -> None:
    crystal = random_crystal(CELLS["monoclinic"], seed=2, n=5)
    f = structure_factor_grid(crystal, SHAPE, 1.2)
    rho = maps.density_from_half_grid(f, SHAPE, crystal.volume).astype(float)
    expected = np.fft.ifftn(np.abs(np.fft.fftn(rho)) ** 2).real * crystal.volume / rho.size
    assert_allclose(maps.patterson(np.abs(f), SHAPE, crystal.volume), expected, atol=1e-4 * expected.max())


def test_zero_phase_map_is_even_and_highest_at_the_origin() -> None:
    from phaseray.diffraction.ambiguity import inverted

    crystal = random_crystal(CELLS["triclinic"], seed=3)
    zero = maps.zero_phase_map(np.abs(structure_factor_grid(crystal, SHAPE, 1.0)), SHAPE, crystal.volume)
    assert zero.argmax() == 0
    assert_allclose(inverted(zero), zero, atol=1e-4)


def test_every_array_module_gives_the_same_maps(xp) -> None:
    crystal = random_crystal(CELLS["triclinic"], seed=4)
    f = structure_factor_grid(crystal, SHAPE, 1.0)
    amplitude = np.abs(f)
    for function, argument in [
        (maps.density_from_half_grid, f),
        (maps.patterson, amplitude),
        (maps.zero_phase_map, amplitude),
    ]:
        expected = function(argument, SHAPE, crystal.volume)
        actual = backend.to_numpy(function(xp.asarray(argument), SHAPE, crystal.volume))
        assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
    rho = maps.density_from_half_grid(f, SHAPE, crystal.volume)
    back = maps.half_grid_from_density(xp.asarray(rho), crystal.volume)
    assert_allclose(backend.to_numpy(back), f, atol=1e-5 * crystal.n_electrons)


def test_maps_of_many_crystals_at_once() -> None:
    several = [random_crystal(CELLS["cubic"], seed=s) for s in range(3)]
    f = np.stack([structure_factor_grid(c, SHAPE, 1.0) for c in several])
    volume = np.array([c.volume for c in several], np.float32)[:, None, None, None]
    together = maps.density_from_half_grid(f, SHAPE, volume)
    for i, crystal in enumerate(several):
        assert_allclose(together[i], density(crystal, SHAPE, 1.0), atol=1e-4)


@pytest.mark.parametrize("system", CELLS)
def test_density_does_not_depend_on_the_grid(system: str) -> None:
    """A finer grid holds the same function: every second point of it is the coarse grid."""
    crystal = random_crystal(CELLS[system], seed=5)
    coarse, fine = density(crystal, (20, 20, 20), 1.0), density(crystal, (40, 40, 40), 1.0)
    assert_allclose(fine[::2, ::2, ::2], coarse, atol=1e-4)


@pytest.mark.parametrize("d_min", [1.6, 0.5])
@pytest.mark.parametrize("system", ["triclinic", "cubic"])
def test_matrix_products_and_fft_give_the_same_density(xp, system: str, d_min: float) -> None:
    """1.6 Å leaves most of the grid empty, 0.5 Å fills it."""
    crystal = random_crystal(CELLS[system], seed=9)
    f, rho = maps.structure_factors_and_density(crystal, SHAPE, d_min, xp=xp)
    expected = maps.density_from_half_grid(structure_factor_grid(crystal, SHAPE, d_min), SHAPE, crystal.volume)
    assert_allclose(backend.to_numpy(rho), expected, atol=2e-6 * np.abs(expected).max())
    assert_allclose(backend.to_numpy(f), structure_factor_grid(crystal, SHAPE, d_min), atol=1e-6 * crystal.n_electrons)
