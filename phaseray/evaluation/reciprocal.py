"""Scores made in reciprocal space: the phase error, and the Patterson correlation that needs no truth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from phaseray.crystal import orthogonalization_matrix
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.evaluation.metrics import independent_reflections, pearson
from phaseray.evaluation.periodic import distance_from_origin

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]


def _indices(shape: Shape) -> Floats:
    """(m, 3) Miller indices of the independent reflections of a half grid."""
    h = np.argwhere(independent_reflections(shape)).astype(np.float64)
    n = np.asarray(shape, np.float64)
    return np.where(h > n / 2, h - n, h)


def _half(F: ArrayLike, shape: Shape, name: str) -> NDArray[np.complex128]:
    half = np.asarray(F, np.complex128)
    if half.shape != half_shape(shape):
        raise ValueError(f"{name} must be a half grid of shape {half_shape(shape)}, not {half.shape}")
    if not np.isfinite(half).all():
        raise ValueError(f"{name} holds values that are not finite")
    return half


def phase_error(f_true_half: ArrayLike, f_pred_half: ArrayLike, shape: Shape, *, candidates: int = 4) -> float:
    """Σ|F||Δφ| / Σ|F| in degrees, |F| the true amplitudes, under the best origin and hand.

    The origins of the grid are ranked by Σ|F|cos Δφ (one FFT a hand). The best few are refined off the grid by
    Newton's method, as a floating origin need not fall on a point, and judged by the error itself.

    Parameters
    ----------
    f_true_half, f_pred_half : (nx, ny, nz//2+1) complex
        F on half grids, l ≥ 0; F(000) and Nyquist planes are not looked at.
    shape : (nx, ny, nz)

    Returns
    -------
    float, degrees, 0 to 90. Random acentric phases give 90 for one origin, and a few degrees less for the best of
    all origins (84 with 2,000 reflections, 88 with 20,000). A reflection that the prediction lacks counts 90.

    Raises
    ------
    ValueError
        Wrong shapes, values that are not finite.
    """
    mask = independent_reflections(shape)
    true, pred = _half(f_true_half, shape, "f_true_half"), _half(f_pred_half, shape, "f_pred_half")
    weight = abs(true[mask])
    if not weight.sum() > 0:
        return 90.0
    # below this a coefficient is rounding, e.g. of a constant map
    known = mask & (abs(pred) > 1e-12 * abs(pred).max())
    phase = np.divide(pred, abs(pred), out=np.zeros_like(pred), where=known)
    if not known.any():
        return 90.0
    h = _indices(shape)
    found = [
        _error(product[mask], h, t)
        for product in (true * phase.conj(), true * phase)
        for t in _origins(product, mask, h, shape, candidates)
    ]
    missing = weight[~known[mask]].sum()
    return float((min(found) + 90.0 * missing) / weight.sum())


def _origins(product: Complexes, mask: NDArray[np.bool_], h: Floats, shape: Shape, count: int) -> list[Floats]:
    """The `count` fractional shifts t of largest Re Σ P(h) exp(-2πi h·t), then the best of them refined."""
    score = fft.irfftn(np.where(mask, product, 0).conj(), s=shape).ravel()
    top = np.argpartition(score, -count)[-count:]
    top = top[np.argsort(-score[top], kind="stable")]
    origins = [np.array(np.unravel_index(i, shape)) / np.asarray(shape) for i in top]
    t = origins[0]
    P = product[mask]
    for _ in range(3):
        moved = P * np.exp(-2j * np.pi * (h @ t))
        gradient = h.T @ moved.imag
        curvature = 2 * np.pi * (h.T * moved.real) @ h
        if not np.linalg.eigvalsh(curvature)[0] > 0:
            break
        step = np.linalg.solve(curvature, gradient)
        if (abs(step) * shape > 1).any():
            break
        t = t + step
    return [*origins, t]


def _error(P: Complexes, h: Floats, t: Floats) -> float:
    """Σ|P||arg P(h) exp(-2πi h·t)| in degrees."""
    moved = P * np.exp(-2j * np.pi * (h @ t))
    return float((abs(moved) * abs(np.angle(moved, deg=True))).sum())


def patterson_cc(density: ArrayLike, amplitude_half: ArrayLike, cell: ArrayLike, d_min: float) -> float | None:
    """Pearson correlation of the prediction's own Patterson with the observed one, the origin peak left out.

    Both Pattersons are summed over the independent reflections with d ≥ d_min, without F(000); grid points within
    d_min of a lattice point, where the origin peak stands whatever the structure, are not looked at.

    Parameters
    ----------
    density : (nx, ny, nz)
        Predicted; scale, origin and hand do not matter.
    amplitude_half : (nx, ny, nz//2+1)
        Observed |F|, l ≥ 0.
    cell : (6,)
        Å and degrees.
    d_min : float
        Å.

    Returns
    -------
    float in [-1, 1], 0 for a constant prediction; None where the cell is so small that the origin peak fills it.

    Raises
    ------
    ValueError
        Wrong shapes, values that are not finite.
    """
    rho = np.asarray(density, np.float64)
    shape: Shape = rho.shape
    observed = abs(_half(amplitude_half, shape, "amplitude_half"))
    predicted = abs(_half(fft.rfftn(rho), shape, "the transform of density"))
    outside = distance_from_origin(cell, shape) > d_min
    if outside.sum() < 8:
        return None
    used = within_resolution(cell, shape, d_min) & (predicted > 1e-12 * predicted.max())
    measured = within_resolution(cell, shape, d_min)
    return pearson(
        fft.irfftn(np.where(used, predicted, 0) ** 2, s=shape)[outside],
        fft.irfftn(np.where(measured, observed, 0) ** 2, s=shape)[outside],
    )


def within_resolution(cell: ArrayLike, shape: Shape, d_min: float) -> NDArray[np.bool_]:
    """Half grid, read-only: True for reflections with d ≥ d_min, both of a pair; never F(000) or Nyquist planes."""
    return _within_resolution(tuple(float(x) for x in np.asarray(cell)), shape, d_min)


@lru_cache(maxsize=2)  # several models are judged on one crystal in turn
def _within_resolution(cell: tuple[float, ...], shape: Shape, d_min: float) -> NDArray[np.bool_]:
    inverse = np.linalg.inv(orthogonalization_matrix(cell))
    n = np.asarray(shape)
    h = np.argwhere(np.ones(half_shape(shape), bool))
    nyquist = (2 * h == n).any(1)
    h = np.where(2 * h > n, h - n, h)
    s = np.linalg.norm(h @ inverse, axis=1)
    # 1e-9: a reflection just on the sphere belongs to it
    within: NDArray[np.bool_] = (s <= (1 + 1e-9) / d_min) & (s > 0) & ~nyquist
    within = within.reshape(half_shape(shape))
    within.flags.writeable = False
    return within
