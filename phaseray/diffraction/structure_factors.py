"""Structure factors of a crystal: for a list of reflections, and on the half grid of an FFT."""

from __future__ import annotations

import numpy as np

from phaseray.backend import Array, Module, as_complex, namespace, to_numpy
from phaseray.crystal import Crystal
from phaseray.diffraction.atoms import COLUMN, ROW, Atoms
from phaseray.diffraction.box import Box, reach_of, spread
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.scattering import Probe, form_factors
from phaseray.diffraction.separable import split, summed

BLOCK = 2_000_000  # numbers held at once
_TWICE = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])  # how often U11 U22 U33 U12 U13 U23 occur in hᵀUh


def structure_factors(crystal: Crystal, hkl: Array, *, probe: Probe = Probe.XRAY) -> Array:
    """F(hkl) of the whole cell by direct summation, in double precision.

    F(h) = Σ_j occ_j f_j(s) T_j(h) exp(+2πi h·x_j), so `density` needs exp(-2πi h·x).

    Parameters
    ----------
    hkl : (m, 3) integer array
        Miller indices; the result is computed by its array module.

    Returns
    -------
    (m,) complex128 array
        Electrons (X-rays), Å (electrons) or fm (neutrons).

    References
    ----------
    International Tables for Crystallography B (2010), 1.2.3; form factors IT C (2006), 6.1.1.4.
    """
    xp = namespace(hkl)
    if hkl.ndim != 2 or hkl.shape[1] != 3:
        raise ValueError(f"hkl must have shape (m, 3), not {tuple(hkl.shape)}")
    h = xp.astype(hkl, xp.float64)
    m = hkl.shape[0]
    products = h[:, 0:1] * h
    quadratic = xp.stack(
        [products[:, 0], h[:, 1] ** 2, h[:, 2] ** 2, products[:, 1], products[:, 2], h[:, 1] * h[:, 2]], axis=1
    )
    s2 = quadratic @ xp.asarray(crystal.reciprocal_metric[ROW, COLUMN] * _TWICE / 4)
    # h = 0 exactly, whatever the rounding of the metric
    s2 = xp.where(xp.all(hkl == 0, axis=1), xp.asarray(0.0, dtype=s2.dtype), s2)
    atoms = Atoms.of(crystal)
    elements = [(number, isotope) for number, isotope, _, _ in atoms.elements]
    total = xp.zeros(m, dtype=xp.complex128)
    if not elements or not m:
        return total
    f = form_factors(elements, to_numpy(s2), xp=xp, dtype=xp.float64, probe=probe)
    for i, (_, _, start, stop) in enumerate(atoms.elements):
        positions = xp.asarray(atoms.positions[start:stop].T)
        exponents = xp.asarray(2 * np.pi**2 * _TWICE[:, None] * atoms.beta[start:stop].T)
        occupancy = xp.asarray(atoms.weight[start:stop])
        step = max(1, BLOCK // (stop - start))
        sums = []
        for first in range(0, m, step):
            rows = slice(first, min(first + step, m))
            phase = 2 * np.pi * (h[rows, :] @ positions)
            weight = occupancy * xp.exp(-(quadratic[rows, :] @ exponents))
            real, imaginary = xp.sum(weight * xp.cos(phase), axis=1), xp.sum(weight * xp.sin(phase), axis=1)
            sums.append(as_complex(real, imaginary))
        total = total + f[i, :] * xp.concat(sums)
    return total


def structure_factor_grid(
    crystal: Crystal, shape: Shape, d_min: float, *, probe: Probe = Probe.XRAY, xp: Module = np
) -> Array:
    """F on the half grid with l ≥ 0, in single precision; zero outside the sphere 1/d ≤ 1/d_min.

    By the separable sums of `separable.py`; over half the atoms where there is a centre at the origin.

    Parameters
    ----------
    shape : (nx, ny, nz)
        Of the density grid. Reflections with |h_i| ≥ n_i/2 do not fit and are left out
        (`grid.complete_d_min` says whether there are any).
    d_min : float
        Å.
    xp : array module
        Computes and holds the result.

    Returns
    -------
    (nx, ny, nz // 2 + 1) complex64 array, electrons
        In FFT order. `maps.density_from_half_grid` makes the density of it.
    """
    if not d_min > 0:
        raise ValueError(f"d_min must be over 0 Å, not {d_min}")
    if not crystal.n_atoms:
        return xp.zeros(half_shape(shape), dtype=xp.complex64)
    return spread(structure_factor_box(crystal, shape, d_min, probe=probe, xp=xp), shape, xp)


def structure_factor_box(crystal: Crystal, shape: Shape, d_min: float, *, probe: Probe, xp: Module) -> Array:
    """F of `structure_factor_grid` without the zeros: a box (2 h + 1, 2 k + 1, l + 1) in FFT order."""
    common_u = float(crystal.u_iso.min()) if crystal.u_aniso is None else 0.0
    atoms = Atoms.folded(crystal, common_u)
    box = Box(reach_of(crystal.cell, shape, d_min), crystal.reciprocal_metric, d_min)
    how = split(atoms, box)
    if how is not None:
        return summed(atoms, box, how, probe, xp, common_u)
    places, hkl = box.hkl()
    values = structure_factors(crystal, xp.asarray(hkl), probe=probe)
    return box.gathered(xp.astype(values, xp.complex64), places, xp)
