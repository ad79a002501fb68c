"""A running mean of the weights, which is often better than the weights of any one step."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["average_into", "averaged_copy"]


def averaged_copy(model: nn.Module) -> nn.Module:
    """The mean as it begins: the weights themselves."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def average_into(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """mean ← d·mean + (1 - d)·weights after step 1, 2, …; d = min(decay, (1 + step) / (10 + step)).

    The rise of d lets a young mean forget the random first weights (as TensorFlow's
    ExponentialMovingAverage does with num_updates). Buffers, such as those of batch norm, are copied.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - d)
    for mean, buffer in zip(averaged.buffers(), model.buffers(), strict=True):
        mean.copy_(buffer)
