import math

import numpy as np
import pytest
import torch

from phaseray.config import MlpConfig
from phaseray.models import MLP, build_model


def test_flattens_the_grid_in_and_out():
    model = build_model(MlpConfig(), (4, 4, 6))
    assert model(torch.zeros(3, 1, 4, 4, 6)).shape == (3, 1, 4, 4, 6)


def test_is_two_affine_maps_with_a_relu_between():
    torch.manual_seed(0)
    model = MLP((4, 4, 4), hidden=(5,))
    x = torch.randn(2, 1, 4, 4, 4)
    first, second = model.layers
    expected = torch.relu(x.flatten(1) @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(model(x).flatten(1), expected)


@pytest.mark.parametrize("hidden", [(100,), (30, 20), ()])
def test_starts_as_scikit_learn_does(hidden):
    # sklearn 1.9 _init_coef: uniform in ±sqrt(6 / (fan_in + fan_out)) for weights and biases alike
    torch.manual_seed(1)
    widths = [216, *hidden, 216]
    model = MLP((6, 6, 6), hidden)
    assert [tuple(layer.weight.shape) for layer in model.layers] == list(zip(widths[1:], widths[:-1], strict=True))
    for layer in model.layers:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        values = torch.cat([layer.weight.flatten(), layer.bias]).detach().numpy()
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.99 * bound
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.06)
        assert layer.bias.abs().max() > 0.8 * bound


def test_says_so_when_the_grid_is_another():
    with pytest.raises(ValueError, match="fixed grid"):
        MLP((4, 4, 4))(torch.zeros(1, 1, 4, 4, 6))
