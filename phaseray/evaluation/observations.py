"""What was seen of each of the poster's six observations, in words with numbers."""

from __future__ import annotations

from phaseray.evaluation.diagnostics import PosterDiagnostics

SEEN, PARTLY, NOT_SEEN, UNKNOWN = "seen", "partly seen", "not seen", "cannot be said"


def sentences(diagnostics: PosterDiagnostics, baseline: PosterDiagnostics) -> list[str]:
    """Six sentences, one for each observation, with a verdict (seen, partly seen, not seen) that follows from numbers.

    Parameters
    ----------
    diagnostics
        Of a model's predictions.
    baseline
        Of the zero-phase maps of the same crystals (observation 4 is about them).
    """
    parts = (_origin_peak, _constant_fraction, _total_density)
    told = [part(diagnostics) for part in parts]
    told += [_zero_phases(baseline), _same_pattern(diagnostics), _less_the_pattern(diagnostics)]
    titles = (
        "high intensity clusters, and the highest peak is at the origin",
        "the origin peak is a constant fraction of the predicted density",
        "total density about 2x the true total",
        "all phases set to 0 also give a peak at the origin",
        "all predictions are one highly symmetric pattern",
        "less the common pattern, some peaks are at atoms",
    )
    numbered = enumerate(zip(titles, told, strict=True), 1)
    return [f"Observation {i} ({title}): {verdict}; {words}." for i, (title, (verdict, words)) in numbered]


def _origin_peak(d: PosterDiagnostics) -> tuple[str, str]:
    if d.peak_at_origin is None or d.clustering is None:
        return UNKNOWN, "the predictions are constant, or there are none"
    at_origin = d.peak_at_origin >= 0.5
    clusters = d.clustering >= 0.5 * (d.clustering_truth or 0.0)
    verdict = SEEN if at_origin and clusters else PARTLY if at_origin or clusters else NOT_SEEN
    lead = "intensity clusters, but not at the origin; " if clusters and not at_origin else ""
    words = (
        f"{lead}the highest point is at the origin in {_percent(d.peak_at_origin)} of the predictions "
        f"(true maps: {_percent(d.peak_at_origin_truth)}), and of the neighbours of the highest 2 % of points "
        f"{_percent(d.clustering)} belong to them too (true maps: {_percent(d.clustering_truth)}; by chance 2 %)"
    )
    return verdict, words


def _constant_fraction(d: PosterDiagnostics) -> tuple[str, str]:
    if d.origin_fraction is None or d.origin_fraction_cv is None:
        return UNKNOWN, "the predicted totals are not positive, or there is only one prediction"
    held = (
        f"the density within {d.origin_radius:g} Å of the origin is {_percent(d.origin_fraction)} of the predicted "
        f"total on average, and varies by {_percent(d.origin_fraction_cv)} of that between crystals "
        f"(true maps: {_percent(d.origin_fraction_truth)}, varying by {_percent(d.origin_fraction_cv_truth)})"
    )
    if d.peak_at_origin is None or d.peak_at_origin < 0.5:
        return NOT_SEEN, "most predictions have no highest peak there; " + held
    verdict = SEEN if d.origin_fraction_cv <= 0.25 else PARTLY if d.origin_fraction_cv <= 0.5 else NOT_SEEN
    return verdict, held


def _total_density(d: PosterDiagnostics) -> tuple[str, str]:
    if d.density_ratio is None:
        return UNKNOWN, "no true total is positive"
    ratio = d.density_ratio
    verdict = SEEN if 1.6 <= ratio <= 2.5 else PARTLY if ratio > 1.25 else NOT_SEEN
    words = (
        f"the predicted total is {_times(ratio)} the true one "
        f"(median; {_number(d.density_ratio_low)} to {_number(d.density_ratio_high)} in the middle half)"
    )
    return verdict, words


def _zero_phases(baseline: PosterDiagnostics) -> tuple[str, str]:
    if baseline.peak_at_origin is None:
        return UNKNOWN, "no zero-phase map was made"
    verdict = SEEN if baseline.peak_at_origin >= 0.9 else PARTLY if baseline.peak_at_origin >= 0.5 else NOT_SEEN
    words = (
        f"the highest point of the zero-phase map is at the origin in {_percent(baseline.peak_at_origin)} of crystals"
    )
    if baseline.origin_fraction is not None:
        share, radius = _percent(baseline.origin_fraction), baseline.origin_radius
        words += f", with {share} of the total density within {radius:g} Å of it"
    return verdict, words


def _same_pattern(d: PosterDiagnostics) -> tuple[str, str]:
    if d.sameness is None or d.inversion_symmetry is None or d.mirror_symmetry is None:
        return UNKNOWN, "this needs two predictions on one grid shape that are not constant"
    same, even = d.sameness >= 0.9, d.inversion_symmetry >= 0.9
    verdict = SEEN if same and even else PARTLY if d.sameness >= 0.5 else NOT_SEEN
    words = (
        f"predictions for different crystals correlate by {_cc(d.sameness)} on average "
        f"(true maps: {_cc(d.sameness_truth)}), a prediction with its inverse through the origin by "
        f"{_cc(d.inversion_symmetry)} (true maps: {_cc(d.inversion_symmetry_truth)}) and with its mirror images by "
        f"{_cc(d.mirror_symmetry)} (true maps: {_cc(d.mirror_symmetry_truth)})"
    )
    return verdict, words


def _less_the_pattern(d: PosterDiagnostics) -> tuple[str, str]:
    before, after, chance = d.peak_distance, d.peak_distance_less_mean, d.peak_distance_random
    if before is None or after is None or chance is None:
        return UNKNOWN, "this needs two different predictions on one grid shape, and atoms other than hydrogen"
    closer, better_than_chance = after < 0.9 * before, after < 0.9 * chance
    verdict = SEEN if closer and better_than_chance else PARTLY if closer or better_than_chance else NOT_SEEN
    words = (
        f"on the origin as predicted, the strongest peaks are {before:.2f} Å from the nearest atom on average, "
        f"{after:.2f} Å after the mean prediction is subtracted, and points at random {chance:.2f} Å"
    )
    return verdict, words


def _percent(share: float | None) -> str:
    if share is None:
        return "an unknown share"
    percent = 100 * share
    return f"{percent:.0f} %" if abs(percent) >= 10 or percent == 0 else f"{percent:.2g} %"


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _times(value: float) -> str:
    return f"{_number(value)}x"


def _cc(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}".replace("-0.00", "0.00")
