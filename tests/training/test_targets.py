"""What densities are divided by to be taught, and the poster's inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phaseray.config import TrainConfig, UNetConfig
from phaseray.training.inputs import network_input, target_scale
from phaseray.training.loop import fit, predict
from phaseray.training.state import TrainingState
from tests.training.memory_data import MemoryData, blobs


@pytest.fixture
def batch():
    return blobs((8, 8, 8), 3, seed=1)


def test_the_scale_of_a_target_is_what_its_name_says(batch):
    amplitude, volume = torch.tensor(batch.amplitude), torch.tensor(batch.volume)
    density = torch.tensor(batch.density)
    sigma = target_scale("sigma", amplitude, batch.shape, volume, None)
    np.testing.assert_allclose(sigma, batch.density.std((1, 2, 3)), rtol=1e-5)  # Parseval
    highest = target_scale("maximum", amplitude, batch.shape, volume, density)
    np.testing.assert_array_equal(highest, batch.density.max((1, 2, 3)))
    np.testing.assert_array_equal(target_scale("absolute", amplitude, batch.shape, volume, None), 1)


def test_intensities_over_their_maximum_keep_their_proportions(batch):
    x = network_input("intensities_over_max", torch.tensor(batch.amplitude), batch.shape)
    assert x.shape == (3, 1, 8, 8, 8)
    np.testing.assert_allclose(x.amax((1, 2, 3, 4)), 1, rtol=1e-6)
    assert float(x[:, 0, 4, 4, 4].abs().max()) == 0  # h = 000
    rms = network_input("intensities", torch.tensor(batch.amplitude), batch.shape)
    np.testing.assert_allclose(x / x[:, :, 4:5, 4:5, 5:6], rms / rms[:, :, 4:5, 4:5, 5:6], rtol=1e-4)


@pytest.mark.parametrize("target", ["sigma", "maximum", "absolute"])
def test_predictions_are_in_electrons_whatever_was_taught(batch, target):
    """A network that is taught the same crystal again and again gives it back in e/Å³."""
    data = MemoryData({"train": [blobs((8, 8, 8), 1, seed=1)], "val": []})
    config = TrainConfig(model=UNetConfig(width=8, depth=2), target=target, learning_rate=1e-2, epochs=80)
    state = fit(TrainingState.fresh(config, data, seed=0), data)
    (crystal,) = data.splits["train"]
    (rho,) = predict(state.to_use, state.meta, [crystal])
    assert np.corrcoef(rho.ravel(), crystal.density.ravel())[0, 1] > 0.9
    assert rho.std() == pytest.approx(crystal.density.std(), rel=0.25)


def test_a_network_taught_by_maxima_has_no_scale_without_the_truth(batch):
    data = MemoryData.of(val=0)
    state = TrainingState.fresh(TrainConfig(model=UNetConfig(width=2, depth=2), target="maximum"), data, seed=0)

    class Measured:
        shape, amplitude, volume = batch.shape, batch.amplitude, batch.volume

    with pytest.raises(ValueError, match="no e/Å³"):
        next(predict(state.model, state.meta, [Measured()]))
