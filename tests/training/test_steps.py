"""What a step of the optimizer is made of, and that a training goes on at the right sample."""

import itertools

import numpy as np
import pytest
import torch

from phaseray.config import MlpConfig, TrainConfig, UNetConfig
from phaseray.training.checkpoint import load_checkpoint, load_unaveraged
from phaseray.training.loop import NonFiniteLossError, fit, train_epoch
from phaseray.training.objective import RegressionObjective
from phaseray.training.state import TrainingState
from tests.training.memory_data import MemoryData, blobs

SMALL = TrainConfig(model=UNetConfig(width=4, depth=2), batch_size=4, epochs=2)
MLP = TrainConfig(model=MlpConfig(hidden=(10,)), batch_size=4, epochs=2)


def changed(config, **options):
    return TrainConfig.model_validate({**config.model_dump(), **options})


def losses(state):
    return [(e.train_loss, e.val_loss) for e in state.history]


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def fitted(config, data, **options):
    return fit(TrainingState.fresh(config, data, seed=1), data, **options)


@pytest.mark.parametrize("config", [SMALL, MLP], ids=["unet", "mlp"])
def test_accumulated_batches_make_the_step_of_a_large_one(config):
    data = MemoryData.of(train=22)  # the last step has 4 + 2 crystals
    config = changed(config, l2=0.1, optimizer="sgd", learning_rate=1e-2)
    large = fitted(changed(config, batch_size=8), data)
    small = fitted(changed(config, accumulate=2), data)
    assert small.step == large.step == 6
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses(small), losses(large), rtol=1e-5)


def test_the_gradient_is_clipped():
    data = MemoryData.of()
    batch = next(data.batches("train", 4, seed=0, epoch=1))
    config = changed(MLP, optimizer="sgd", learning_rate=1.0, gradient_clip=1e-3)
    state = TrainingState.fresh(config, data, seed=0)
    before = weights(state)
    train_epoch(state, [batch])
    assert (weights(state) - before).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_the_mean_of_the_weights_is_what_is_used(tmp_path):
    data = MemoryData.of()
    config = changed(MLP, ema=0.9, optimizer="sgd", learning_rate=1e-3)
    state = TrainingState.fresh(config, data, seed=0)
    mean = weights(state)
    for step, batch in enumerate(itertools.islice(itertools.cycle(data.batches("train", 4, seed=0, epoch=1)), 6), 1):
        train_epoch(state, [batch])
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weights(state)
    ours = torch.cat([p.flatten() for p in state.averaged.parameters()])
    torch.testing.assert_close(ours, mean, rtol=1e-5, atol=1e-7)
    state.save(tmp_path)
    used, _ = load_checkpoint(tmp_path)
    torch.testing.assert_close(torch.cat([p.flatten() for p in used.parameters()]), ours, rtol=0, atol=0)
    raw = torch.cat([t.flatten() for t in load_unaveraged(tmp_path).values()])
    assert (ours - raw).abs().max() > 0


def test_bfloat16_learns_as_float32_does():
    data = MemoryData.of()
    full, low = (fitted(changed(SMALL, precision=p), data) for p in ("float32", "bfloat16"))
    assert next(low.model.parameters()).dtype == torch.float32
    np.testing.assert_allclose(losses(low), losses(full), rtol=0.02)
    assert losses(low) != losses(full)


def test_a_schedule_ends_where_it_should():
    rates = []
    data = MemoryData.of()
    config = changed(MLP, schedule="cosine", warmup_steps=2)
    state = TrainingState.fresh(config, data, seed=0)
    fit(state, data, on_step=lambda *_: rates.append(state.optimizer.param_groups[0]["lr"]))
    cosine = [1e-3 * (1 + np.cos(np.pi * k / 6)) / 2 for k in range(6)]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, *cosine])


def test_training_ends_after_epochs_without_a_better_one():
    data = MemoryData.of()
    config = changed(MLP, epochs=50, early_stopping=3, learning_rate=1e-12, optimizer="sgd")
    state = fitted(config, data)
    assert state.epoch == 4 + int(np.argmin([e.score for e in state.history]))
    assert state.epoch < 50


