import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from phaseray.diffraction.grid import half_shape
from phaseray.evaluation import metrics
from phaseray.evaluation.metrics import align, best_alignment, map_cc, map_cc_strict, r_factor
from phaseray.evaluation.reciprocal import patterson_cc, phase_error, within_resolution

SHAPE = (8, 6, 10)
CELL = (6.0, 5.0, 8.0, 80.0, 95.0, 112.0)

shifts = st.tuples(*(st.integers(0, n - 1) for n in SHAPE))
maps = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=SHAPE))


@settings(max_examples=60, deadline=None)
@given(rho=maps, shift=shifts, inverted=st.booleans(), scale=st.floats(1e-6, 1e6), level=st.floats(-5, 5))
def test_map_cc_knows_neither_origin_hand_scale_nor_f000(rho, shift, inverted, scale, level):
    moved = scale * (align(rho, shift, inverted) + level)
    assert map_cc(moved, rho) == pytest.approx(1, abs=1e-9)
    assert map_cc(rho, moved) == pytest.approx(1, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(a=maps, b=maps, shift=shifts, inverted=st.booleans())
def test_map_cc_of_two_maps_does_not_change_when_one_is_moved(a, b, shift, inverted):
    assert map_cc(align(a, shift, inverted), b) == pytest.approx(map_cc(a, b), abs=1e-9)
    assert map_cc(a, b) == pytest.approx(map_cc(b, a), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(rho=maps, shift=shifts, inverted=st.booleans())
def test_best_alignment_brings_a_map_back_onto_itself(rho, shift, inverted):
    moved = align(rho, shift, inverted)
    found = best_alignment(moved, rho)
    assert found.inverted == inverted
    np.testing.assert_allclose(align(moved, found.shift, found.inverted), rho)


def test_map_cc_is_the_best_of_all_translations_tried_one_by_one():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 4, 4, 6))
    by_hand = max(
        np.corrcoef(align(a, shift, inverted).ravel(), b.ravel())[0, 1]
        for shift in np.ndindex(4, 4, 6)
        for inverted in (False, True)
    )
    assert map_cc(a, b) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_map_correlates_with_nothing(dtype):
    rho = np.random.default_rng(0).normal(size=SHAPE).astype(dtype)
    for level in (0, 0.1, 1e6):
        assert map_cc(np.full(SHAPE, level, dtype), rho) == 0
        assert map_cc(rho, np.full(SHAPE, level, dtype)) == 0


def test_random_maps_do_not_correlate():
    a, b = np.random.default_rng(0).normal(size=(2, 24, 24, 24))
    assert map_cc(a, b) < 0.06


def test_maps_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="one grid"):
        map_cc(np.ones((4, 4, 4)), np.ones((4, 4, 6)))
    with pytest.raises(ValueError, match="finite"):
        map_cc(np.full((4, 4, 4), np.nan), np.ones((4, 4, 4)))


def test_map_cc_strict_permits_the_origins_of_the_space_group_only():
    rho = np.random.default_rng(3).normal(size=SHAPE)
    half = np.roll(rho, (4, 3, 5), axis=(0, 1, 2))
    elsewhere = np.roll(rho, (1, 0, 0), axis=(0, 1, 2))
    assert map_cc_strict(half, rho, "P -1") == pytest.approx(1)
    assert map_cc_strict(elsewhere, rho, "P -1") < 0.5
    assert map_cc_strict(elsewhere, rho, "P 1") == pytest.approx(1)
    assert map_cc_strict(np.roll(rho, 3, axis=1), rho, gemmi.SpaceGroup("P 21")) == pytest.approx(1)  # b is polar
    assert map_cc_strict(elsewhere, rho, 4) < 0.5


def test_map_cc_strict_inverts_through_the_point_that_the_group_prescribes():
    # I -4 2 d: the inverse through the origin stands on another origin than the group's own
    rho = np.random.default_rng(3).normal(size=(8, 8, 8))
    assert map_cc_strict(align(rho, (0, 4, 2), True), rho, "I -4 2 d") == pytest.approx(1)
    assert map_cc_strict(align(rho, (1, 0, 0), True), rho, "I -4 2 d") < 0.5


# -- reciprocal space ------------------------------------------------------------------------


def random_f(shape, rng, cell=CELL, d_min=1.6):
    """Half grid of a real map, with random acentric phases inside the sphere of d_min."""
    F = metrics.half_grid_of(rng.normal(size=shape), 1.0)
    return np.where(within_resolution(cell, shape, d_min), F, 0)


