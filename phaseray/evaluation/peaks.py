"""Maxima of a map, and how many of the true atoms are found in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseray.diffraction import ambiguity
from phaseray.evaluation.metrics import Alignment, alignment_of, as_maps, correlation_maps, half_grid_of
from phaseray.evaluation.periodic import distances, shortest

Floats = NDArray[np.float64]

WORTH_FITTING = 0.4
"""Correlation with the truth below which a map is wrong, and fitting atoms to its peaks would tell nothing."""

_NEWTON = 5
SAME_SITE = 0.1
"""Å: atoms closer than this share a site (partial occupancy) and count once."""


class Peaks(NamedTuple):
    """Peaks of a map, strongest first: fractional (m, 3) in [0, 1), and (m,) heights in the units of the map."""

    positions: Floats
    heights: Floats


@dataclass(frozen=True)
class AtomMatch:
    """Outcome of `atoms_found`.

    Attributes
    ----------
    recall : float or None
        Found over all sites; None where the crystal has no atom but hydrogen.
    rms : float or None
        Root mean square distance in Å of the atoms found; None where none is.
    found, n_atoms : int
        Sites found, and all sites of non-hydrogen atoms.
    """

    recall: float | None
    rms: float | None
    found: int
    n_atoms: int


def find_peaks(density: ArrayLike, cell: ArrayLike, n: int, *, min_distance: float = 0.6) -> Peaks:
    """The n strongest local maxima of a periodic map, refined between grid points.

    A maximum is a point not below its 26 neighbours and above one of them. It is refined with the quadratic through
    its neighbourhood, of the logarithm of the density where that is positive (exact for a Gaussian). Of peaks closer
    than `min_distance` (Å) the strongest stays; with 0 all do.

    Returns
    -------
    Peaks, at most n: fewer where the map has fewer maxima, none for a constant map.
    """
    from scipy import ndimage

    rho = np.asarray(density, np.float64)
    highest = ndimage.maximum_filter(rho, size=3, mode="wrap")
    lowest = ndimage.minimum_filter(rho, size=3, mode="wrap")
    maxima = np.argwhere((rho == highest) & (highest > lowest))
    order = np.argsort(-rho[tuple(maxima.T)], kind="stable")
    kept = np.empty((n, 3))
    heights: list[float] = []
    # far more maxima than asked for never matter: after merging, n of the strongest stay
    for start in range(0, len(order), max(2 * n, 32)):
        points, values = _refine(rho, maxima[order[start : start + max(2 * n, 32)]])
        for position, height in zip(points, values, strict=True):
            count = len(heights)
            if count == n:
                break
            if count and min_distance > 0 and shortest(position - kept[:count], cell).min() < min_distance:
                continue
            kept[count] = position
            heights.append(float(height))
        if len(heights) == n:
            break
    count = len(heights)
    return Peaks(kept[:count] % 1.0 % 1.0, np.array(heights, np.float64))


def _refine(rho: Floats, points: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Fractional positions and grid heights of maxima at grid points (m, 3), by the quadratic around each."""
    shape = np.array(rho.shape)
    around = np.indices((3, 3, 3)).reshape(3, 27).T - 1
    index = (points[:, None] + around) % shape
    v_m27 = rho[index[..., 0], index[..., 1], index[..., 2]]
    heights = v_m27[:, 13].copy()
    # far from positive, a logarithm would turn noise beside the peak into its curvature
    positive = v_m27.min(1) > 0.02 * heights
    v_m27[positive] = np.log(v_m27[positive])
    offset = _quadratic_maximum(v_m27.reshape(-1, 3, 3, 3))
    return (points + offset) / shape, heights


def _quadratic_maximum(v: Floats) -> Floats:
    """(m, 3) offsets in grid steps, at most ¾ along each axis, of the maximum of (m, 3, 3, 3) neighbourhoods."""
    c = v[:, 1, 1, 1]
    low, high = (np.stack([v[:, i, 1, 1], v[:, 1, i, 1], v[:, 1, 1, i]], 1) for i in (0, 2))
    gradient = (high - low) / 2
    hessian = np.zeros((len(v), 3, 3))
    diagonal = high + low - 2 * c[:, None]
    hessian[:, range(3), range(3)] = diagonal
    for a, b in ((0, 1), (0, 2), (1, 2)):
        plane = np.moveaxis(v, (a + 1, b + 1), (1, 2))[..., 1]
        cross = (plane[:, 2, 2] - plane[:, 2, 0] - plane[:, 0, 2] + plane[:, 0, 0]) / 4
        hessian[:, a, b] = hessian[:, b, a] = cross
    alone = np.divide(-gradient, diagonal, out=np.zeros_like(gradient), where=diagonal < 0)
    concave = np.linalg.eigvalsh(hessian)[:, 2] < 0
    offset = alone.copy()
    if concave.any():
        offset[concave] = np.linalg.solve(hessian[concave], -gradient[concave][..., None])[..., 0]
    too_far = (abs(offset) > 0.75).any(1)
    offset[too_far] = np.clip(alone[too_far], -0.5, 0.5)
    return offset


def distinct_sites(cell: ArrayLike, positions: ArrayLike, numbers: ArrayLike) -> Floats:
    """(n, 3) positions of non-hydrogen atoms; atoms within 0.1 Å of an earlier one (partial occupancy) left out."""
    heavy: Floats = np.asarray(positions, np.float64).reshape(-1, 3)[np.asarray(numbers) > 1]
    if len(heavy) < 2:
        return heavy
    same = np.tril(distances(heavy, heavy, cell) < SAME_SITE, -1)
    return heavy[~same.any(1)]


