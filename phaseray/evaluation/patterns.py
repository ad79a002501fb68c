"""Measures of what a map looks like by itself, and of what maps have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseray.diffraction.ambiguity import inverted
from phaseray.evaluation.metrics import pearson

Floats = NDArray[np.float64]

HIGHEST_SHARE = 0.02


def varies(rho: Floats) -> bool:
    """False for a map that is constant up to rounding."""
    return float(np.ptp(rho)) > 1e-9 * float(abs(rho).max())


def sameness(maps: Sequence[Floats]) -> float | None:
    """Mean pairwise Pearson correlation of maps as they stand, over the pairs of one grid shape."""
    total, pairs = 0.0, 0
    for members in by_shape(maps).values():
        changing = [maps[i] - maps[i].mean() for i in members if varies(maps[i])]
        n = len(changing)
        if n < 2:
            continue
        # Σ_{i≠j} z_i·z_j = |Σ z_i|² - n for n unit vectors
        units = np.stack([d.ravel() / np.linalg.norm(d) for d in changing])
        total += float((units.sum(0) ** 2).sum()) - n
        pairs += n * (n - 1)
    return float(np.clip(total / pairs, -1, 1)) if pairs else None


def inversion_symmetry(rho: Floats) -> float | None:
    """Pearson correlation of a map with its inverse through the origin; None for a constant map."""
    return pearson(rho, inverted(rho)) if varies(rho) else None


def mirror_symmetry(rho: Floats) -> float | None:
    """Pearson correlation of a map with its mirror images in x, y and z, averaged; None for a constant map."""
    if not varies(rho):
        return None
    return float(np.mean([pearson(rho, np.roll(np.flip(rho, axis), 1, axis)) for axis in range(3)]))


def mean_predictions(maps: Sequence[ArrayLike]) -> dict[tuple[int, ...], Floats]:
    """The common pattern: the mean of all finite maps of each grid shape, most numerous shape first."""
    dense = [m for m in (np.asarray(m, np.float64) for m in maps) if np.isfinite(m).all()]
    groups = sorted(by_shape(dense).items(), key=lambda item: -len(item[1]))
    return {shape: np.mean([dense[i] for i in members], axis=0) for shape, members in groups}


def by_shape(maps: Sequence[Floats]) -> dict[tuple[int, ...], list[int]]:
    """Grid shape to the places of its maps."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, rho in enumerate(maps):
        groups[rho.shape].append(i)
    return groups


def origin_fraction(rho: Floats, at_origin: NDArray[np.bool_]) -> float | None:
    """Density at the points `at_origin` over total density; None where the total is under 5 % of Σ|ρ|."""
    total = float(rho.sum())
    return float(rho[at_origin].sum()) / total if total > 0.05 * float(abs(rho).sum()) else None


def clustering(rho: Floats) -> float | None:
    """Of the six neighbours of the highest 2 % of points, the share among the highest 2 %; None if constant."""
    if not varies(rho):
        return None
    count = max(2, round(HIGHEST_SHARE * rho.size))
    highest: NDArray[np.bool_] = np.zeros(rho.shape, np.bool_)
    highest.flat[np.argpartition(rho.ravel(), -count)[-count:]] = True
    both = sum(int((highest & np.roll(highest, 1, axis)).sum()) for axis in range(3))
    return both / (3 * count)
