import numpy as np
import pytest
import torch

from phaseray.training.inputs import centred, density_scale, full_grid, network_input, uncentred
from tests.training.memory_data import blobs

SHAPES = [(6, 8, 10), (4, 4, 4), (5, 6, 7)]


def half_of(density):
    return np.abs(np.fft.rfftn(density, axes=(1, 2, 3))).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_grid_is_the_modulus_of_the_whole_transform(shape):
    density = np.random.default_rng(0).normal(size=(3, *shape))
    full = full_grid(torch.tensor(half_of(density)), shape).numpy()
    np.testing.assert_allclose(full, np.abs(np.fft.fftn(density, axes=(1, 2, 3))), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "power"), [("amplitudes", 1), ("intensities", 2)])
def test_the_diffraction_pattern_is_centred_and_lacks_f000(shape, kind, power):
    density = np.random.default_rng(1).normal(size=(2, *shape)) + 3
    x = network_input(kind, torch.tensor(half_of(density)), shape).numpy()[:, 0]
    whole = np.abs(np.fft.fftn(density, axes=(1, 2, 3))) ** power
    whole[:, 0, 0, 0] = 0
    whole = np.fft.fftshift(whole, axes=(1, 2, 3))
    whole /= np.sqrt((whole**2).mean((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(x, whole, rtol=1e-4, atol=1e-5)
    assert (x[:, shape[0] // 2, shape[1] // 2, shape[2] // 2] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_patterson_is_the_autocorrelation_of_the_density(shape):
    density = np.random.default_rng(2).normal(size=(1, *shape))
    density -= density.mean()
    x = uncentred(network_input("patterson", torch.tensor(half_of(density)), shape)[:, 0]).numpy()[0]
    for shift in [(0, 0, 0), (1, 0, 2), (3, 2, 1)]:
        product = (density[0] * np.roll(density[0], shift, (0, 1, 2))).sum()
        assert x[shift] / x[0, 0, 0] == pytest.approx(product / (density**2).sum(), abs=1e-4)


def test_the_zero_phase_map_is_highest_at_the_origin_and_even():
    batch = blobs((8, 8, 8), 3, seed=3)
    x = uncentred(network_input("zero_phase", torch.tensor(batch.amplitude), batch.shape)[:, 0])
    assert (x.flatten(1).argmax(1) == 0).all()
    torch.testing.assert_close(x, x.flip(1, 2, 3).roll((1, 1, 1), (1, 2, 3)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["intensities", "amplitudes", "patterson", "zero_phase"])
def test_neither_the_scale_of_the_measurement_nor_f000_matters(kind):
    batch = blobs((8, 6, 4), 2, seed=4)
    plain = torch.tensor(batch.amplitude)
    other = 7.5 * plain
    other[:, 0, 0, 0] = 1e4
    x = network_input(kind, plain, batch.shape)
    assert x.shape == (2, 1, 8, 6, 4)
    torch.testing.assert_close(x.square().mean((1, 2, 3, 4)), torch.ones(2))
    torch.testing.assert_close(network_input(kind, other, batch.shape), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["intensities", "amplitudes", "patterson", "zero_phase"])
def test_a_crystal_without_reflections_gives_zeros(kind):
    assert (network_input(kind, torch.zeros(1, 4, 4, 3), (4, 4, 4)) == 0).all()


@pytest.mark.parametrize("shape", [(8, 8, 8), (6, 8, 10), (5, 6, 7)])
def test_the_scale_is_the_rms_of_the_density_about_its_mean(shape):
    batch = blobs(shape, 3, seed=5)
    scale = density_scale(torch.tensor(batch.amplitude), shape, torch.tensor(batch.volume))
    np.testing.assert_allclose(scale, batch.density.std((1, 2, 3)), rtol=1e-5)


def test_a_wrong_shape_is_an_error():
    with pytest.raises(ValueError, match="amplitudes of a"):
        network_input("patterson", torch.zeros(1, 4, 4, 4), (4, 4, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_centred_grids_have_their_origin_in_the_middle(shape):
    x = torch.rand(2, *shape)
    assert (centred(x)[:, shape[0] // 2, shape[1] // 2, shape[2] // 2] == x[:, 0, 0, 0]).all()
    torch.testing.assert_close(uncentred(centred(x)), x)
