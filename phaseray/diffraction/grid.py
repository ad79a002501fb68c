"""Grids: how many points a crystal's map has on each side, and which reflections it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class FixedGrid:
    """n × n × n points whatever the cell (what the poster used and an MLP needs)."""

    n: int = 32
    kind: Literal["fixed"] = "fixed"
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.n < 4 or self.n % 2:
            raise ValueError(f"grid.n must be even and at least 4, not {self.n}")

    def shape(self, cell: ArrayLike, d_min: float) -> Shape:
        return (self.n, self.n, self.n)


@dataclass(frozen=True)
class SpacingGrid:
    """Points at most d_min / points_per_d_min Å apart, sides rounded up to a multiple.

    2.7 points are used in phasing; 2 is the least that holds the density (Shannon).
    """

    points_per_d_min: float = 2.7
    multiple: int = 4
    kind: Literal["spacing"] = "spacing"
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not self.points_per_d_min >= 2:
            raise ValueError(f"grid.points_per_d_min must be at least 2 (Shannon), not {self.points_per_d_min}")
        if self.multiple < 2 or self.multiple % 2:
            raise ValueError(f"grid.multiple must be even, not {self.multiple}")

    def shape(self, cell: ArrayLike, d_min: float) -> Shape:
        edges = np.asarray(cell, float)[:3]
        # 1e-9: an edge of exactly k spacings must not be pushed up by rounding
        steps = np.ceil(edges * self.points_per_d_min / d_min / self.multiple - 1e-9)
        a, b, c = (int(max(s, 1)) * self.multiple for s in steps)
        return (a, b, c)


GridSpec = FixedGrid | SpacingGrid


def half_shape(shape: Shape) -> Shape:
    """Shape of the half grid of F with l ≥ 0, as rfftn gives it."""
    return (shape[0], shape[1], shape[2] // 2 + 1)


def complete_d_min(cell: ArrayLike, shape: Shape, d_min: float) -> float:
    """The resolution in Å down to which a grid of this shape holds every reflection.

    The sphere of radius 1/d reaches the index |h_i| = a_i / d; a grid holds |h_i| < n_i / 2 (the
    Nyquist plane, which cannot tell h from -h, is left out). A fixed grid on a long edge holds
    less than `d_min` asks for.
    """
    edges = np.asarray(cell, float)[:3]
    return float(max(d_min, (edges / ((np.asarray(shape) + 1) // 2)).max() * (1 + 1e-9)))
