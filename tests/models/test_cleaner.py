import torch

from phaseray.config import CleanerConfig
from phaseray.models import build_model
from phaseray.models.cleaner import CONDITIONS, DensityCleaner, _blocks_to_channels, _channels_to_blocks, _padded


def test_blocks_go_to_channels_and_back():
    x = torch.randn(2, 3, 4, 8, 12)
    assert torch.equal(_channels_to_blocks(_blocks_to_channels(x)), x)


def test_a_translation_by_four_voxels_translates_the_output():
    torch.manual_seed(0)
    net = DensityCleaner(16, 16, (1, 1, 1)).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, told = torch.randn(2, 2, 8, 12, 16), torch.randn(2, CONDITIONS)
    shift = (4, 8, -4)
    with torch.no_grad():
        y = net(x, told)
        moved = net(torch.roll(x, shift, (2, 3, 4)), told)
    assert torch.allclose(moved, torch.roll(y, shift, (2, 3, 4)), atol=1e-4 * float(y.abs().max()))


def test_smallest_grid_and_config():
    net = build_model(CleanerConfig(width=16, deep_width=16, blocks=(1, 1, 1)), (8, 8, 8))
    assert net(torch.randn(1, 2, 4, 4, 8), torch.zeros(1, CONDITIONS)).shape == (1, 1, 4, 4, 8)


def test_periodic_padding_in_one_go_is_that_of_pytorch_forwards_and_back():
    x = torch.randn(2, 3, 4, 6, 2, requires_grad=True)
    ours, theirs = _padded(x), torch.nn.functional.pad(x, (1,) * 6, mode="circular")
    assert torch.equal(ours, theirs)
    back = torch.randn_like(ours)
    a, b = (torch.autograd.grad(y, x, back)[0] for y in (ours, theirs))
    assert torch.allclose(a, b, atol=1e-6)


def test_a_network_of_fewer_inputs_leaves_the_others_unread():
    torch.manual_seed(0)
    net = DensityCleaner(16, 16, (1, 1, 1), channels_in=2, channels_out=2)
    x, told = torch.randn(1, 4, 8, 8, 8), torch.zeros(1, CONDITIONS)
    assert torch.equal(net(x, told), net(x[:, :2], told))
    assert net(x, told).shape == (1, 2, 8, 8, 8)
