import json
import warnings

import numpy as np
import pytest

from phaseray.evaluation.diagnostics import mean_predictions, poster_diagnostics
from phaseray.evaluation.metrics import align
from phaseray.evaluation.observations import sentences
from phaseray.evaluation.patterns import sameness
from phaseray.evaluation.periodic import distance_from_origin, shortest

CELL = (8.0, 8.0, 8.0, 90.0, 90.0, 90.0)
SHAPE = (16, 16, 16)


def atoms_map(positions, height=8.0, sigma=0.5):
    points = np.stack(np.meshgrid(*(np.arange(n) / n for n in SHAPE), indexing="ij"), -1)
    return sum(height * np.exp(-0.5 * (shortest(points - x, CELL) / sigma) ** 2) for x in positions)


@pytest.fixture(scope="module")
def crystals():
    rng = np.random.default_rng(0)
    positions = [rng.random((5, 3)) for _ in range(6)]
    return {
        "truths": [atoms_map(p) for p in positions],
        "cells": [CELL] * 6,
        "positions": positions,
        "numbers": [np.full(5, 8)] * 6,
    }


def blob():
    return np.exp(-(distance_from_origin(CELL, SHAPE) ** 2))


def numbers_are_finite(d):
    return json.dumps(d.as_dict(), allow_nan=False)


def test_one_blob_for_all_is_what_the_poster_saw(crystals):
    total = np.mean([t.sum() for t in crystals["truths"]])
    d = poster_diagnostics([2 * total * blob() / blob().sum()] * 6, **crystals)
    assert d.peak_at_origin == 1
    assert d.sameness == pytest.approx(1)
    assert d.inversion_symmetry == pytest.approx(1)
    assert d.mirror_symmetry == pytest.approx(1)
    assert d.density_ratio == pytest.approx(2, rel=0.1)
    assert d.origin_fraction_cv == pytest.approx(0, abs=1e-9)
    assert d.origin_fraction == pytest.approx((blob() * (distance_from_origin(CELL, SHAPE) <= 1)).sum() / blob().sum())
    assert d.clustering > 0.5
    assert d.peak_distance_less_mean is None  # nothing is left
    told = sentences(d, d)
    assert len(told) == 6
    assert [s.split("): ")[1].split(";")[0] for s in told] == ["seen"] * 5 + ["cannot be said"]
    assert "2.0" in told[2]


def test_the_truth_is_nothing_that_the_poster_saw(crystals):
    d = poster_diagnostics(crystals["truths"], **crystals)
    assert d.density_ratio == pytest.approx(1)
    assert abs(d.sameness) < 0.2
    assert d.sameness == pytest.approx(d.sameness_truth)
    assert d.peak_distance < 0.3
    assert d.peak_distance_random > 1
    verdicts = [s.split("): ")[1].split(";")[0] for s in sentences(d, d)]
    assert "seen" not in verdicts[:5]


def test_subtracting_the_mean_brings_out_atoms_under_the_common_pattern(crystals):
    predictions = [100 * blob() + t for t in crystals["truths"]]
    strong = [p + 30 * np.roll(blob(), (8, 8, 8), (0, 1, 2)) + 30 * np.roll(blob(), 8, 0) for p in predictions]
    d = poster_diagnostics(strong, **crystals)
    assert d.peak_distance_less_mean < 0.7 * d.peak_distance
    assert "): seen;" in sentences(d, d)[5]


def test_sameness_is_the_mean_of_all_pairs():
    maps = list(np.random.default_rng(0).normal(size=(4, 6, 6, 6)) + np.linspace(0, 3, 6))
    by_hand = [np.corrcoef(maps[i].ravel(), maps[j].ravel())[0, 1] for i in range(4) for j in range(i)]
    assert sameness(maps) == pytest.approx(np.mean(by_hand))
    other = [m[:4] for m in maps[:2]]
    with_other = [*by_hand, np.corrcoef(other[0].ravel(), other[1].ravel())[0, 1]]
    assert sameness([*maps, *other]) == pytest.approx(np.mean(with_other))


def test_inversion_symmetry_is_about_the_origin_point(crystals):
    even = [t + align(t, (0, 0, 0), True) for t in crystals["truths"]]
    assert poster_diagnostics(even, **crystals).inversion_symmetry == pytest.approx(1)


@pytest.mark.parametrize("count", [0, 1])
def test_what_cannot_be_measured_is_none(crystals, count):
    few = {k: v[:count] for k, v in crystals.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        d = poster_diagnostics([blob()] * count, **few)
    assert d.n == count
    assert d.sameness is None
    assert d.origin_fraction_cv is None
    numbers_are_finite(d)
    assert len(sentences(d, d)) == 6


@pytest.mark.parametrize("level", [0.0, 0.3, -1.0])
def test_constant_predictions_give_none_and_not_nan(crystals, level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        d = poster_diagnostics([np.full(SHAPE, level, np.float32)] * 6, **crystals)
    assert d.n_constant == 6
    assert d.sameness is None
    assert d.peak_at_origin is None
    numbers_are_finite(d)
    assert len(sentences(d, d)) == 6


def test_predictions_that_are_not_finite_are_left_out(crystals):
    broken = [np.full(SHAPE, np.nan), *crystals["truths"][1:]]
    d = poster_diagnostics(broken, **crystals)
    assert d.n == 5
    assert next(iter(mean_predictions(broken).values())) == pytest.approx(np.mean(crystals["truths"][1:], axis=0))


def test_hydrogen_alone_has_no_peak_distances(crystals):
    d = poster_diagnostics(crystals["truths"], **{**crystals, "numbers": [np.ones(5, int)] * 6})
    assert d.peak_distance is None
    numbers_are_finite(d)
