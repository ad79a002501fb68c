import pytest
import torch
from torch import nn

from phaseray.config import UNetConfig
from phaseray.models import UNet, build_model, parameter_count


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("padding", ["periodic", "zero"])
@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 12, 4), (6, 10, 9), (5, 7, 4)])
def test_gives_back_the_grid_it_was_given(padding, norm, shape):
    model = build_model(UNetConfig(width=4, depth=3, padding=padding, norm=norm), (8, 8, 8))
    y = model(torch.randn(2, 1, *shape))
    assert y.shape == (2, 1, *shape)
    assert torch.isfinite(y).all()


def test_a_grid_smaller_than_the_network_is_deep_is_wrapped_round():
    assert UNet(width=2, depth=5)(torch.randn(1, 1, 4, 6, 4)).shape == (1, 1, 4, 6, 4)


@pytest.mark.parametrize(("depth", "pool"), [(2, "max"), (3, "max"), (3, "avg")])
def test_periodic_translation_commutes_with_the_network(depth, pool):
    model = UNet(width=4, depth=depth, pool=pool).eval()
    step = 2 ** (depth - 1)
    x = torch.randn(2, 1, 8, 12, 16)
    shift = (step, 2 * step, -step)
    moved = model(x.roll(shift, (2, 3, 4)))
    torch.testing.assert_close(moved, model(x).roll(shift, (2, 3, 4)), rtol=1e-4, atol=1e-5)


def test_zero_padding_has_an_edge():
    model = UNet(width=4, depth=2, padding="zero").eval()
    x = torch.randn(1, 1, 8, 8, 8)
    difference = model(x.roll(4, 2)) - model(x).roll(4, 2)
    assert difference.abs().max() > 1e-3


def test_is_the_network_of_the_paper():
    # Çiçek et al. (2016): "19069955 parameters in total", 3 channels in, 3 out, batch norm.
    # Transcribed from their figure 2 by hand: convolutions (in, out), 27 weights a pair and a bias each.
    pairs = [(3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512),
             (256 + 512, 256), (256, 256), (128 + 256, 128), (128, 128), (64 + 128, 64), (64, 64)]  # fmt: skip
    expected = sum(27 * i * o + o + 2 * o for i, o in pairs)  # + 2: batch norm's weight and bias
    expected += sum(8 * c * c + c for c in (512, 256, 128))  # upconvolutions
    expected += 64 * 3 + 3
    model = UNet(width=64, depth=4, padding="zero", norm="batch", channels_in=3, channels_out=3)
    assert parameter_count(model) == expected
    assert expected == pytest.approx(19_069_955, rel=2e-3)


def test_channels_double_before_pooling():
    model = UNet(width=8, depth=3)
    seen = []
    for pair in model.encoder:
        convolutions = [m for m in pair if isinstance(m, nn.Conv3d)]
        seen.append([(c.in_channels, c.out_channels) for c in convolutions])
    assert seen == [[(1, 4), (4, 8)], [(8, 8), (8, 16)], [(16, 16), (16, 32)]]
