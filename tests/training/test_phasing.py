import gemmi
import numpy as np
import pytest
import torch

from phaseray.config import CleanerConfig, PhasingConfig, TrainConfig
from phaseray.phasing.network import transform, transform_back
from phaseray.training.loop import fit, predict
from phaseray.training.phasing import (
    PhasingObjective,
    _friedel,
    aligned,
    draw_problem,
    spoilt_state,
)
from phaseray.training.resident import reciprocal_metric
from phaseray.training.state import TrainingState
from tests.training.memory_data import MemoryData, blobs

SHAPE = (12, 16, 12)
AXES = (1, 2, 3)


@pytest.fixture
def batch():
    return blobs(SHAPE, 4, seed=1)


def problem_of(batch, seed=0, **changes):
    config = PhasingConfig(**{"d_min": (1.0, 1.2), "noisy_fraction": 0.0} | changes)
    generator = torch.Generator().manual_seed(seed)
    return draw_problem(torch.tensor(batch.density), torch.tensor(batch.cell), 0.8, config, generator), generator


def test_reciprocal_metric_is_that_of_gemmi():
    cells = [[5.1, 6.2, 7.3, 80.0, 95.0, 104.0], [4.0, 4.0, 9.0, 90.0, 90.0, 120.0]]
    ours = reciprocal_metric(torch.tensor(cells))
    for cell, metric in zip(cells, ours, strict=True):
        inverse = np.array(gemmi.UnitCell(*cell).frac.mat.tolist())
        assert np.allclose(metric, inverse @ inverse.T, rtol=1e-6)


