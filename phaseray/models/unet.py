"""3D U-Net, after Çiçek, Abdulkadir, Lienkamp, Brox & Ronneberger (2016), arXiv:1606.06650.

Legend: B crystals, C channels, D H W the sides of the grid.
"""

from __future__ import annotations

from math import gcd
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UNet"]

Padding = Literal["periodic", "zero"]
Norm = Literal["group", "batch", "none"]


class UNet(nn.Module):
    """Encoder, decoder and skips, for grids of any shape.

    Level k hands on width · 2^k channels. As in the paper, the second convolution of a level in
    the encoder doubles the channels, that is before the pooling, so that nothing is squeezed; the
    paper's network is width 64, depth 4, zero padding, batch norm.

    A crystal has no edge, so padding is periodic by default. Then a translation of the input by a
    multiple of 2^(depth - 1) voxels translates the output and changes nothing else. Sides that are
    no multiple of 2^(depth - 1) are first continued to the next multiple (periodically, or with zeros)
    and the output is cut back; translations then hold only approximately, near the seam.

    Batch norm with several workers takes each worker's own statistics.

    Parameters
    ----------
    width : channels at full resolution
    depth : levels, the full-resolution one included
    padding : "periodic" or "zero"
    norm : "group" (4 groups), "batch" or "none"
    pool : "max" (the paper) or "avg"
    channels_in, channels_out
    """

    def __init__(
        self,
        width: int = 16,
        depth: int = 3,
        padding: Padding = "periodic",
        norm: Norm = "group",
        *,
        pool: Literal["max", "avg"] = "max",
        channels_in: int = 1,
        channels_out: int = 1,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (depth - 1)
        self.padding: Padding = padding
        self.pool = pool
        widths = [width * 2**k for k in range(depth)]
        self.encoder = nn.ModuleList(
            _ConvolutionPair(channels_in if k == 0 else widths[k - 1], max(1, widths[k] // 2), widths[k], padding, norm)
            for k in range(depth)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(widths[k + 1], widths[k + 1], 2, stride=2) for k in reversed(range(depth - 1))
        )
        self.decoder = nn.ModuleList(
            _ConvolutionPair(widths[k + 1] + widths[k], widths[k], widths[k], padding, norm)
            for k in reversed(range(depth - 1))
        )
        self.head = nn.Conv3d(width, channels_out, 1)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """(B, channels_in, D, H, W) to (B, channels_out, D, H, W)."""
        sides = x_BCDHW.shape[2:]
        x_BCDHW = self._continued(x_BCDHW)
        skips: list[Tensor] = []
        for k, pair in enumerate(self.encoder):
            if k:
                skips.append(x_BCDHW)
                x_BCDHW = self._pooled(x_BCDHW)  # sides / 2
            x_BCDHW = pair(x_BCDHW)  # width · 2^k channels
        for up, pair in zip(self.up, self.decoder, strict=True):
            x_BCDHW = torch.cat([skips.pop(), up(x_BCDHW)], 1)  # sides · 2
            x_BCDHW = pair(x_BCDHW)
        y_BCDHW: Tensor = self.head(x_BCDHW)
        return y_BCDHW[:, :, : sides[0], : sides[1], : sides[2]]

    def _pooled(self, x_BCDHW: Tensor) -> Tensor:
        if self.pool == "avg":
            return functional.avg_pool3d(x_BCDHW, 2)
        return functional.max_pool3d(x_BCDHW, 2)

    def _continued(self, x_BCDHW: Tensor) -> Tensor:
        """The grid continued to the next multiple of 2^(depth - 1) on every axis."""
        for axis in (2, 3, 4):
            n = x_BCDHW.shape[axis]
            extra = -n % self.multiple
            if not extra:
                continue
            if self.padding == "periodic":
                # not functional.pad, which refuses to go round more than once
                index = torch.arange(n + extra, device=x_BCDHW.device) % n
                x_BCDHW = x_BCDHW.index_select(axis, index)
            else:
                x_BCDHW = functional.pad(x_BCDHW, (0, 0) * (4 - axis) + (0, extra))
        return x_BCDHW


class _ConvolutionPair(nn.Sequential):
    """Twice: 3 x 3 x 3 convolution, norm, ReLU."""

    def __init__(self, channels_in: int, channels_between: int, channels_out: int, padding: Padding, norm: Norm):
        super().__init__(
            _convolution(channels_in, channels_between, padding),
            _norm(norm, channels_between),
            nn.ReLU(inplace=True),
            _convolution(channels_between, channels_out, padding),
            _norm(norm, channels_out),
            nn.ReLU(inplace=True),
        )


def _convolution(channels_in: int, channels_out: int, padding: Padding) -> nn.Conv3d:
    mode: Literal["circular", "zeros"] = "circular" if padding == "periodic" else "zeros"
    return nn.Conv3d(channels_in, channels_out, 3, padding=1, padding_mode=mode)


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == "group":
        return nn.GroupNorm(gcd(channels, 4), channels)
    if norm == "batch":
        return nn.BatchNorm3d(channels)
    return nn.Identity()
