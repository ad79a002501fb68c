"""The poster's six observations, measured on any set of predictions (SCIENCE.md, "what was tried before").

Everything is measured on the predictions as they stand, on their own origin: a model that learns the average over all
origins betrays itself there. What cannot be measured (one prediction, constant predictions) is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseray.evaluation.patterns import (
    by_shape,
    clustering,
    inversion_symmetry,
    mean_predictions,
    mirror_symmetry,
    origin_fraction,
    sameness,
    varies,
)
from phaseray.evaluation.peaks import distinct_sites, find_peaks
from phaseray.evaluation.periodic import distance_from_origin, distances

__all__ = ["PosterDiagnostics", "mean_predictions", "poster_diagnostics"]

Floats = NDArray[np.float64]

AT_ORIGIN = 0.5


@dataclass(frozen=True)
class PosterDiagnostics:
    """What a set of predictions looks like. Means are over crystals; None where undefined.

    Attributes
    ----------
    n : int
        Predictions that are finite and looked at.
    n_constant : int
        Of these, constant maps (no peak, no correlation: left out of what needs them).
    peak_at_origin, peak_at_origin_truth
        Share of maps whose highest point is within 0.5 Å of the origin.
    clustering, clustering_truth
        Of the six neighbours of the highest 2 % of points, the share that are among the highest 2 % too
        (0.02 by chance, 1 for one large lump).
    origin_fraction, origin_fraction_truth
        Density within `origin_radius` of the origin over total density. Undefined where the total is not clearly
        positive (under 5 % of Σ|ρ|).
    origin_fraction_cv, origin_fraction_cv_truth
        Standard deviation of origin_fraction between crystals over its mean.
    density_ratio, density_ratio_low, density_ratio_high
        Predicted total over true total: median and quartiles.
    sameness, sameness_truth
        Mean pairwise Pearson correlation between maps of different crystals, grid point by grid point; pairs are
        taken among maps of one grid shape.
    inversion_symmetry, inversion_symmetry_truth
        Pearson correlation of a map with its inverse through the origin.
    mirror_symmetry, mirror_symmetry_truth
        The same for mirrors across the three faces of the cell through the origin, averaged (an octagon has it).
    peak_distance, peak_distance_less_mean
        Mean distance in Å of the n strongest peaks to the nearest of the n sites, of the predictions and of the
        predictions less the mean prediction (of their grid shape).
    peak_distance_random
        The same for points at random in the cell: what knowing nothing gives.
    origin_radius : float
        Å.
    """

    n: int
    n_constant: int
    peak_at_origin: float | None
    peak_at_origin_truth: float | None
    clustering: float | None
    clustering_truth: float | None
    origin_fraction: float | None
    origin_fraction_truth: float | None
    origin_fraction_cv: float | None
    origin_fraction_cv_truth: float | None
    density_ratio: float | None
    density_ratio_low: float | None
    density_ratio_high: float | None
    sameness: float | None
    sameness_truth: float | None
    inversion_symmetry: float | None
    inversion_symmetry_truth: float | None
    mirror_symmetry: float | None
    mirror_symmetry_truth: float | None
    peak_distance: float | None
    peak_distance_less_mean: float | None
    peak_distance_random: float | None
    origin_radius: float

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def poster_diagnostics(
    predictions: Sequence[ArrayLike],
    truths: Sequence[ArrayLike],
    cells: Sequence[ArrayLike],
    positions: Sequence[ArrayLike],
    numbers: Sequence[ArrayLike],
    *,
    origin_radius: float = 1.0,
    seed: int = 0,
) -> PosterDiagnostics:
    """Measure the six observations.

    Parameters
    ----------
    predictions, truths : n maps (nx, ny, nz) in e/Å³, or (n, nx, ny, nz)
        Shapes may differ between crystals. Predictions that are not finite are left out.
    cells : n times (6,)
        Å and degrees.
    positions, numbers : n times (atoms, 3) fractional, (atoms,)
    origin_radius : float
        Å, of the sphere that counts as the origin peak.
    seed : int
        Of the random points that peak distances are compared with.

    Raises
    ------
    ValueError
        Lengths or shapes that disagree.
    """
    lengths = {len(x) for x in (predictions, truths, cells, positions, numbers)}
    if len(lengths) != 1:
        raise ValueError(f"as many maps, cells and sets of atoms are needed, not {sorted(lengths)}")
    maps = [np.asarray(p, np.float64) for p in predictions]
    usable = [i for i, p in enumerate(maps) if np.isfinite(p).all()]
    maps = [maps[i] for i in usable]
    true = [np.asarray(truths[i], np.float64) for i in usable]
    for p, t in zip(maps, true, strict=True):
        if p.shape != t.shape:
            raise ValueError(f"a prediction of shape {p.shape} has a truth of shape {t.shape}")
    boxes = [np.asarray(cells[i], np.float64) for i in usable]
    radii = [distance_from_origin(c, p.shape) for c, p in zip(boxes, maps, strict=True)]
    sites = [distinct_sites(cells[i], positions[i], numbers[i]) for i in usable]

    def fractions(densities: list[Floats]) -> list[float | None]:
        return [origin_fraction(d, r <= origin_radius) for d, r in zip(densities, radii, strict=True)]

    def at_origin(densities: list[Floats]) -> float | None:
        return _mean(
            [float(r.flat[d.argmax()] <= AT_ORIGIN) for d, r in zip(densities, radii, strict=True) if varies(d)]
        )

    fraction, fraction_truth = fractions(maps), fractions(true)
    ratios = [float(p.sum() / t.sum()) for p, t in zip(maps, true, strict=True) if t.sum() > 0]
    low, median, high = np.percentile(ratios, [25, 50, 75]).tolist() if ratios else (None,) * 3
    before, after, at_random = _peak_distances(maps, boxes, sites, np.random.default_rng(seed))
    return PosterDiagnostics(
        n=len(maps),
        n_constant=sum(not varies(p) for p in maps),
        peak_at_origin=at_origin(maps),
        peak_at_origin_truth=at_origin(true),
        clustering=_mean([clustering(p) for p in maps]),
        clustering_truth=_mean([clustering(t) for t in true]),
        origin_fraction=_mean(fraction),
        origin_fraction_truth=_mean(fraction_truth),
        origin_fraction_cv=_relative_spread(fraction),
        origin_fraction_cv_truth=_relative_spread(fraction_truth),
        density_ratio=median,
        density_ratio_low=low,
        density_ratio_high=high,
        sameness=sameness(maps),
        sameness_truth=sameness(true),
        inversion_symmetry=_mean([inversion_symmetry(p) for p in maps]),
        inversion_symmetry_truth=_mean([inversion_symmetry(t) for t in true]),
        mirror_symmetry=_mean([mirror_symmetry(p) for p in maps]),
        mirror_symmetry_truth=_mean([mirror_symmetry(t) for t in true]),
        peak_distance=before,
        peak_distance_less_mean=after,
        peak_distance_random=at_random,
        origin_radius=origin_radius,
    )


def _peak_distances(
    maps: list[Floats], cells: list[Floats], sites: list[Floats], rng: np.random.Generator
) -> tuple[float | None, float | None, float | None]:
    before: list[tuple[int, float]] = []
    after: dict[int, float] = {}
    at_random: list[float] = []
    means = mean_predictions(maps)
    alone = {shape for shape, members in by_shape(maps).items() if len(members) < 2}
    for i, (rho, cell, atoms) in enumerate(zip(maps, cells, sites, strict=True)):
        if not len(atoms):
            continue
        at_random.append(float(distances(rng.random((64, 3)), atoms, cell).min(1).mean()))
        if (distance := _peak_distance(rho, cell, atoms)) is not None:
            before.append((i, distance))
        rest = rho - means[rho.shape]
        # what rounding leaves of a prediction equal to the mean has no peaks
        if rho.shape in alone or not abs(rest).max() > 1e-6 * abs(rho).max():
            continue
        if (distance := _peak_distance(rest, cell, atoms)) is not None:
            after[i] = distance
    comparable = [d for i, d in before if i in after] if after else [d for _, d in before]
    return _mean(comparable), _mean(list(after.values())), _mean(at_random)


def _peak_distance(rho: Floats, cell: Floats, atoms: Floats) -> float | None:
    if not varies(rho):
        return None
    peaks = find_peaks(rho, cell, len(atoms)).positions
    return float(distances(peaks, atoms, cell).min(1).mean()) if len(peaks) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _relative_spread(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else 0.0
    return float(np.std(known)) / abs(mean) if len(known) > 1 and abs(mean) > 1e-12 else None
