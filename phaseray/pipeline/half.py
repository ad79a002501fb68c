"""Grids in half precision: 16 bits a point, and a power of two a crystal that makes them fit.

Half precision ends at 65,504, and F(000) of a large cell is above that; below 6e-5 it loses digits. Divided by
the power of two that brings its largest value between 2^14 and 2^15, a grid keeps 11 bits of every value
down to 2^-29 of the largest, and dividing rounds nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Grids = npt.NDArray[np.float32]
Half = npt.NDArray[np.float16]

_TOP = 15  # the largest value is below 2^15


def to_half(grids: Grids) -> tuple[Half, Grids]:
    """(n, …) grids as (n, …) float16 and (n,) scales, powers of two: grids ≈ float16 · scale."""
    largest = _largest(grids)
    _, exponent = np.frexp(largest)
    scale = np.ldexp(np.float32(1), np.where(largest > 0, exponent - _TOP, 0)).astype(np.float32)
    return (grids / _along(scale, grids.ndim)).astype(np.float16), scale


def from_half(half: Half, scale: Grids) -> Grids:
    """The grids in float32 again."""
    return half.astype(np.float32) * _along(np.asarray(scale, np.float32), half.ndim)


def errors(grids: Grids, half: Half, scale: Grids) -> tuple[float, float]:
    """What half precision costs, at worst of these crystals.

    Returns
    -------
    float, float
        The largest |Δ| in units of the grid's largest value; rms of Δ over rms of the grid.
    """
    if not grids.size:
        return 0.0, 0.0
    off = (from_half(half, scale) - grids).reshape(len(grids), -1).astype(np.float64)
    rms = np.sqrt((grids.reshape(len(grids), -1).astype(np.float64) ** 2).mean(1))
    share = np.divide(abs(off).max(1), _largest(grids), where=rms > 0, out=np.zeros(len(grids)))
    return float(share.max()), float(np.divide(np.sqrt((off**2).mean(1)), rms, where=rms > 0, out=0 * rms).max())


def _largest(grids: Grids) -> Grids:
    largest: Grids = abs(grids).max(tuple(range(1, grids.ndim)), initial=0)
    return largest


def _along(scale: Grids, ndim: int) -> Grids:
    return scale.reshape(-1, *[1] * (ndim - 1))
