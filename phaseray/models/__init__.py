"""Networks as plain torch modules: grids in, grids out; no Ray, no files."""

from __future__ import annotations

from torch import nn

from phaseray.config import CleanerConfig, MlpConfig, ModelConfig
from phaseray.diffraction.grid import Shape
from phaseray.models.cleaner import DensityCleaner
from phaseray.models.mlp import MLP
from phaseray.models.unet import UNet

__all__ = ["MLP", "DensityCleaner", "UNet", "build_model", "parameter_count"]


def build_model(config: ModelConfig, shape: Shape) -> nn.Module:
    """The network that `config` describes, freshly drawn from torch's global generator.

    `shape` is the grid that an MLP is bound to; a U-Net takes any.
    """
    if isinstance(config, MlpConfig):
        return MLP(shape, config.hidden)
    if isinstance(config, CleanerConfig):
        return DensityCleaner(
            config.width,
            config.deep_width,
            config.blocks,
            channels_in=4 if config.patterson else 2,
            channels_out=2 if config.judges else 1,
        )
    return UNet(config.width, config.depth, config.padding, config.norm)


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
