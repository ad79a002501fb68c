"""generate on a GPU: a shard's crystals in batches, on an actor's share of the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phaseray import backend
from phaseray.config import GenerateConfig
from phaseray.crystal import Crystal
from phaseray.diffraction.batch import structure_factors_and_densities
from phaseray.diffraction.grid import Shape

Grid = npt.NDArray[np.float32]

BATCH_POINTS = 4_000_000  # grid points computed at once


def gpu_of(share: float) -> backend.Module:
    """CuPy, its memory pool held to a share of the device; RuntimeError where there is none."""
    xp = backend.gpu()
    if xp is None:
        raise RuntimeError(
            "ray.gpus_per_actor is over 0, but this worker finds no CUDA device with CuPy:"
            " install the extra `gpu` on every node, or set ray.gpus_per_actor to 0"
        )
    backend.limit_memory(xp, min(1.0, share))
    return xp


def batched(
    crystals: Sequence[Crystal], shape: Shape, config: GenerateConfig, xp: backend.Module
) -> list[tuple[Grid, Grid]] | None:
    """|F| half grid and density of each crystal; None where one of them must be looked at by itself."""
    if np.prod(shape) > config.max_grid_points:
        return None
    done: list[tuple[Grid, Grid]] = []
    step = max(1, BATCH_POINTS // int(np.prod(shape)))
    for begin in range(0, len(crystals), step):
        some = [c.with_default_u_iso(config.default_u_iso) for c in crystals[begin : begin + step]]
        try:
            f, rho = structure_factors_and_densities(some, shape, config.d_min, xp=xp)
        except (ValueError, ArithmeticError, MemoryError):
            return None
        done += zip(backend.to_numpy(abs(f)), backend.to_numpy(rho), strict=True)
    return done
