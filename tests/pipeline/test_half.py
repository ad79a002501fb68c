"""Half precision: eleven bits of every value, however large F(000) is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseray.pipeline.half import errors, from_half, to_half


@given(st.integers(0, 2**32 - 1), st.floats(-12, 12))
def test_values_keep_eleven_bits(seed: int, magnitude: float) -> None:
    rng = np.random.default_rng(seed)
    grids = (10.0**magnitude * rng.standard_normal((3, 4, 5)) * 10.0 ** rng.uniform(-4, 0, (3, 4, 5))).astype(
        np.float32
    )
    half, scale = to_half(grids)
    assert half.dtype == np.float16
    assert np.isfinite(half).all()
    assert (np.frexp(scale)[0] == 0.5).all()
    np.testing.assert_allclose(from_half(half, scale), grids, rtol=2**-11, atol=abs(grids).max() * 2**-39)
    largest, rms = errors(grids, half, scale)
    assert max(largest, rms) <= 2**-11


def test_what_half_precision_alone_cannot_hold() -> None:
    amplitudes = np.array([[2e5, 1.0, 1e-2, 0.0]], np.float32)
    assert np.isinf(amplitudes.astype(np.float16)).any()
    found = from_half(*to_half(amplitudes))
    np.testing.assert_allclose(found, amplitudes, rtol=2**-11)
    assert found[0, 3] == 0


@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_nothing_stays_nothing(shape: tuple[int, int]) -> None:
    grids = np.zeros(shape, np.float32)
    half, scale = to_half(grids)
    assert (from_half(half, scale) == 0).all()
    assert errors(grids, half, scale) == (0.0, 0.0)
