"""Scores of a predicted map against the truth or against the measured amplitudes (SCIENCE.md, "Metrics").

The intensities fix neither the origin nor the hand, so maps are compared under the best of them. Maps are real,
in e/Å³, indexed (i, j, k) at fractional (i/nx, j/ny, k/nz). Half grids of F have l ≥ 0: F = conj(rfftn(ρ)) V/N.
A map that is constant correlates with nothing: its correlation is 0, never NaN.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from phaseray.diffraction import ambiguity
from phaseray.diffraction.grid import Shape

if TYPE_CHECKING:
    import gemmi

Floats = NDArray[np.float64]

SOLVED_MAP_CC = 0.8
SOLVED_ATOMS_FOUND = 0.8
TRIVIAL_MAP_CC = 0.7


class Alignment(NamedTuple):
    """How to move one map onto another: invert through the origin if `inverted`, then roll by `shift` points."""

    shift: NDArray[np.int64]
    inverted: bool
    cc: float


def as_maps(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Two maps as float64.

    Raises
    ------
    ValueError
        Shapes that differ, not three axes, values that are not finite.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 3:
        raise ValueError(f"two maps on one grid are needed, not shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a map holds values that are not finite")
    return x, y


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of two arrays as they stand; 0 where one of them is constant."""
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    dx, dy = x - x.mean(), y - y.mean()
    norm = _spread(dx, x) * _spread(dy, y)
    return float(np.clip(dx @ dy / norm, -1, 1)) if norm > 0 else 0.0


def _spread(deviation: Floats, values: Floats) -> float:
    """|deviation from the mean|, with 0 for what is rounding in a constant array."""
    size = float(np.linalg.norm(deviation))
    return size if size > 1e-12 * float(np.linalg.norm(values)) else 0.0


def correlation_maps(a: ArrayLike, b: ArrayLike) -> Floats:
    """(2, nx, ny, nz) Pearson correlations of b with a moved by every grid translation.

    The first map is for a as it is, the second for a inverted through the origin. All zero where a or b is constant.
    """
    x, y = as_maps(a, b)
    dx, dy = x - x.mean(), y - y.mean()
    norm = _spread(dx, x) * _spread(dy, y)
    if norm == 0:
        return np.zeros((2, *x.shape))
    A, B = fft.rfftn(dx), fft.rfftn(dy)
    # c(t) = Σ_x a(x - t) b(x) has the transform conj(A) B; inverting a conjugates A.
    maps: Floats = np.clip(fft.irfftn(np.stack([A.conj() * B, A * B]), s=x.shape, axes=(1, 2, 3)) / norm, -1, 1)
    return maps


def best_alignment(a: ArrayLike, b: ArrayLike) -> Alignment:
    """The grid translation and the hand that move a onto b with the highest Pearson correlation.

    Of equally good hands the one of `a` is taken.
    """
    return alignment_of(correlation_maps(a, b))


def alignment_of(correlations: Floats) -> Alignment:
    """The best alignment of a table that `correlation_maps` made."""
    as_is, inverse = (int(c.argmax()) for c in correlations)
    inverted = bool(correlations[1].flat[inverse] > correlations[0].flat[as_is] + 1e-9)
    index = inverse if inverted else as_is
    shift = np.array(np.unravel_index(index, correlations.shape[1:]), dtype=np.int64)
    return Alignment(shift, inverted, float(correlations[int(inverted)].flat[index]))


def align(a: NDArray[Any], shift: ArrayLike, inverted: bool) -> NDArray[Any]:
    """The map a inverted if `inverted`, then moved by `shift` grid points: what `best_alignment` describes."""
    moved = ambiguity.inverted(a) if inverted else a
    return np.roll(moved, tuple(int(s) for s in np.asarray(shift)), axis=(0, 1, 2))