def phase_ramp(shape, t):
    h, k = (np.fft.fftfreq(n, 1 / n) for n in shape[:2])
    H, K, L = np.meshgrid(h, k, np.arange(shape[2] // 2 + 1), indexing="ij")
    return np.exp(2j * np.pi * (H * t[0] + K * t[1] + L * t[2]))


def test_independent_reflections_are_half_of_those_without_f000_and_nyquist():
    assert metrics.independent_reflections((8, 6, 10)).sum() == (7 * 5 * 9 - 1) // 2
    assert metrics.independent_reflections((5, 7, 3)).sum() == (5 * 7 * 3 - 1) // 2
    assert metrics.independent_reflections((4, 4, 4)).shape == half_shape((4, 4, 4))


@settings(max_examples=25, deadline=None)
@given(t=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3), inverted=st.booleans(), seed=st.integers(0, 1000))
def test_phase_error_is_nothing_for_the_truth_on_another_origin_and_hand(t, inverted, seed):
    shape = (16, 12, 20)
    F = random_f(shape, np.random.default_rng(seed))
    moved = (F.conj() if inverted else F) * phase_ramp(shape, t)
    assert phase_error(F, 3.0 * moved, shape) == pytest.approx(0, abs=0.05)


def test_phase_error_of_random_phases_is_about_90_degrees():
    shape, cell = (24, 24, 24), (10, 10, 10, 90, 90, 90)
    rng = np.random.default_rng(0)
    F, G = (random_f(shape, rng, cell, 1.0) for _ in range(2))
    assert 82 < phase_error(F, G, shape) < 90  # the best of all origins


def test_phase_error_is_the_known_one():
    shape = (16, 12, 20)
    F = random_f(shape, np.random.default_rng(4))
    sign = np.where(np.random.default_rng(5).random(F.shape) < 0.5, -1, 1)
    assert phase_error(F, F * np.exp(1j * np.radians(20) * sign), shape) == pytest.approx(20, abs=1.0)


def test_phase_error_of_a_map_without_reflections_is_90():
    F = random_f(SHAPE, np.random.default_rng(0))
    constant = metrics.half_grid_of(np.full(SHAPE, 0.3, np.float32), 100.0)
    assert phase_error(F, constant, SHAPE) == 90
    assert phase_error(F, np.zeros_like(F), SHAPE) == 90


def test_a_reflection_that_is_missing_counts_as_a_random_one():
    F = random_f(SHAPE, np.random.default_rng(0))
    missing = F.copy()
    missing[2, 1, 1] = 0
    mask = metrics.independent_reflections(SHAPE)
    expected = 90 * abs(F[2, 1, 1]) / abs(F[mask]).sum()
    assert phase_error(F, missing, SHAPE) == pytest.approx(expected, abs=1e-6)


@given(f=arrays(float, 20, elements=st.floats(0.1, 100)), scale=st.floats(1e-3, 1e3))
def test_r_factor_knows_no_scale(f, scale):
    assert r_factor(f, scale * f) == pytest.approx(0, abs=1e-9)
    assert r_factor(f, scale * f[::-1]) == pytest.approx(r_factor(f, f[::-1]), abs=1e-9)


def test_r_factor_by_hand():
    # k = (2·1 + 4·3) / (1 + 9) = 1.4
    assert r_factor([2, 4], [1, 3j]) == pytest.approx((0.6 + 0.2) / 6)
    assert r_factor([2, 4], [0, 0]) == 1
    with pytest.raises(ValueError, match="above zero"):
        r_factor([0, 0], [1, 2])


@settings(max_examples=20, deadline=None)
@given(shift=st.tuples(*[st.integers(0, 11)] * 3), inverted=st.booleans(), seed=st.integers(0, 1000))
def test_patterson_cc_knows_neither_origin_nor_hand(shift, inverted, seed):
    shape, volume = (12, 12, 12), 200.0
    F = random_f(shape, np.random.default_rng(seed))
    truth = np.fft.irfftn(F.conj(), s=shape, axes=(0, 1, 2)) * 12**3 / volume
    moved = 2 * align(truth, shift, inverted) + 1
    assert patterson_cc(moved, abs(F), CELL, 1.6) == pytest.approx(1, abs=1e-9)


def test_patterson_cc_of_another_structure_is_small_and_of_nothing_undefined():
    shape = (16, 16, 20)
    rng = np.random.default_rng(0)
    F, G = (random_f(shape, rng, d_min=1.0) for _ in range(2))
    other = np.fft.irfftn(G.conj(), s=shape, axes=(0, 1, 2))
    assert abs(patterson_cc(other, abs(F), CELL, 1.0)) < 0.4
    assert patterson_cc(np.full(shape, 0.2, np.float32), abs(F), CELL, 1.0) == 0
    assert patterson_cc(other, abs(F), (2, 2, 2, 90, 90, 90), 3.0) is None


def test_solved_and_trivial():
    assert metrics.solved(0.8, 0.8)
    assert not metrics.solved(0.9, None)
    assert not metrics.solved(0.79, 1.0)
    assert metrics.trivial(0.7)
    assert not metrics.trivial(0.69)


def test_scores_do_not_import_matplotlib():
    import subprocess
    import sys

    code = (
        "import phaseray, sys; phaseray.map_cc; import phaseray.evaluation; phaseray.evaluation.map_cc;"
        "print([m for m in ('matplotlib', 'jinja2', 'scipy.optimize', 'ray', 'mlflow', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
