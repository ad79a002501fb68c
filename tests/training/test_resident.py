"""Crystals that stay on the device: the same coefficients as on disk, whatever their grid and the order of axes."""

import numpy as np
import pytest
import torch

from phaseray.config import CleanerConfig, ConfigError, PhasingConfig, TrainConfig, load
from phaseray.training.loop import fit
from phaseray.training.resident import ResidentCrystals, indices, reciprocal_metric
from phaseray.training.state import TrainingState
from tests.training.memory_data import MemoryData, blobs

AXES = (1, 2, 3)


@pytest.fixture
def data():
    return MemoryData(
        {"train": [blobs((12, 16, 12), 5, 1), blobs((16, 12, 20), 4, 2)], "val": [blobs((12, 12, 12), 3, 3)]}
    )


def test_coefficients_are_those_of_the_map_with_its_axes_in_another_order(data):
    crystals = ResidentCrystals(data, "train", "cpu")
    assert len(crystals) == 9
    shape, axes = (20, 16, 12), np.array([[2, 0, 1]] * 4)
    F, _ = crystals._taken(np.arange(5, 9), axes, shape)
    density = torch.tensor(data.splits["train"][1].density).permute(0, 3, 1, 2)
    expected = torch.fft.rfftn(density, dim=AXES)
    expected[:, 0, 0, 0] = 0
    scale = expected.abs().square().sum(AXES, keepdim=True).sqrt() / F.abs().square().sum(AXES, keepdim=True).sqrt()
    assert torch.allclose(F * scale, expected, atol=2e-3 * float(expected.abs().max()))


def test_spacings_are_those_of_the_turned_cell(data):
    crystals = ResidentCrystals(data, "train", "cpu")
    cell = torch.tensor([[4.0, 5.0, 7.0, 80.0, 95.0, 104.0]])
    crystals.metric = reciprocal_metric(cell).expand(9, 3, 3)
    _, turned = crystals._taken(np.array([0]), np.array([[2, 0, 1]]), (12, 12, 12))
    # axes c, a, b and the angles between b and a, b and c, a and c
    assert torch.allclose(turned, reciprocal_metric(torch.tensor([[7.0, 4.0, 5.0, 104.0, 80.0, 95.0]])))


def test_a_batch_has_one_grid_and_no_more_points_than_asked(data):
    crystals = ResidentCrystals(data, "train", "cpu")
    generator = torch.Generator().manual_seed(0)
    for d in (1.0, 1.5):
        F, metric, shape = crystals.draw(d, 2.5, 6000, generator)
        assert F.shape[1:] == (*shape[:2], shape[2] // 2 + 1)
        assert metric.shape == (len(F), 3, 3)
        assert len(F) * np.prod(shape) <= 6000
        assert all(n % 4 == 0 and n >= 8 for n in shape)
    again = [crystals.draw(1.0, 2.5, 6000, torch.Generator().manual_seed(5))[0] for _ in range(2)]
    assert torch.equal(*again)


def drawn(crystals, voxels, batches):
    """(N,) how often each crystal came up."""
    seen = []
    taken = crystals._taken
    crystals._taken = lambda members, *rest: seen.extend(members) or taken(members, *rest)
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        crystals.draw(1.2, 2.5, voxels, generator)
    return np.bincount(seen, minlength=len(crystals))


def test_every_crystal_comes_up(data):
    assert (drawn(ResidentCrystals(data, "train", "cpu"), 4000, 100) > 0).all()


def test_favoured_crystals_come_up_more_often(data):
    crystals = ResidentCrystals(data, "train", "cpu", {"blob-2-0": 3.0, "quartz": 2.0})
    assert crystals.weights.tolist() == [1, 1, 1, 1, 1, 3, 1, 1, 1]
    assert crystals.absent == ["quartz"]
    counts = drawn(crystals, 2500, 300)
    assert counts[5] > 1.7 * counts[6:].mean()


def test_favour_for_nobody_is_an_error(data):
    changed = config(steps_per_epoch=2, batch_voxels=8000)
    phasing = changed.phasing.model_copy(update={"favour": {"quartz": 2.0}})
    changed = changed.model_copy(update={"phasing": phasing})
    with pytest.raises(ValueError, match="favour names quartz"):
        fit(TrainingState.fresh(changed, data, seed=0), data)


def config(**changes):
    return TrainConfig(
        model=CleanerConfig(width=16, deep_width=16, blocks=(1, 1, 1), patterson=True, judges=True),
        phasing=PhasingConfig(d_min=(1.0, 1.3), visits=3, pool=2, resident=True),
        optimizer="adamw", learning_rate=3e-3, epochs=4, gradient_clip=1.0, **changes,
    )  # fmt: skip


def test_training_on_them_learns_and_repeats_itself(data):
    losses = []
    for _ in range(2):
        state = TrainingState.fresh(config(steps_per_epoch=12, batch_voxels=8000), data, seed=0)
        fit(state, data)
        losses.append([(e.train_loss, e.val_loss) for e in state.history])
    assert losses[0] == losses[1]
    assert losses[0][-1][1] < losses[0][0][1]
    assert state.step == 48


def test_it_wants_the_length_of_an_epoch():
    with pytest.raises(ConfigError, match="steps_per_epoch"):
        load(None, ["train.phasing.resident=true", "train.batch_voxels=1000"])


def test_indices_are_those_of_a_half_grid():
    hkl = indices((4, 6, 8), "cpu")
    assert hkl.shape == (4, 6, 5, 3)
    assert hkl[3, 4, 2].tolist() == [-1, -2, 2]
