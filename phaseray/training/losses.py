"""Losses between predicted and true densities, one number a crystal.

Legend: B crystals, D H W the sides of the grid, N = D·H·W, K = W // 2 + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

__all__ = ["LOSSES", "mse", "mse_any_origin"]


def mse(prediction_BDHW: Tensor, target_BDHW: Tensor) -> Tensor:
    """(B,) mean squared error over the voxels."""
    return (prediction_BDHW - target_BDHW).square().mean((1, 2, 3))


def mse_any_origin(prediction_BDHW: Tensor, target_BDHW: Tensor) -> Tensor:
    """(B,) the least mean squared error over all grid translations of the target and of its inverse.

    The intensities fix neither the origin nor the hand, so neither should the loss:
    min_t |p - T_t r|² = |p|² + |r|² - 2 max_t (p ⋆ r)(t), and the cross-correlation of all t comes
    from one Fourier transform. The gradient is that of `mse` against the target so placed.
    """
    sides = prediction_BDHW.shape[1:]
    P_BDHK = torch.fft.rfftn(prediction_BDHW, dim=(1, 2, 3))
    R_BDHK = torch.fft.rfftn(target_BDHW, dim=(1, 2, 3))
    correlations = [
        torch.fft.irfftn(P_BDHK * R, s=sides, dim=(1, 2, 3)).flatten(1)
        for R in (R_BDHK.conj(), R_BDHK)  # R is the transform of r(-x)*
    ]
    # max, not amax: of equal maxima one is taken, as a choice of origin is
    best_B = torch.cat(correlations, 1).max(1).values
    square_B = prediction_BDHW.square().sum((1, 2, 3)) + target_BDHW.square().sum((1, 2, 3))
    return (square_B - 2 * best_B).clamp_min(0) / sides.numel()


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"mse": mse, "mse_any_origin": mse_any_origin}
)
