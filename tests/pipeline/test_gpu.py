"""Batches of generate, with NumPy in CuPy's place where there is no GPU."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from phaseray import Crystal, backend
from phaseray.config import GenerateConfig
from phaseray.diffraction.maps import structure_factors_and_density
from phaseray.pipeline import gpu
from tests.strategies import CELLS, random_crystal

SHAPE = (16, 16, 16)


def test_batches_give_the_grids_of_each(xp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "BATCH_POINTS", 2 * 16**3)
    crystals = [random_crystal(CELLS["monoclinic"], seed=i, displacement="none") for i in range(5)]
    config = GenerateConfig()
    made = gpu.batched(crystals, SHAPE, config, xp)
    assert len(made) == 5
    for crystal, (amplitude, rho) in zip(crystals, made, strict=True):
        f, expected = structure_factors_and_density(crystal.with_default_u_iso(0.02), SHAPE, config.d_min)
        assert_allclose(amplitude, abs(f), atol=1e-6 * crystal.n_electrons)
        assert_allclose(rho, expected, atol=2e-6 * np.abs(expected).max())


def test_what_cannot_be_batched_is_left_to_be_done_one_by_one() -> None:
    oganesson = Crystal(cell=[5.0, 5, 5, 90, 90, 90], numbers=[118], positions=[[0, 0, 0]])
    assert gpu.batched([oganesson], SHAPE, GenerateConfig(), np) is None
    assert gpu.batched([], SHAPE, GenerateConfig(max_grid_points=64), np) is None


def test_an_actor_without_its_gpu_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "gpu", lambda: None)
    with pytest.raises(RuntimeError, match="gpus_per_actor"):
        gpu.gpu_of(0.5)
