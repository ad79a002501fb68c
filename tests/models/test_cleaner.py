import torch

from phaseray.config import CleanerConfig
from phaseray.models import build_model
from phaseray.models.cleaner import CONDITIONS, DensityCleaner, _blocks_to_channels, _channels_to_blocks


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
