"""Maps: what the half grid of F looks like in real space, and back.

The sign of the transform is the crystallographic one: ρ(x) = (1/V) Σ F(h) exp(-2πi h·x). NumPy's
irfftn has a plus in the exponent, hence the conjugates; without them the mirror crystal appears.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2

import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, Module, fft, namespace
from phaseray.crystal import Crystal
from phaseray.diffraction.box import fft_order, spread
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.scattering import Probe
from phaseray.diffraction.structure_factors import structure_factor_box

_AXES = (-3, -2, -1)


def density(crystal: Crystal, shape: Shape, d_min: float, *, probe: Probe = Probe.XRAY) -> NDArray[np.float32]:
    """Electron density to a resolution of `d_min` Å on a grid over the cell.

    Returns
    -------
    (nx, ny, nz) float32, e/Å³
        Point (i, j, k) is at the fractional position (i/nx, j/ny, k/nz). The mean times the
        volume is F(000). Series termination is not hidden: there are ripples below zero.
    """
    return structure_factors_and_density(crystal, shape, d_min, probe=probe)[1]  # type: ignore[no-any-return]


def structure_factors_and_density(
    crystal: Crystal, shape: Shape, d_min: float, *, probe: Probe = Probe.XRAY, xp: Module = np
) -> tuple[Array, Array]:
    """`structure_factor_grid` and the density made of it, faster than one after the other.

    The sphere of reflections fills a small part of most grids. There the transform is three matrix
    products over the box around the sphere, and an FFT, which would mostly add zeros, is not needed.
    """
    if not d_min > 0:
        raise ValueError(f"d_min must be over 0 Å, not {d_min}")
    if not crystal.n_atoms:
        return xp.zeros(half_shape(shape), dtype=xp.complex64), xp.zeros(shape, dtype=xp.float32)
    box = structure_factor_box(crystal, shape, d_min, probe=probe, xp=xp)
    f = spread(box, shape, xp)
    if _by_products(box.shape, shape):
        return f, _density_from_box(box, shape, crystal.volume, xp)
    return f, density_from_half_grid(f, shape, crystal.volume)


def _by_products(box: Shape, shape: Shape) -> bool:
    """Whether three matrix products over the box cost less than an FFT."""
    (h, k, n_l), (nx, ny, nz) = box, shape
    multiplications = nx * k * n_l * h + ny * nx * n_l * k + nx * ny * nz * n_l / 2
    return multiplications < 2.5 * nx * ny * nz * log2(nx * ny * nz)


def _density_from_box(box: Array, shape: Shape, volume: float, xp: Module) -> Array:
    """ρ(x) = (1/V) Σ F(h) exp(-2πi h·x), one axis after the other, over the box (H, K, L) alone."""
    h, k, n_l = box.shape
    wave_x, wave_y = xp.asarray(_wave(h // 2, shape[0])), xp.asarray(_wave(k // 2, shape[1]))
    # letters: KL,H @ H,x; LX,K @ K,y; (real and imaginary) XY,L @ L,z
    f = xp.reshape(box, (h, k * n_l)).mT @ wave_x
    f = xp.reshape(f, (k, -1)).mT @ wave_y
    f = xp.reshape(f, (n_l, -1))
    # the smallest array that the scale can be given to
    wave_z = xp.asarray(_real_wave(n_l - 1, shape[2])) * (1 / volume)
    return xp.reshape(xp.concat([xp.real(f), xp.imag(f)], axis=0).mT @ wave_z, shape)


# an axis each, so that few are needed, whatever the cells, and they stay in the processor's cache
@lru_cache(maxsize=1024)
def _wave(reach: int, n: int) -> NDArray[np.complex64]:
    """exp(-2πi h x) (H, x), h in FFT order."""
    wave: NDArray[np.complex64] = np.exp(-2j * np.pi * _turns(fft_order(reach), n)).astype(np.complex64)
    return wave


@lru_cache(maxsize=1024)
def _real_wave(reach: int, n: int) -> NDArray[np.float32]:
    """(2 L, z), for the real part of Σ F exp(-2πi l z), -l included."""
    angle = 2 * np.pi * _turns(np.arange(reach + 1), n)
    twice = np.where(np.arange(reach + 1) == 0, 1.0, 2.0)[:, None]
    return np.concatenate([twice * np.cos(angle), twice * np.sin(angle)]).astype(np.float32)


def _turns(index: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    turns: NDArray[np.float64] = np.multiply.outer(index, np.arange(n)) % n / n
    return turns


def density_from_half_grid(f: Array, shape: Shape, volume: float | Array) -> Array:
    """ρ(x) = (1/V) Σ F(h) exp(-2πi h·x).

    Parameters
    ----------
    f : (…, nx, ny, nz // 2 + 1) complex array
        Half grid with l ≥ 0 in FFT order.
    shape : (nx, ny, nz)
    volume : float or array that broadcasts against the maps
        Å³.

    Returns
    -------
    (…, nx, ny, nz) real array, e/Å³
    """
    xp = namespace(f)
    return _synthesis(xp.conj(f), shape) / volume


def half_grid_from_density(rho: Array, volume: float | Array) -> Array:
    """F(h) = V/N Σ ρ(x) exp(+2πi h·x): the inverse of `density_from_half_grid`.

    Parameters
    ----------
    rho : (…, nx, ny, nz) real array, e/Å³

    Returns
    -------
    (…, nx, ny, nz // 2 + 1) complex array
    """
    xp = namespace(rho)
    return xp.conj(fft(xp).rfftn(rho, axes=_AXES, norm="forward")) * volume


def patterson(amplitude: Array, shape: Shape, volume: float | Array) -> Array:
    """P(u) = (1/V) Σ |F(h)|² cos(2π h·u), the autocorrelation of the density, in e²/Å³.

    Parameters
    ----------
    amplitude : (…, nx, ny, nz // 2 + 1) real array
        |F| on the half grid.
    """
    return _synthesis(_complex(amplitude * amplitude), shape) / volume


def zero_phase_map(amplitude: Array, shape: Shape, volume: float | Array) -> Array:
    """The density with all phases 0, in e/Å³: the stop-gap that any method must beat.

    Even, with its highest value always at the origin.
    """
    return _synthesis(_complex(amplitude), shape) / volume


def _synthesis(f: Array, shape: Shape) -> Array:
    """Σ f exp(+2πi h·x) over the whole grid; the half not given is the conjugate."""
    return fft(namespace(f)).irfftn(f, s=shape, axes=_AXES, norm="forward")


def _complex(values: Array) -> Array:
    xp = namespace(values)
    return xp.astype(values, xp.complex64 if values.dtype == xp.float32 else xp.complex128)