def test_a_problem_has_the_amplitudes_of_its_truth_and_no_reflection_beyond_its_resolution(batch):
    problem, _ = problem_of(batch)
    observed = problem.observed
    assert torch.allclose(observed.amplitude, problem.truth.abs(), rtol=1e-4, atol=1e-3)
    assert torch.allclose(transform_back(problem.truth, observed.shape).square().mean(AXES), torch.ones(4), rtol=1e-3)
    d = float(observed.d_min[0])
    h = torch.stack(torch.meshgrid(
        *[torch.fft.fftfreq(n, 1 / n) for n in observed.shape[:2]], torch.arange(observed.shape[2] // 2 + 1.0),
        indexing="ij"), -1)  # fmt: skip
    inverse_d2 = torch.einsum("xyzi,bij,xyzj->bxyz", h, reciprocal_metric(torch.tensor(batch.cell)).float(), h)
    assert not observed.measured[inverse_d2 > 1.0001 / d**2].any()
    assert observed.measured[(inverse_d2 < 0.9999 / d**2) & (inverse_d2 > 0)].all()


def test_errors_and_gaps_obey_friedel(batch):
    problem, _ = problem_of(batch, noisy_fraction=1.0, largest_noise=0.5, largest_gap=0.5)
    X = problem.observed.amplitude.to(torch.complex64)
    assert torch.allclose(transform(transform_back(X, problem.observed.shape)), X, atol=1e-2)
    assert (problem.observed.inside & ~problem.observed.measured).any()
    values = torch.randn(2, 8, 8, 5)
    once = _friedel(values, (8, 8, 8))
    assert torch.equal(once[:, 1, 2, 0], once[:, -1, -2, 0])
    assert torch.equal(once[..., 1:], values[..., 1:])


def test_a_spoilt_state_keeps_the_amplitudes(batch):
    problem, generator = problem_of(batch)
    state = spoilt_state(problem, generator)
    assert torch.allclose(state.coefficients.abs(), problem.observed.amplitude, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_target_follows_a_state_that_moved_or_inverted(batch, inverted):
    problem, _ = problem_of(batch)
    shape = problem.observed.shape
    truth = transform_back(problem.truth, shape)
    like = truth.flip(AXES).roll((1, 1, 1), AXES) if inverted else truth
    like = like.roll((3, -2, 5), AXES)
    found = aligned(problem.truth, like, shape)
    assert torch.allclose(found, like, atol=0.25)
    assert ((found * like).mean(AXES) > 0.99).all()


def config(**changes):
    return TrainConfig(
        model=CleanerConfig(width=16, deep_width=16, blocks=(1, 1, 1)),
        phasing=PhasingConfig(d_min=(0.9, 1.2), visits=3, pool=2),
        optimizer="adamw", learning_rate=3e-3, epochs=4, gradient_clip=1.0, batch_size=8, **changes,
    )  # fmt: skip


def data():
    return MemoryData.of(SHAPE, train=24, val=8)


def test_training_learns_and_repeats_itself():
    losses = []
    for _ in range(2):
        state = TrainingState.fresh(config(), data(), seed=0)
        fit(state, data())
        losses.append([e.val_loss for e in state.history])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_problems_stay_and_their_iterations_go_on():
    state = TrainingState.fresh(config(), data(), seed=0)
    objective = PhasingObjective(state.config.phasing)
    generator = torch.Generator().manual_seed(0)

    def step(batch):
        return objective.losses(state, batch, state.network, generator=generator, training=True)

    assert objective.visit(0) == 0
    step(blobs(SHAPE, 4, 1))
    assert [objective.visit(i) for i in range(4)] == [0, 1, 2, 0]
    first = objective.pool[0]
    before = first.state.coefficients
    step(None)
    assert objective.pool == [first]
    assert not torch.equal(first.state.coefficients, before)
    # amplitudes are the measured ones wherever the iteration stands
    measured = first.problem.observed.measured
    there = first.state.coefficients.abs()[measured]
    assert torch.allclose(there, first.problem.observed.amplitude[measured], rtol=1e-4, atol=1e-3)
    step(blobs(SHAPE, 4, 2))
    assert len(objective.pool) == 2
    step(blobs(SHAPE, 4, 3))
    assert len(objective.pool) == 2  # another one made way


def test_gradients_go_through_the_amplitudes_that_are_put_back():
    batch = blobs(SHAPE, 4, 1)

    def learned(through, steps):
        """Gradient of all steps over their number of cycles, and where the iteration then stands."""
        state = TrainingState.fresh(config(), data(), seed=0)
        torch.manual_seed(0)
        torch.nn.init.normal_(state.network.head.weight, std=0.05)
        changed = state.config.phasing.model_copy(update={"through": through, "forgetting": 0.0})
        objective, generator = PhasingObjective(changed), torch.Generator().manual_seed(0)
        for step in range(steps):
            given = None if step else batch
            losses = objective.losses(state, given, state.network, generator=generator, training=True)
            (losses.mean() / steps).backward()
        at = objective.pool[0].state
        assert not at.coefficients.requires_grad
        assert not at.cleaned.requires_grad
        return torch.cat([p.grad.flatten() for p in state.network.parameters()]), at.coefficients

    apart, there = learned(0, 2)
    through, as_far = learned(1, 1)
    assert torch.allclose(as_far, there, rtol=1e-4, atol=1e-3)
    assert torch.isfinite(through).all()
    assert (through - apart).norm() > 0.01 * apart.norm()


def test_a_pass_has_so_many_steps_a_batch_as_visits():
    state = TrainingState.fresh(config(), data(), seed=0)
    fit(state, data())
    batches = data().steps("train", state.config.batch_size)
    assert [e.steps for e in state.history] == [3 * batches * (i + 1) for i in range(4)]


def test_training_goes_on_within_an_epoch(tmp_path):
    kept = []

    def keep(state):
        if not kept:
            state.save(tmp_path)
            kept.append(state.cursor.steps)

    changed = config(checkpoint_every_steps=4, steps_per_epoch=10)
    fit(TrainingState.fresh(changed, data(), seed=0), data(), on_checkpoint=keep)
    assert kept == [4]
    again = TrainingState.fresh(changed, data(), seed=0)
    again.restore(tmp_path)
    fit(again, data())
    assert [e.steps for e in again.history] == [10, 20, 30, 40]


def test_a_prediction_has_the_measured_amplitudes():
    state = TrainingState.fresh(config(), data(), seed=0)
    batch = blobs(SHAPE, 2, 3)
    (maps,) = predict(state.model, state.meta, [batch])
    made = np.abs(np.fft.rfftn(maps, axes=AXES)) * batch.volume[:, None, None, None] / np.prod(SHAPE)
    expected = batch.amplitude.copy()
    expected[:, 0, 0, 0] = 0
    assert np.allclose(made, expected, rtol=1e-3, atol=1e-2 * expected.max())


def test_training_goes_on_from_weights(tmp_path):
    state = TrainingState.fresh(config(), data(), seed=0)
    state.save(tmp_path)
    again = TrainingState.fresh(config(start_from=str(tmp_path)), data(), seed=1)
    for a, b in zip(state.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another network"):
        TrainingState.fresh(
            TrainConfig(model=CleanerConfig(width=8, deep_width=16), start_from=str(tmp_path)), data(), seed=1
        )
