"""The terms of PPO's loss against their formulas."""

import pytest
import torch

from firstlight.agents.losses import approx_kl, clipped_policy_loss, explained_variance, value_loss


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_policy_loss_equals_the_clipped_surrogate():
    logratio, advantage = random(50) * 0.3, random(50, seed=1)
    terms = []
    for ratio, a in zip(logratio.exp().tolist(), advantage.tolist(), strict=True):
        terms.append(-min(ratio * a, min(max(ratio, 0.8), 1.2) * a))
    expected = sum(terms) / 50
    assert clipped_policy_loss(logratio, advantage, 0.2).item() == pytest.approx(expected, rel=1e-5)


def test_the_value_loss_is_half_the_squared_error_of_live_streams():
    value, target = random(50, 2), random(50, 2, seed=1)
    half = 0.5 * (value - target)[:, 0].square().mean().item()
    loss = value_loss(value, target, value, torch.tensor([1.0, 0.0]), None)
    assert loss.item() == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize(
    ("old", "value", "target", "expected"),
    [
        (0.0, 1.0, 1.0, 0.5 * 0.9**2),  # clipped to 0.1, which is farther from the target
        (0.0, -1.0, -1.0, 0.5 * 0.9**2),
        (2.0, 1.0, 1.0, 0.5 * 0.9**2),  # clipped to 1.9
        (0.0, 1.0, 0.0, 0.5),  # the unclipped error is larger
        (0.0, 0.05, 1.0, 0.5 * 0.95**2),  # within the range
    ],
)
def test_the_clipped_value_loss_takes_the_larger_error(old, value, target, expected):
    column = torch.ones(3, 1)
    loss = value_loss(value * column, target * column, old * column, torch.ones(1), 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_approx_kl_is_zero_for_equal_policies_and_the_k3_estimate_else():
    assert approx_kl(torch.zeros(5)) == 0
    logratio = random(50)
    expected = (logratio.exp() - 1 - logratio).mean().item()
    assert approx_kl(logratio).item() == pytest.approx(expected)


def test_explained_variance_is_one_for_perfect_values_and_nan_for_constant_targets():
    value, target = random(50, 2), random(50, 2, seed=1)
    assert explained_variance(target, target).tolist() == [1.0, 1.0]
    assert explained_variance(value, torch.ones(50, 2)).isnan().all()
