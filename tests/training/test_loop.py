import json

import numpy as np
import pytest
import torch

from phaseray.config import MlpConfig, TrainConfig, UNetConfig
from phaseray.training.checkpoint import CheckpointError, load_checkpoint
from phaseray.training.inputs import density_scale, network_input
from phaseray.training.loop import NonFiniteLossError, fit, predict, train_epoch
from phaseray.training.state import Epoch, TrainingState
from tests.training.memory_data import MemoryBatch, MemoryData, blobs

SMALL_UNET = TrainConfig(model=UNetConfig(width=4, depth=2), batch_size=4, epochs=2)
SMALL_MLP = TrainConfig(model=MlpConfig(hidden=(10,)), batch_size=4, epochs=2)


def losses(state):
    return [(e.train_loss, e.val_loss) for e in state.history]


@pytest.mark.parametrize("config", [SMALL_UNET, SMALL_MLP], ids=["unet", "mlp"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_same_seed_gives_the_same_losses_exactly(config, optimizer):
    config = config.model_copy(update={"optimizer": optimizer, "weight_decay": 1e-4, "l2": 1e-4})
    data = MemoryData.of()
    one, two = (losses(fit(TrainingState.fresh(config, data, seed=3), data)) for _ in range(2))
    assert one == two
    assert losses(fit(TrainingState.fresh(config, data, seed=4), data)) != one


@pytest.mark.parametrize("loss", ["mse", "mse_any_origin"])
def test_the_loss_falls(loss):
    data = MemoryData.of(train=12)
    config = SMALL_UNET.model_copy(update={"epochs": 15, "learning_rate": 1e-2, "loss": loss})
    state = fit(TrainingState.fresh(config, data, seed=0), data)
    assert [e.epoch for e in state.history] == list(range(1, 16))
    assert state.history[-1].train_loss < 0.9 * state.history[0].train_loss


def test_grids_of_several_shapes_train_one_unet():
    data = MemoryData({"train": [blobs((8, 8, 8), 4, 0), blobs((8, 12, 6), 4, 1)], "val": []})
    state = fit(TrainingState.fresh(SMALL_UNET, data, seed=0), data)
    assert state.history[-1].val_loss is None
    assert state.history[-1].score == state.history[-1].train_loss


def test_an_mlp_refuses_grids_of_several_shapes():
    data = MemoryData({"train": [blobs((8, 8, 8), 4, 0), blobs((8, 12, 6), 4, 1)]})
    with pytest.raises(ValueError, match="fixed grid"):
        TrainingState.fresh(SMALL_MLP, data, seed=0)


def test_no_training_crystals_is_an_error():
    with pytest.raises(ValueError, match="no training crystals"):
        TrainingState.fresh(SMALL_MLP, MemoryData({"train": []}), seed=0)


@pytest.mark.parametrize(("optimizer", "norm"), [("adam", "group"), ("adamw", "batch"), ("sgd", "none")])
def test_going_on_from_a_checkpoint_changes_nothing(tmp_path, optimizer, norm):
    data = MemoryData.of()
    model = UNetConfig(width=4, depth=2, norm=norm)
    config = SMALL_UNET.model_copy(update={"epochs": 4, "optimizer": optimizer, "model": model})
    whole = fit(TrainingState.fresh(config, data, seed=1), data)

    first = fit(TrainingState.fresh(config.model_copy(update={"epochs": 2}), data, seed=1), data)
    first.save(tmp_path)
    second = TrainingState.fresh(config, data, seed=1)
    second.restore(tmp_path)
    assert second.epoch == 2
    assert losses(fit(second, data)) == losses(whole)


def test_a_checkpoint_holds_no_pickle_and_says_what_it_is(tmp_path):
    data = MemoryData.of()
    state = fit(TrainingState.fresh(SMALL_UNET, data, seed=1), data)
    state.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors", "optimizer.safetensors"]
    document = json.loads((tmp_path / "model.json").read_text())
    assert document["dataset_digest"] == data.digest
    assert document["epoch"] == 2
    model, meta = load_checkpoint(tmp_path)
    assert meta.config == SMALL_UNET
    assert meta.history == tuple(vars(e) for e in state.history)
    assert not model.training
    for name, value in state.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert load_checkpoint(tmp_path / "model.safetensors")[1] == meta


def test_loading_leaves_the_random_generator_alone(tmp_path):
    data = MemoryData.of()
    TrainingState.fresh(SMALL_UNET, data, seed=1).save(tmp_path)
    torch.manual_seed(5)
    load_checkpoint(tmp_path)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: (p / "model.json").unlink(), "no trained model"),
        (lambda p: (p / "model.safetensors").unlink(), "cannot be read"),
        (lambda p: (p / "model.safetensors").write_bytes(b"x" * 100), "not the file"),
        (lambda p: (p / "model.json").write_text("{"), "not JSON"),
        (lambda p: (p / "model.json").write_text('{"format": 99}'), "format 99"),
    ],
    ids=["no json", "no weights", "other weights", "half a json", "from the future"],
)
def test_a_spoilt_checkpoint_is_refused(tmp_path, spoil, says):
    TrainingState.fresh(SMALL_UNET, MemoryData.of(), seed=1).save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(tmp_path)


