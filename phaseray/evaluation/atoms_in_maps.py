"""Atoms in a map of limited resolution: peak after peak is found, fitted, and taken away with its ripples.

A map made of the reflections within a sphere has around each atom the rings of the sphere's transform, which bury light
atoms beside heavy ones, and at 2 Å two bonded atoms are one maximum. Both are known shapes. So, as CLEAN does with the
beam of a radio telescope (Högbom 1974), the strongest peaks are taken as atoms and subtracted, what they hid becomes
visible, and in the end all atoms are fitted together, as in the refinement of a structure, but to the coefficients
of the map with their phases, be these right or wrong. Nothing is looked at but the map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from phaseray.crystal import orthogonalization_matrix
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.scattering import form_factors
from phaseray.evaluation.atom_refinement import Atoms, Coefficients, refined
from phaseray.evaluation.metrics import half_grid_of, independent_reflections
from phaseray.evaluation.peaks import Peaks, find_peaks
from phaseray.evaluation.periodic import distances

Floats = NDArray[np.float64]

MIN_DISTANCE = 0.9
"""Å between atoms."""
TOO_LARGE = 8_000_000
"""Atoms times reflections: of larger cells the maxima are returned as they are."""
NO_ATOMS = Atoms(np.empty((0, 3)), np.empty(0), np.empty(0))
_EFFORT = 3e7  # atoms times reflections times steps of the refinement
WEIGHT = 0.5
"""Power of the sharpening: 1 makes points of all atoms, 0 leaves F as it is."""
_TYPICAL = 14  # element whose form factor falls off between those of light and heavy ones
_EQUALS = 0.5  # peaks of at least this share of the strongest are taken at once
_RENEWED = (0.3, 0.15, 0.08) * 2  # shares of the atoms, the weakest, that are looked for anew
_NOTHING = 0.3  # of the weakest atom: a peak that is left is no atom
_EXPLAINED, _HOPELESS = 1e-4, 0.25  # misfits: as good as can be; of a map that is not made of n atoms
_BATCHES = 40
_POINTS = 4.0  # of the grid, along d_min


def atoms_in_map(
    density: ArrayLike,
    cell: ArrayLike,
    n: int,
    *,
    d_min: float | None = None,
    observed: ArrayLike | None = None,
    min_distance: float = MIN_DISTANCE,
) -> Peaks:
    """The n atoms that describe a map best, the strongest first.

    Parameters
    ----------
    density : (nx, ny, nz)
        On any scale; its mean does not matter.
    cell : (6,)
        Å and degrees.
    d_min : float, optional
        Å: coefficients beyond are not looked at. Without: as far out as the map has any above 1e-4 of the largest.
    observed : (nx, ny, nz // 2 + 1) bool, optional
        Where coefficients are known. Without: all within d_min; those that are 0, as in centred cells, count as known.
    min_distance : float
        Å between atoms.

    Returns
    -------
    Peaks: at most n atoms, none for a constant map; heights in electrons, if the map is in e/Å³ (that of an atom of
    Z electrons is near Z).
    """
    data = coefficients(density, cell, d_min, observed)
    if data is None or n < 1:
        return Peaks(np.empty((0, 3)), np.empty(0))
    if n * len(data.s2) > TOO_LARGE:
        return find_peaks(density, cell, n, min_distance=min_distance)
    search = Search(data, n, min_distance)
    best = search.refined(search.as_they_stand(density), 8)
    misfit = data.misfit(best)
    # nothing is to be gained where the maxima are the atoms, and may be lost where the data are few
    for share in (1.0, *_RENEWED) if misfit > _EXPLAINED else ():
        if share < 1:
            missed = search.candidates(best, 1).heights
            if misfit > _HOPELESS or not (len(missed) and missed[0] > _NOTHING * best.heights.min()):
                break
        kept = best.chosen(np.argsort(-best.heights, kind="stable")[: int((1 - share) * len(best))])
        trial = search.refined(search.filled(search.refined(kept, 2)), 8)
        then = data.misfit(trial)
        if then < misfit:
            best, misfit = trial, then
    best = best.chosen(np.argsort(-best.heights, kind="stable"))
    return Peaks(best.positions % 1.0 % 1.0, best.heights)


def coefficients(
    density: ArrayLike, cell: ArrayLike, d_min: float | None = None, observed: ArrayLike | None = None
) -> Coefficients | None:
    """The coefficients of a map within d_min, weighted so that the weak far ones count too; None for a constant map."""
    rho = np.asarray(density, np.float64)
    lattice = np.asarray(cell, np.float64)
    matrix, shape = orthogonalization_matrix(lattice), np.array(rho.shape)
    mask = independent_reflections(rho.shape)
    f = half_grid_of(rho - rho.mean(), float(np.linalg.det(matrix)))[mask]
    size = abs(f)
    # what is left of a constant is rounding
    if not len(f) or not size.max() > 1e-9 * float(np.linalg.det(matrix)) * abs(rho).max():
        return None
    hkl = np.argwhere(mask).astype(np.float64)
    hkl = np.where(2 * hkl > shape, hkl - shape, hkl)
    s2 = ((hkl @ np.linalg.inv(matrix)) ** 2).sum(1) / 4
    edge = s2[size > 1e-4 * size.max()].max() if d_min is None else 1 / (4 * d_min**2)
    used = s2 <= edge * (1 + 1e-5)
    if observed is not None:
        used &= np.asarray(observed, bool)[mask]
    if not size[used].any():
        return None
    hkl, f, s2 = hkl[used], f[used], s2[used]
    typical = form_factors([(_TYPICAL, 0)], s2, xp=np, dtype=np.float64)[0] / _TYPICAL
    falling = typical * np.exp(-overall_b(abs(f) / typical, s2) * s2)
    return Coefficients(lattice, hkl, f, s2, falling, falling ** (-2 * WEIGHT))


def overall_b(size: Floats, s2: Floats) -> float:
    """B in Å² of <|F|²> = k exp(-2 B s²), by the logarithms of its means in shells (Wilson 1942)."""
    shells = np.array_split(np.argsort(s2, kind="stable"), max(2, min(20, len(s2) // 20)))
    x = np.array([s2[shell].mean() for shell in shells if len(shell)])
    y = np.array([(size[shell] ** 2).mean() for shell in shells if len(shell)])
    if len(x) < 2 or not np.ptp(x) > 0:
        return 0.0
    slope = np.polyfit(x, np.log(np.maximum(y, 1e-12 * y.max())), 1)[0]
    return float(np.clip(-slope / 2, -1, 6))


class Search:
    """The search for n atoms in one map: what is left of it, and what in there may be atoms."""

    def __init__(self, data: Coefficients, n: int, min_distance: float) -> None:
        self.data, self.n, self.min_distance = data, n, min_distance
        self.effort = _EFFORT / (n * len(data.s2))
        d_min = 1 / (2 * np.sqrt(data.s2.max()))
        least = zip(data.cell[:3] * _POINTS / d_min, 2 * abs(data.hkl).max(0) + 2, strict=True)
        nx, ny, nz = (fft.next_fast_len(int(np.ceil(max(*sides, 6))), real=True) for sides in least)
        self.shape: Shape = (nx, ny, nz)
        index = data.hkl.astype(np.int64)
        self._flat = index[:, 2] == 0
        self._places, self._mates = tuple((index % self.shape).T), tuple((-index[self._flat] % self.shape).T)
        self._filter = data.weight * data.shape / (2 * float(data.weight @ data.shape**2))

    def refined(self, atoms: Atoms, cycles: int) -> Atoms:
        """As `atom_refinement.refined`, while there is effort left."""
        cycles = int(min(cycles, max(self.effort, 0)))
        self.effort -= cycles
        return refined(self.data, atoms, cycles) if cycles else atoms

    def as_they_stand(self, density: ArrayLike) -> Atoms:
        """The maxima of the map itself, with one scale for all heights."""
        peaks = find_peaks(density, self.data.cell, self.n, min_distance=self.min_distance)
        atoms = Atoms(peaks.positions, peaks.heights, np.zeros(len(peaks.heights)))
        atoms = atoms.chosen(atoms.heights > 0)
        calculated = self.data.f - self.data.residual(atoms)
        power = float(self.data.weight @ abs(calculated) ** 2)
        scale = float(self.data.weight @ (calculated.conj() * self.data.f).real) / power if power > 0 else 0.0
        return Atoms(atoms.positions, scale * atoms.heights, atoms.b) if scale > 0 else NO_ATOMS

    def left(self, atoms: Atoms) -> Floats:
        """Map of the height that one more atom would have at each point, by least squares."""
        half = np.zeros(half_shape(self.shape), np.complex128)
        values = (self._filter * self.data.residual(atoms)).conj()
        half[self._places] = values
        half[self._mates] = values[self._flat].conj()
        heights: Floats = fft.irfftn(half, s=self.shape, norm="forward")
        return heights

    def filled(self, atoms: Atoms) -> Atoms:
        """With the strongest of what is left added, batch after batch, all refined after each, until there are n."""
        for _ in range(_BATCHES):
            new = self.candidates(atoms, self.n - len(atoms))
            if not len(new):
                break
            atoms = _apart(self.refined(atoms.joined(new), 3), self.data.cell, self.min_distance)
        return atoms

    def candidates(self, atoms: Atoms, most: int) -> Atoms:
        """Of the peaks left those nearly as strong as the strongest of them, none near an atom."""
        wanted = 2 * most + len(atoms) + 20  # many may be too near to atoms
        positions, heights = find_peaks(self.left(atoms), self.data.cell, wanted, min_distance=self.min_distance)
        free = heights > 0
        if len(atoms) and len(heights):
            free &= distances(positions, atoms.positions, self.data.cell).min(1) >= self.min_distance
        positions, heights = positions[free][:most], heights[free][:most]
        strong = heights >= _EQUALS * heights[:1].sum()
        return Atoms(positions[strong], heights[strong], np.full(int(strong.sum()), atoms.mean_b))


def _apart(atoms: Atoms, cell: Floats, min_distance: float) -> Atoms:
    """Without the weaker of two atoms that the fit has moved onto one another, and without what it found not to be."""
    strongest_first = np.argsort(-atoms.heights, kind="stable")
    atoms = atoms.chosen(strongest_first)
    near = np.tril(distances(atoms.positions, atoms.positions, cell) < min_distance / 2, -1)
    return atoms.chosen(~near.any(1) & (atoms.heights > 1e-3 * atoms.heights[0]))
