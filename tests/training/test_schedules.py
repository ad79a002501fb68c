import pytest
import torch

from phaseray.config import TrainConfig
from phaseray.training.schedules import rate_factor


def ours(total, **options):
    return [rate_factor(TrainConfig(**options), step, total) for step in range(total)]


def of_torch(make, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_is_torchs():
    expected = of_torch(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50), 50)
    assert ours(50, schedule="cosine") == pytest.approx(expected)


def test_one_cycle_is_torchs():
    expected = of_torch(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=70), 70)
    assert ours(70, schedule="one_cycle") == pytest.approx(expected)
    expected = of_torch(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=70, pct_start=7 / 70), 70
    )
    assert ours(70, schedule="one_cycle", warmup_steps=7) == pytest.approx(expected)


def test_warmup_rises_by_equal_parts_and_the_cosine_follows():
    assert ours(6, warmup_steps=3) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert ours(23, schedule="cosine", warmup_steps=3) == [0.25, 0.5, 0.75, *ours(20, schedule="cosine")]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_training_of_few_steps_or_more_than_reckoned_has_a_rate(schedule, total):
    rates = [rate_factor(TrainConfig(schedule=schedule), step, total) for step in range(total + 2)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[0] > 0