def refined_shift(correlations: Floats, alignment: Alignment) -> Floats:
    """(3,) fractional shift of an alignment, refined between grid points on the correlation around it."""
    points, _ = _refine(correlations[int(alignment.inverted)], alignment.shift[None])
    shift: Floats = points[0]
    return shift


def moved_onto(density: ArrayLike, truth: ArrayLike, *, correlations: Floats | None = None) -> Floats:
    """A map at the origin and hand of another, moved between grid points too, as a trigonometric polynomial.

    Without it a right map loses up to a tenth of its correlation by half a grid step along each axis, and what is
    found in it depends on where its iteration happened to put the origin.

    Parameters
    ----------
    density, truth : (nx, ny, nz)
        The first is moved onto the second.
    correlations : (2, nx, ny, nz), optional
        `correlation_maps(density, truth)`, where it is at hand.

    Raises
    ------
    ValueError
        Maps that do not compare.
    """
    from scipy import fft

    rho, other = as_maps(density, truth)
    table = correlation_maps(density, truth) if correlations is None else correlations
    alignment = alignment_of(table)
    f = half_grid_of(rho, rho.size)
    if alignment.inverted:
        f = ambiguity.other_hand(f)
    shift = _summit(f.conj() * half_grid_of(other, rho.size), refined_shift(table, alignment))
    moved: Floats = fft.irfftn(ambiguity.move_origin(f, tuple(shift)).conj(), s=rho.shape)
    return moved


def _summit(product: NDArray[np.complex128], start: Floats) -> Floats:
    """The fractional maximum near `start` of Σ Re[P(h) exp(-2πi h·t)], P on the half grid, by Newton's method.

    Exact, where the quadratic of `refined_shift` is some hundredths of a grid step off.
    """
    hkl = np.argwhere(abs(product) > 1e-9 * abs(product).max())
    p = product[tuple(hkl.T)] * np.where(hkl[:, 2] > 0, 2, 1)
    sides = np.array(product.shape[:2])
    hkl[:, :2] -= np.where(2 * hkl[:, :2] > sides, sides, 0)
    t = start.copy()
    for _ in range(_NEWTON):
        angle = -2 * np.pi * (hkl @ t)
        gradient = (p * np.exp(1j * angle)).imag * (2 * np.pi) @ hkl
        curvature = (p * np.exp(1j * angle)).real * (2 * np.pi) ** 2
        hessian = -(hkl * curvature[:, None]).T @ hkl
        if np.linalg.eigvalsh(hessian)[2] >= 0:  # no summit here: a map that is wrong
            break
        step = np.linalg.solve(hessian, -gradient)
        if not (abs(step) * [*sides, 2 * product.shape[2] - 2] < 0.5).all():
            break
        t += step
    return t


def atoms_found(
    density: ArrayLike,
    truth: ArrayLike,
    cell: ArrayLike,
    positions: ArrayLike,
    numbers: ArrayLike,
    *,
    d_min: float | None = None,
    observed: ArrayLike | None = None,
    peaks: Literal["clean", "maxima"] = "clean",
    radius: float = 0.5,
    correlations: Floats | None = None,
) -> AtomMatch:
    """One-to-one matching of the n strongest peaks of a map to the n non-hydrogen atoms, best origin and hand.

    Peaks are taken as a crystallographer takes them: each with its ripples is subtracted before weaker ones are looked
    for (`atoms_in_map`). "Maxima" are those of the map as it stands, of which many are ripples where atoms are heavy;
    they are also taken of maps that correlate with the truth by less than WORTH_FITTING.

    Parameters
    ----------
    density, truth : (nx, ny, nz)
        The prediction, and the true map: the first is moved onto the second (`moved_onto`) before peaks are looked
        for, so that they do not depend on where it was.
    cell : (6,)
        Å and degrees.
    positions, numbers : (n, 3) fractional, (n,)
        Atoms of the whole cell. Hydrogen is left out; atoms that share a site count once.
    d_min, observed : optional
        Å, and a half grid of bool: which coefficients of `density` are known, as `atoms_in_map` takes them.
    peaks : "clean" or "maxima"
    radius : float
        Å. The matching has as many pairs within it as can be, and among those the least squared distance.
    correlations : (2, nx, ny, nz), optional
        `correlation_maps(density, truth)`, where it is at hand.

    Raises
    ------
    ValueError
        Maps that do not compare; another word for `peaks`.
    """
    from scipy.optimize import linear_sum_assignment

    from phaseray.evaluation.atoms_in_maps import atoms_in_map  # which takes its first peaks from here

    if peaks not in ("clean", "maxima"):
        raise ValueError(f"peaks must be 'clean' or 'maxima', not {peaks!r}")
    sites = distinct_sites(cell, positions, numbers)
    if not len(sites):
        return AtomMatch(None, None, 0, 0)
    table = correlation_maps(density, truth) if correlations is None else correlations
    rho = moved_onto(density, truth, correlations=table)
    if peaks == "clean" and table.max() >= WORTH_FITTING:
        found = atoms_in_map(rho, cell, len(sites), d_min=d_min, observed=observed).positions
    else:
        found = find_peaks(rho, cell, len(sites)).positions
    if not len(found):
        return AtomMatch(0.0, None, 0, len(sites))
    apart = distances(found, sites, cell)
    # a pair out of reach costs more than any number of pairs within
    cost = np.where(apart <= radius, apart**2, (len(sites) + 1) * radius**2)
    matched = apart[linear_sum_assignment(cost)]
    within = matched[matched <= radius]
    rms = float(np.sqrt((within**2).mean())) if len(within) else None
    return AtomMatch(len(within) / len(sites), rms, len(within), len(sites))
