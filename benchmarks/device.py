"""What a GPU gives: the kernel on CuPy beside NumPy, and steps of training the U-Net, in one run.

    python benchmarks/device.py [--json out.json]

Needs no Ray and no data: artificial crystals from a seed. Without CUDA it times the CPU alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseray import backend
from phaseray.config import SyntheticSource, TrainConfig, UNetConfig
from phaseray.diffraction.batch import structure_factors_and_densities
from phaseray.diffraction.maps import structure_factors_and_density
from phaseray.models import build_model
from phaseray.sources.synthetic import synthetic_crystal
from phaseray.training.inputs import network_input
from phaseray.training.losses import mse, mse_any_origin


def seconds(function: Callable[[], Any], wait: Callable[[], Any], repeats: int) -> float:
    """Median over three rounds of the mean time of a call, after one round to warm up."""
    rounds = []
    for _ in range(4):
        wait()
        began = time.perf_counter()
        for _ in range(repeats):
            function()
        wait()
        rounds.append((time.perf_counter() - began) / repeats)
    return float(np.median(rounds[1:]))


def kernel(xp: Any, n: int, d_min: float, crystals: list[Any], batched: bool) -> float:
    shape = (n, n, n)

    def run() -> None:
        if batched:
            structure_factors_and_densities(crystals, shape, d_min, xp=xp)
        else:
            for crystal in crystals:
                structure_factors_and_density(crystal, shape, d_min, xp=xp)

    wait = xp.cuda.Device().synchronize if hasattr(xp, "cuda") else lambda: None
    return seconds(run, wait, 1) / len(crystals)


def training_step(device: str, n: int, batch: int, width: int, precision: torch.dtype, any_origin: bool) -> float:
    torch.manual_seed(0)
    shape = (n, n, n)
    config = TrainConfig(model=UNetConfig(width=width, depth=3))
    model = build_model(config.model, shape).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    target = torch.randn(batch, *shape, device=device)
    amplitude = torch.fft.rfftn(target, dim=(1, 2, 3)).abs()
    loss_of = mse_any_origin if any_origin else mse

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=precision, enabled=precision != torch.float32):
            y = model(network_input("intensities", amplitude, shape))[:, 0]
        loss_of(y.float(), target).mean().backward()
        optimizer.step()

    return seconds(step, torch.cuda.synchronize if device == "cuda" else lambda: None, 20 if device == "cuda" else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts: dict[str, Any] = {"cpu_threads": torch.get_num_threads()}
    gpu = backend.gpu()
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    for label, n, d_min, edge in (("32³, 1.0 Å", 32, 1.0, (6.0, 14.0)), ("96³, 0.6 Å", 96, 0.6, (18.0, 26.0))):
        source = SyntheticSource(edge=edge, max_atoms=2000)
        crystals = [synthetic_crystal(source, 0, i) for i in range(40 if n == 32 else 6)]
        atoms = float(np.median([c.n_atoms for c in crystals]))
        for name, xp in (("NumPy", np), ("CuPy", gpu)):
            for batched in (False, True) if xp is not None else ():
                how = "in a batch" if batched else "one by one"
                ms = 1e3 * kernel(xp, n, d_min, crystals, batched)
                facts[f"kernel {label} {name} {how} ms"] = round(ms, 3)
                print(
                    f"kernel, {label}, median {atoms:.0f} atoms, {name:6s}{how:11s}{ms:9.2f} ms a crystal", flush=True
                )
    for device in ("cpu", "cuda"):
        if device == "cuda" and not torch.cuda.is_available():
            continue
        for precision in (torch.float32, torch.bfloat16):
            for any_origin in (False, True):
                ms = 1e3 * training_step(device, 24, 8, 16, precision, any_origin)
                kind = f"{str(precision)[6:]} {'mse_any_origin' if any_origin else 'mse'}"
                facts[f"U-Net step {device} {kind} ms"] = round(ms, 3)
                print(f"U-Net width 16 depth 3, 8 x 24³, {device:4s} {kind:24s} {ms:9.2f} ms a step", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
