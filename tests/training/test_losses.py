import itertools

import pytest
import torch

from phaseray.training.losses import mse, mse_any_origin

SHAPES = [(3, 4, 2), (4, 4, 4), (2, 3, 5)]


def by_brute_force(prediction, target):
    best = []
    for p, r in zip(prediction, target, strict=True):
        hands = (r, r.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2)))
        shifts = itertools.product(*map(range, r.shape))
        errors = [(p - hand.roll(t, (0, 1, 2))).square().mean() for t in shifts for hand in hands]
        best.append(torch.stack(errors).min())
    return torch.stack(best)


@pytest.fixture(params=SHAPES, ids=str)
def pair(request):
    generator = torch.Generator().manual_seed(sum(request.param))
    prediction, target = torch.randn((2, 3, *request.param), generator=generator, dtype=torch.float64)
    return prediction.requires_grad_(), target


def test_mse_is_the_mean_over_voxels_of_each_crystal(pair):
    prediction, target = pair
    expected = torch.stack([torch.nn.functional.mse_loss(p, t) for p, t in zip(prediction, target, strict=True)])
    torch.testing.assert_close(mse(prediction, target), expected)


def test_any_origin_is_the_least_of_all_translations_and_both_hands(pair):
    prediction, target = pair
    torch.testing.assert_close(mse_any_origin(prediction, target), by_brute_force(prediction, target))


def test_any_origin_has_the_gradient_of_the_brute_force(pair):
    prediction, target = pair
    (ours,) = torch.autograd.grad(mse_any_origin(prediction, target).sum(), prediction)
    (expected,) = torch.autograd.grad(by_brute_force(prediction, target).sum(), prediction)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_moved_or_inverted_truth_costs_nothing(inverted):
    target = torch.randn(2, 8, 6, 4)
    moved = target.flip(1, 2, 3) if inverted else target
    moved = moved.roll((3, 1, 2), (1, 2, 3))
    assert mse(moved, target).min() > 0.5
    torch.testing.assert_close(mse_any_origin(moved, target), torch.zeros(2), atol=1e-5, rtol=0)


def test_equal_origins_share_no_gradient():
    # a crystal with a translation in it: two origins fit equally, and one must be chosen, not their mean
    half = torch.randn(1, 2, 4, 4)
    target = torch.cat([half, half], 1)
    prediction = (target + 0.1 * torch.randn(1, 4, 4, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(mse_any_origin(prediction, target).sum(), prediction)
    torch.testing.assert_close(gradient, 2 * (prediction - target) / 64, atol=1e-6, rtol=1e-4)
