"""Maps: what the half grid of F looks like in real space, and back.

The sign of the transform is the crystallographic one: ρ(x) = (1/V) Σ F(h) exp(-2πi h·x). NumPy's
irfftn has a plus in the exponent, hence the conjugates; without them the mirror crystal appears.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, fft, namespace
from phaseray.crystal import Crystal
from phaseray.diffraction.grid import Shape
from phaseray.diffraction.scattering import Probe
from phaseray.diffraction.structure_factors import structure_factor_grid

_AXES = (-3, -2, -1)


def density(crystal: Crystal, shape: Shape, d_min: float, *, probe: Probe = Probe.XRAY) -> NDArray[np.float32]:
    """Electron density to a resolution of `d_min` Å on a grid over the cell.

    Returns
    -------
    (nx, ny, nz) float32, e/Å³
        Point (i, j, k) is at the fractional position (i/nx, j/ny, k/nz). The mean times the
        volume is F(000). Series termination is not hidden: there are ripples below zero.
    """
    f = structure_factor_grid(crystal, shape, d_min, probe=probe)
    return density_from_half_grid(f, shape, crystal.volume)  # type: ignore[no-any-return]


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