def test_batches_are_bounded_by_voxels():
    data = MemoryData({"train": [blobs((8, 8, 8), 6, 0), blobs((4, 4, 4), 20, 1)], "val": []})
    sizes = []

    class Watching(RegressionObjective):
        def losses(self, state, batch, network, **options):
            sizes.append((batch.shape, len(batch.ids)))
            return super().losses(state, batch, network, **options)

    fit(TrainingState.fresh(changed(SMALL, batch_voxels=1100, epochs=1), data, seed=0), data, objective=Watching())
    assert sizes == [((8, 8, 8), 2)] * 3 + [((4, 4, 4), 17), ((4, 4, 4), 3)]


@pytest.mark.parametrize("steps", [3, 9])
def test_an_epoch_is_as_many_steps_as_asked(steps):
    data = MemoryData.of()  # 4 steps a pass
    seen = []

    class Watching(RegressionObjective):
        def losses(self, state, batch, network, *, training, **options):
            seen.extend(batch.ids if training else [])
            return super().losses(state, batch, network, training=training, **options)

    state = fitted(changed(MLP, steps_per_epoch=steps), data, objective=Watching())
    assert (state.step, [e.steps for e in state.history]) == (2 * steps, [steps, 2 * steps])
    first_pass, rest = seen[:12], seen[12:]
    assert len(set(first_pass)) == 12
    assert rest[:12] != first_pass


class Drawn(RegressionObjective):
    """Noise on the loss, as a task that corrupts its input has it."""

    def losses(self, state, batch, network, *, generator, training):
        noise = torch.rand(len(batch.ids), generator=generator)
        return super().losses(state, batch, network, generator=generator, training=training) * (1 + noise)


HARD = {
    "epochs": 2, "ema": 0.9, "schedule": "one_cycle", "gradient_clip": 1.0, "checkpoint_every_steps": 5,
    "batch_size": 2, "steps_per_epoch": 7, "accumulate": 2,
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, HARD], ids=["plain", "everything"])
def test_going_on_within_an_epoch_changes_nothing(tmp_path, options):
    data = MemoryData.of(train=18)
    config = changed(SMALL, **{"checkpoint_every_steps": 3, **options})
    kept = []

    def keep(state):
        folder = tmp_path / str(state.step)
        state.save(folder)
        kept.append(folder)

    whole = fitted(config, data, objective=Drawn(), on_checkpoint=keep)
    assert len(kept) >= 2
    for folder in kept:
        second = TrainingState.fresh(config, data, seed=1)
        second.restore(folder)
        assert second.step == int(folder.name)
        fit(second, data, objective=Drawn())
        assert torch.equal(weights(second), weights(whole)), folder.name
        assert losses(second) == losses(whole)
        assert [e.steps for e in second.history] == [e.steps for e in whole.history]


class Bad(MemoryData):
    """One crystal of the training data has no finite density."""

    @classmethod
    def of(cls, **options):
        data = super().of(**options)
        data.splits["train"][0].density[1, 0, 0, 0] = np.nan
        return data


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(norm):
    data = Bad.of()
    config = changed(SMALL, on_nonfinite="skip", model=UNetConfig(width=4, depth=2, norm=norm))
    state = fitted(config, data)
    assert (state.step, state.skipped, [e.skipped for e in state.history]) == (8, 2, [1, 1])
    assert np.isfinite(losses(state)).all()
    assert all(torch.isfinite(t).all() for t in state.model.state_dict().values())


def test_skipping_leaves_good_steps_as_they_are():
    data = MemoryData.of()
    one, two = (fitted(changed(SMALL, on_nonfinite=what), data) for what in ("stop", "skip"))
    assert losses(one) == losses(two)
    assert torch.equal(weights(one), weights(two))


def test_too_many_bad_steps_in_a_row_end_the_training():
    data = MemoryData.of(val=0)
    data.splits["train"][0].density[:] = np.inf
    with pytest.raises(NonFiniteLossError, match="3 steps in a row"):
        fitted(changed(SMALL, on_nonfinite="skip", max_nonfinite=3), data)


@pytest.mark.parametrize("wrong", [{"workers": [3, 2]}, {"workers": 0}, {"ema": 1.0}, {"accumulate": 0}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        changed(SMALL, **wrong)
