"""The network that cleans a density map: a U-Net whose finest level works on blocks of 2 x 2 x 2 voxels.

Legend: B crystals, C channels, D H W the sides of the grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CONDITIONS", "DensityCleaner"]

CONDITIONS = 2
"""Numbers that the network is told beside the maps: see `phasing.network.condition`."""
_GROUPS = 8
_EMBEDDING = 16


class DensityCleaner(nn.Module):
    """Residual U-Net for periodic maps with sides that are multiples of 4.

    A map that holds nothing beyond d_min needs little more than two voxels a d_min, so nothing is lost by laying the
    eight voxels of each 2 x 2 x 2 block into channels (pixel unshuffle), and convolutions are many times cheaper
    on the grid of blocks: on a CPU twice the width costs what a plain U-Net costs at full resolution. Padding is
    periodic everywhere: a translation of the input by a multiple of 4 voxels translates the output.

    Parameters
    ----------
    width : channels on the grid of blocks; a multiple of 8
    deep_width : channels one level below (4 x 4 x 4 voxels); a multiple of 8
    blocks : residual blocks before, at and after the deep level
    channels_in : maps that are read, of those that are given the first
    channels_out : maps that are made
    """

    def __init__(
        self,
        width: int = 64,
        deep_width: int = 128,
        blocks: tuple[int, int, int] = (2, 2, 2),
        *,
        channels_in: int = 2,
        channels_out: int = 1,
    ) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.embedding = nn.Sequential(nn.Linear(CONDITIONS, _EMBEDDING), nn.SiLU())
        self.stem = _convolution(8 * channels_in, width)
        self.encoder = nn.ModuleList(_Residual(width) for _ in range(blocks[0]))
        self.down = nn.Conv3d(width, deep_width, 2, stride=2)
        self.deep = nn.ModuleList(_Residual(deep_width) for _ in range(blocks[1]))
        self.up = nn.ConvTranspose3d(deep_width, width, 2, stride=2)
        self.join = nn.Conv3d(2 * width, width, 1)
        self.decoder = nn.ModuleList(_Residual(width) for _ in range(blocks[2]))
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.head = _convolution(width, 8 * channels_out)

    def forward(self, x_BCDHW: Tensor, condition_BK: Tensor) -> Tensor:
        """(B, ≥ channels_in, D, H, W) and (B, CONDITIONS) to (B, channels_out, D, H, W); D, H, W multiples of 4."""
        e_BE = self.embedding(condition_BK)
        h = self.stem(_blocks_to_channels(x_BCDHW[:, : self.channels_in]))
        for block in self.encoder:
            h = block(h, e_BE)
        deep = self.down(h)
        for block in self.deep:
            deep = block(deep, e_BE)
        h = self.join(torch.cat([h, self.up(deep)], 1))
        for block in self.decoder:
            h = block(h, e_BE)
        return _channels_to_blocks(self.head(functional.silu(self.norm(h))))


class _Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))) + condition)); the last convolution starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, width)
        self.conv1 = _convolution(width, width)
        self.norm2 = nn.GroupNorm(_GROUPS, width)
        self.conv2 = _convolution(width, width)
        self.condition = nn.Linear(_EMBEDDING, width)
        nn.init.zeros_(self.conv2.weight)
        if self.conv2.bias is not None:
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, e_BE: Tensor) -> Tensor:
        h = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        h = h + self.condition(e_BE)[:, :, None, None, None]
        y: Tensor = x + self.conv2(functional.silu(h))
        return y


class _PeriodicConvolution(nn.Conv3d):
    """3 x 3 x 3, padded periodically."""

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cuda:
            return functional.conv3d(_padded(input), self.weight, self.bias)
        return super().forward(input)


class _Padded(torch.autograd.Function):
    """One more layer of voxels on every side, from the opposite one.

    What PyTorch pads with copies side by side, forward and back, in thirty kernels; on a GPU most of a step of
    training would go by in starting them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        d, h, w = (torch.arange(-1, n + 1, device=x.device) % n for n in x.shape[2:])
        return x[:, :, d[:, None, None], h[:, None], w]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        for axis in (2, 3, 4):
            n = gradient.shape[axis] - 2
            inner = gradient.narrow(axis, 1, n).clone()
            inner.narrow(axis, n - 1, 1).add_(gradient.narrow(axis, 0, 1))
            inner.narrow(axis, 0, 1).add_(gradient.narrow(axis, n + 1, 1))
            gradient = inner
        return gradient


def _padded(x: Tensor) -> Tensor:
    y: Tensor = _Padded.apply(x)  # type: ignore[no-untyped-call]
    return y


def _convolution(channels_in: int, channels_out: int) -> nn.Conv3d:
    return _PeriodicConvolution(channels_in, channels_out, 3, padding=1, padding_mode="circular")


def _blocks_to_channels(x: Tensor) -> Tensor:
    """(B, C, 2D, 2H, 2W) to (B, 8C, D, H, W)."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c, d // 2, 2, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, 8 * c, d // 2, h // 2, w // 2)


def _channels_to_blocks(x: Tensor) -> Tensor:
    """The inverse of `_blocks_to_channels`."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c // 8, 2, 2, 2, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // 8, 2 * d, 2 * h, 2 * w)
