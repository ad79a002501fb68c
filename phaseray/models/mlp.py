"""Multi-layer perceptron: scikit-learn's MLPRegressor as a torch module.

Legend: B crystals, C channels (1), D H W the sides of the grid, N = D·H·W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from phaseray.diffraction.grid import Shape

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers with ReLU between them, from one grid to another of the same shape.

    Weights and biases start uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010), as in
    scikit-learn; torch's own start is narrower. The last layer has no activation.

    Parameters
    ----------
    shape : three ints
        The only grid shape this network reads and writes.
    hidden : ints
        Widths of the hidden layers; scikit-learn's default is (100,).
    """

    def __init__(self, shape: Shape, hidden: Sequence[int] = (100,)) -> None:
        super().__init__()
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        n = math.prod(self.shape)
        self.layers = nn.ModuleList(_glorot(i, o) for i, o in pairwise([n, *hidden, n]))

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """(B, 1, D, H, W) to (B, 1, D, H, W).

        Raises
        ------
        ValueError
            The grid is not the one that the network was built for.
        """
        if tuple(x_BCDHW.shape[1:]) != (1, *self.shape):
            raise ValueError(
                f"this MLP was built for grids of {self.shape}, not {tuple(x_BCDHW.shape[2:])}: "
                "make the data with a fixed grid (generate.grid), or use a U-Net"
            )
        x_BN = x_BCDHW.flatten(1)
        for layer in self.layers[:-1]:
            x_BN = torch.relu(layer(x_BN))
        y_BN: Tensor = self.layers[-1](x_BN)
        return y_BN.reshape(-1, 1, *self.shape)


def _glorot(fan_in: int, fan_out: int) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    bound = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.uniform_(layer.bias, -bound, bound)
    return layer
