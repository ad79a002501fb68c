"""Crystals to try a law on, and small builders that several tests share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from phaseray.crystal import Crystal, isotropic_u_aniso

# One cell a crystal system, edges in Å; rhombohedral and monoclinic axes as they are met.
CELLS = {
    "triclinic": (6.0, 7.0, 8.0, 75.0, 100.0, 112.0),
    "monoclinic": (6.0, 7.0, 8.0, 90.0, 104.0, 90.0),
    "orthorhombic": (6.0, 7.0, 8.0, 90.0, 90.0, 90.0),
    "tetragonal": (6.0, 6.0, 8.0, 90.0, 90.0, 90.0),
    "trigonal": (6.0, 6.0, 6.0, 68.0, 68.0, 68.0),
    "hexagonal": (6.0, 6.0, 8.0, 90.0, 90.0, 120.0),
    "cubic": (6.5, 6.5, 6.5, 90.0, 90.0, 90.0),
}
DISPLACEMENTS = ("none", "one", "iso", "aniso")


def random_crystal(
    cell: tuple[float, ...],
    seed: int,
    *,
    n: int = 20,
    displacement: str = "iso",
    numbers: tuple[int, ...] = (1, 6, 7, 8, 26, 82),
) -> Crystal:
    """Atoms anywhere, a third of them partly occupied, with displacements of the kind asked for."""
    rng = np.random.default_rng(seed)
    u_iso = {"none": np.zeros(n), "one": np.full(n, 0.02)}.get(displacement, rng.uniform(0.005, 0.06, n))
    u_aniso = None
    if displacement == "aniso":
        u_aniso = isotropic_u_aniso(cell, u_iso) * (1 + rng.uniform(-0.15, 0.15, (n, 6)))
        u_aniso[:, 3:] += rng.uniform(-0.001, 0.001, (n, 3))
        u_iso = None
    return Crystal(
        cell=np.array(cell),
        numbers=rng.choice(numbers, n),
        positions=rng.random((n, 3)),
        occupancy=rng.choice([1.0, 1.0, 0.4], n),
        u_iso=u_iso,
        u_aniso=u_aniso,
    )


crystals = st.builds(
    random_crystal,
    cell=st.sampled_from(list(CELLS.values())),
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    displacement=st.sampled_from(DISPLACEMENTS),
)
fractions = st.floats(-1.0, 1.0, allow_nan=False)
shifts = st.tuples(fractions, fractions, fractions)


def moved(crystal: Crystal, shift: tuple[float, float, float]) -> Crystal:
    """The same crystal, its origin elsewhere."""
    return replace(crystal, positions=crystal.positions + shift)


def indices_of(shape: tuple[int, int, int]) -> np.ndarray:
    """(nx·ny·nzh, 3) Miller indices of the points of a half grid, in its order."""
    h, k, n_l = (np.fft.fftfreq(n, 1 / n).astype(int) for n in shape)
    n_l = np.arange(shape[2] // 2 + 1)
    return np.stack(np.meshgrid(h, k, n_l, indexing="ij"), -1).reshape(-1, 3)
