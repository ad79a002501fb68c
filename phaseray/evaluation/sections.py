"""Plane sections of a map in the true geometry of the cell, with the atoms that lie near the plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from phaseray.crystal import orthogonalization_matrix
from phaseray.evaluation.peaks import find_peaks

Floats = NDArray[np.float64]

PLANES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""Axes along and across the section, and the axis that it cuts: ab, ac, bc."""

NEAR = 0.7
"""Å: atoms farther from the plane are not drawn."""


class Section(NamedTuple):
    """A section of one cell: its corners are sheared as the cell is, lengths are true.

    Attributes
    ----------
    x, y : (mu + 1, mv + 1)
        Å in the plane, the first edge along x. The far edges repeat the near ones.
    values : (mu + 1, mv + 1)
        Density at those points: the grid points and, by Fourier interpolation, points between.
    atoms_x, atoms_y, atoms : (k,)
        Where atoms within 0.7 Å of the plane fall on it (those on an edge of the cell more than once), and their
        places in the list of atoms.
    axes : tuple of str
        Names of the edges along and across, e.g. ("a", "b").
    """

    x: Floats
    y: Floats
    values: Floats
    atoms_x: Floats
    atoms_y: Floats
    atoms: NDArray[np.int64]
    axes: tuple[str, str]


def section(
    density: ArrayLike, cell: ArrayLike, positions: ArrayLike, point: ArrayLike, plane: tuple[int, int, int] = PLANES[0]
) -> Section:
    """The section of a map through the grid point `point` (3,), spanned by the two axes that `plane` names first."""
    along, across, cut = plane
    rho = np.asarray(density, np.float64)
    level = int(np.asarray(point)[cut])
    values = np.moveaxis(rho, (along, across, cut), (0, 1, 2))[..., level]
    for axis in (0, 1):
        values = finer(values, axis)
    values = np.pad(values, ((0, 1), (0, 1)), mode="wrap")
    M = orthogonalization_matrix(cell)
    flat = _in_plane(M[:, along], M[:, across])
    u, v = (np.arange(n) / (n - 1) for n in values.shape)
    x, y = np.einsum("ij,juv->iuv", flat, np.stack(np.meshgrid(u, v, indexing="ij")))
    atoms_uv, atoms = _near_plane(M, np.asarray(positions, np.float64).reshape(-1, 3), level / rho.shape[cut], plane)
    atoms_x, atoms_y = flat @ atoms_uv.T
    return Section(x, y, values, atoms_x, atoms_y, atoms, ("abc"[along], "abc"[across]))


def finer(values: Floats, axis: int, least: int = 90) -> Floats:
    """A periodic map with at least `least` points along an axis, by Fourier interpolation: exact for a map of F."""
    n = values.shape[axis]
    factor = -(-least // n)
    if factor == 1:
        return values
    F = fft.rfft(values, axis=axis)
    if n % 2 == 0:
        # the Nyquist term stands for both its signs, which are now apart
        F[(slice(None),) * axis + (-1,)] /= 2
    between: Floats = fft.irfft(F, n * factor, axis=axis) * factor
    return between


def section_point(truth: ArrayLike, cell: ArrayLike) -> NDArray[np.int64]:
    """(3,) grid point of the strongest peak of the true map: the heaviest atom."""
    rho = np.asarray(truth, np.float64)
    peaks = find_peaks(rho, cell, 1).positions
    if not len(peaks):
        return np.zeros(3, np.int64)
    point: NDArray[np.int64] = np.rint(peaks[0] * rho.shape).astype(np.int64) % rho.shape
    return point


def _in_plane(U: Floats, V: Floats) -> Floats:
    """(2, 2): fractions of two edges to Å in their plane, the first edge along x."""
    along = U / np.linalg.norm(U)
    x = float(V @ along)
    return np.array([[np.linalg.norm(U), x], [0.0, np.linalg.norm(V - x * along)]])


def _near_plane(
    M: Floats, positions: Floats, level: float, plane: tuple[int, int, int]
) -> tuple[Floats, NDArray[np.int64]]:
    """Fractions (k, 2) of the feet of the perpendiculars of atoms near a plane, and which atoms they are."""
    along, across, cut = plane
    normal = np.cross(M[:, along], M[:, across])
    normal /= np.linalg.norm(normal)
    above = positions[:, cut] - level
    above = above - np.rint(above)
    near = np.flatnonzero(abs(above * (M[:, cut] @ normal)) <= NEAR)
    # an atom above the plane falls beside its own coordinates where the third edge leans
    lean = np.linalg.lstsq(M[:, [along, across]], M[:, cut], rcond=None)[0]
    uv = (positions[near][:, [along, across]] + above[near, None] * lean) % 1.0
    copies, atoms = [uv], [near]
    for shift in ((1, 0), (0, 1), (1, 1)):
        on_edge = ((uv < 0.02) | (np.array(shift) == 0)).all(1)
        copies.append(uv[on_edge] + shift)
        atoms.append(near[on_edge])
    return np.concatenate(copies), np.concatenate(atoms)