def test_another_network_or_data_set_is_not_gone_on_from(tmp_path):
    data = MemoryData.of()
    TrainingState.fresh(SMALL_UNET, data, seed=1).save(tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        TrainingState.fresh(SMALL_MLP, data, seed=1).restore(tmp_path)
    other = MemoryData(data.splits, digest="f" * 16)
    with pytest.raises(CheckpointError, match="another data set"):
        TrainingState.fresh(SMALL_UNET, other, seed=1).restore(tmp_path)


def test_divergence_says_what_to_change():
    data = MemoryData.of()
    config = SMALL_MLP.model_copy(update={"learning_rate": 1e30, "optimizer": "sgd"})
    with pytest.raises(NonFiniteLossError, match=r"lower train.learning_rate \(now 1e\+30\)"):
        fit(TrainingState.fresh(config, data, seed=0), data)


def test_a_bad_crystal_is_named():
    data = MemoryData.of(train=3)
    data.splits["train"][0].density[1, 0, 0, 0] = np.nan
    with pytest.raises(NonFiniteLossError, match=r"blob-0-1 hold values that are not finite"):
        train_epoch(TrainingState.fresh(SMALL_MLP, data, seed=0), data.batches("train", 4, seed=0, epoch=1))


def test_a_crystal_without_reflections_does_not_stop_training():
    data = MemoryData.of(train=3)
    batch = data.splits["train"][0]
    batch.amplitude[0] = 0
    batch.density[0] = 0.5
    state = fit(TrainingState.fresh(SMALL_UNET, data, seed=0), data)
    assert np.isfinite(state.history[-1].train_loss)


def test_no_epoch_begins_after_the_time_is_over():
    data = MemoryData.of()
    config = SMALL_MLP.model_copy(update={"epochs": 1000, "max_minutes": 1e-9})
    seen = []
    fit(TrainingState.fresh(config, data, seed=0), data, on_epoch=lambda s: seen.append(s.epoch))
    assert seen == [1]


def test_a_flat_map_has_a_loss_of_one():
    data = MemoryData.of(val=0)
    batch = data.splits["train"][0]
    scale = density_scale(torch.tensor(batch.amplitude), batch.shape, torch.tensor(batch.volume))
    target = torch.tensor(batch.density) / scale[:, None, None, None]
    flat = target.mean((1, 2, 3), keepdim=True).expand_as(target)
    torch.testing.assert_close((target - flat).square().mean((1, 2, 3)), torch.ones(len(batch.ids)))


def test_predictions_are_densities_of_the_batches_in_turn(tmp_path):
    data = MemoryData.of()
    state = fit(TrainingState.fresh(SMALL_UNET, data, seed=0), data)
    state.save(tmp_path)
    model, meta = load_checkpoint(tmp_path)
    batch = data.splits["val"][0]
    (whole,) = predict(model, meta, [batch])
    assert whole.shape == batch.density.shape
    assert whole.dtype == np.float32
    parts = list(predict(model, meta, data.batches("val", 1, seed=0, epoch=0, shuffle=False)))
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-4, atol=1e-5)
    # what is predicted is what the loss was taken of
    rms = batch.density.std((1, 2, 3))
    error = (((whole - batch.density) / rms[:, None, None, None]) ** 2).mean()
    assert error == pytest.approx(state.history[-1].val_loss, rel=1e-3)


def test_the_penalty_is_scikit_learns():
    data = MemoryData.of(train=4, val=0)
    gradients = []
    for l2 in (0.0, 0.5):
        state = TrainingState.fresh(SMALL_MLP.model_copy(update={"l2": l2, "learning_rate": 1e-12}), data, seed=0)
        train_epoch(state, data.batches("train", 4, seed=0, epoch=1))
        gradients.append([p.grad for p in state.model.parameters()])
    for parameter, without, with_l2 in zip(state.model.parameters(), *gradients, strict=True):
        expected = 0.5 / 4 * parameter.detach() if parameter.ndim > 1 else torch.zeros_like(parameter)
        torch.testing.assert_close(with_l2 - without, expected, rtol=1e-3, atol=1e-6)


def test_the_batch_of_a_worker_is_its_share():
    data = MemoryData.of(train=8)
    ids = [[i for b in data.batches("train", 2, seed=0, epoch=1, rank=r, world=2) for i in b.ids] for r in (0, 1)]
    assert sorted(ids[0] + ids[1]) == sorted(data.splits["train"][0].ids)
    assert isinstance(next(data.batches("train", 2, seed=0, epoch=1)), MemoryBatch)


def test_history_lines_are_plain():
    line = {"epoch": 1, "train_loss": 0.5, "val_loss": None, "seconds": 2.0, "steps": 8, "skipped": 0}
    assert vars(Epoch(1, 0.5, None, 2.0, 8)) == {**line, "data_wait": None}


def test_the_input_kind_is_the_configured_one():
    data = MemoryData.of()
    batch = data.splits["train"][0]
    seen = {}
    for kind in ("intensities", "zero_phase"):
        state = TrainingState.fresh(SMALL_MLP.model_copy(update={"input": kind}), data, seed=0)
        state.network.register_forward_pre_hook(lambda _, inputs, kind=kind: seen.setdefault(kind, inputs[0]))
        train_epoch(state, [batch])
        torch.testing.assert_close(seen[kind], network_input(kind, torch.tensor(batch.amplitude), batch.shape))
