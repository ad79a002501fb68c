"""The network that comes with the package."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["SHIPPED", "load_network", "shipped_network", "weights_are_shipped"]

SHIPPED = Path(__file__).with_name("weights")
"""Folder of a checkpoint: model.safetensors, model.json, and the model card."""


class _InLowPrecision(nn.Module):
    """bfloat16 where the machine multiplies it faster; the answer is float32."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model, self.device = model, device
        self.enabled = device.type == "cuda" or torch.backends.cpu.get_cpu_capability() != "DEFAULT"

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.enabled):
            y: Tensor = self.model(x, told)
        return y.float()


def weights_are_shipped() -> bool:
    """Whether this installation has the network."""
    return (SHIPPED / "model.json").exists()


def shipped_network(device: torch.device | str = "cpu") -> nn.Module:
    """The network of the package, ready to be called.

    Raises
    ------
    ValueError
        This installation has no weights.
    """
    if not weights_are_shipped():
        raise ValueError(
            "this installation has no weights of the phasing network: train one (jobs/phasing.yaml) and name its "
            "checkpoint, or use method='charge_flipping'"
        )
    return load_network(str(SHIPPED), str(device))


@lru_cache(maxsize=4)
def load_network(path: str, device: str = "cpu") -> nn.Module:
    """The network of a checkpoint.

    Raises
    ------
    ValueError
        A damaged checkpoint, or one of a network that does not phase.
    """
    from phaseray.training.checkpoint import load_checkpoint

    model, meta = load_checkpoint(path)
    if meta.config.model.kind != "cleaner":
        raise ValueError(f"{path} is a {meta.config.model.kind}, not a phasing network (model.kind: cleaner)")
    return _InLowPrecision(model.to(device).eval(), torch.device(device))