def map_cc(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of two maps, maximised over all grid translations and inversion, F(000) removed.

    Parameters
    ----------
    a, b : (nx, ny, nz) real arrays
        On one grid; scale and mean do not matter.

    Returns
    -------
    float in [-1, 1], 0 where a map is constant.

    Raises
    ------
    ValueError
        Shapes that differ, values that are not finite.
    """
    return float(correlation_maps(a, b).max())


def map_cc_strict(a: ArrayLike, b: ArrayLike, space_group: str | int | gemmi.SpaceGroup) -> float:
    """As `map_cc`, over only the origins that the space group permits, and inversion.

    The inverse is taken through the point that the group prescribes, the origin for all but seven groups (IT A,
    3.5.2): there the nearest grid point stands for it.

    Raises
    ------
    ValueError
        As `map_cc`; a space group that is not known.
    """
    correlations = correlation_maps(a, b)
    shape: Shape = correlations.shape[1:]
    group = ambiguity.space_group(space_group)
    shifts = np.asarray(ambiguity.allowed_shifts(group, shape))
    hand = group.change_of_hand_op()
    centre = np.rint(np.array(hand.tran) / hand.DEN * shape).astype(np.int64)
    here = correlations[0][tuple(shifts.T)]
    inverse = correlations[1][tuple((shifts + centre).T % np.array(shape)[:, None])]
    return float(max(here.max(), inverse.max()))


@lru_cache(maxsize=32)
def independent_reflections(shape: Shape) -> NDArray[np.bool_]:
    """Half grid (nx, ny, nz//2+1), read-only: True once for each Friedel pair; never for F(000) or Nyquist planes."""
    h, k = (np.rint(fft.fftfreq(n, 1 / n)).astype(int) for n in shape[:2])
    H, K, L = np.meshgrid(h, k, np.arange(shape[2] // 2 + 1), indexing="ij")
    mask: NDArray[np.bool_] = (L > 0) | ((L == 0) & ((K > 0) | ((K == 0) & (H > 0))))
    for index, n in zip((H, K, L), shape, strict=True):
        if n % 2 == 0:
            mask &= abs(index) != n // 2
    mask.flags.writeable = False
    return mask


def half_grid_of(density: ArrayLike, volume: float) -> NDArray[np.complex128]:
    """F on the half grid in electrons, F = conj(rfftn(ρ)) V/N."""
    rho = np.asarray(density, np.float64)
    F: NDArray[np.complex128] = fft.rfftn(rho).conj() * (volume / rho.size)
    return F


def r_factor(f_obs: ArrayLike, f_calc: ArrayLike) -> float:
    """Σ||Fo| - k|Fc|| / Σ|Fo| with k = Σ|Fo||Fc| / Σ|Fc|², the least-squares scale.

    Meaningless once observed amplitudes have been put back. Any two arrays of one shape; leave F(000) out. A
    calculation that is zero everywhere gives 1.

    Raises
    ------
    ValueError
        Shapes that differ, or no observed amplitude above zero.
    """
    fo, fc = np.abs(np.asarray(f_obs)).astype(np.float64).ravel(), np.abs(np.asarray(f_calc)).astype(np.float64).ravel()
    if fo.shape != fc.shape:
        raise ValueError(f"as many calculated as observed amplitudes are needed, not {fc.size} and {fo.size}")
    if not fo.sum() > 0:
        raise ValueError("no observed amplitude is above zero: R is undefined")
    power = fc @ fc
    scale = fo @ fc / power if power > 0 else 0.0
    return float(abs(fo - scale * fc).sum() / fo.sum())


def solved(map_cc: float, atoms_found: float | None) -> bool:
    """map_cc ≥ 0.8 and at least 0.8 of the atoms found."""
    return map_cc >= SOLVED_MAP_CC and atoms_found is not None and atoms_found >= SOLVED_ATOMS_FOUND


def trivial(zero_phase_map_cc: float) -> bool:
    """Zero phases alone reach map_cc ≥ 0.7 (a heavy atom on an inversion centre): to be counted apart."""
    return zero_phase_map_cc >= TRIVIAL_MAP_CC
