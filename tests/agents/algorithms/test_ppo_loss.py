"""The loss of categorical actions in one pass, against the plain one and its gradient."""

import dataclasses

import pytest
import torch
from python_kernels import use_python_kernels

from firstlight.agents.algorithms import ppo_loss
from firstlight.agents.algorithms.ppo_loss import LOGS, Rows, categorical_loss, plain_loss
from firstlight.networks.distributions import Categorical

R, A, K = 300, 5, 2


def case(seed=0, masked=False, **options):
    """Logits and values that have moved away from those that acted, far and near."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(R, A, generator=g)
    allowed = torch.rand(R, A, generator=g) < 0.6 if masked else None
    if allowed is not None:
        allowed[:, 0] = True
        allowed[0] = False  # nothing is allowed: uniform
    old = Categorical(logits, allowed)
    action = old.sample(g)
    far = torch.where(torch.rand(R, 1, generator=g) < 0.5, 0.05, 2.0)
    logits = logits + far * torch.randn(R, A, generator=g)
    old_value = torch.randn(R, K, generator=g)
    rows = Rows(
        action=action,
        log_prob=old.log_prob(action),
        advantage=torch.randn(R, generator=g),
        target=torch.randn(R, K, generator=g),
        old_value=old_value,
        live=torch.tensor([1.0, 0.0]),
        clip_range=0.2,
        clip_range_vf=None,
        value_coef=0.7,
        entropy_coef=0.03,
    )
    value = old_value + 0.5 * torch.randn(R, K, generator=g)
    return logits, value, allowed, dataclasses.replace(rows, **options)


def both(logits, value, allowed, rows):
    """Loss, logs and gradients, of the one pass and of the plain loss."""
    found = []
    for fused in (True, False):
        learnt = [logits.clone().requires_grad_(), value.clone().requires_grad_()]
        dist = Categorical(learnt[0], allowed)
        if fused:
            loss, logs = categorical_loss(dist.logits, learnt[1], rows)
        else:
            terms = dist.log_prob(rows.action), dist.entropy()
            loss, logs = plain_loss(*terms, learnt[1], rows)
        (3 * loss).backward()
        found.append([loss.detach(), logs, *(x.grad for x in learnt)])
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("clip_range_vf", [None, 0.1])
def test_one_pass_equals_the_plain_loss_and_its_gradient(masked, clip_range_vf):
    inputs = case(masked=masked, clip_range_vf=clip_range_vf)
    one, plain = both(*inputs)
    for fast, slow in zip(one, plain, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-4)
    clipped = one[1][LOGS.index("clipfrac")]
    assert 0.2 < clipped < 0.8  # both branches occur
    assert (one[3][:, 1] == 0).all()  # a stream that does not learn


def test_the_compiled_function_equals_the_python_one(monkeypatch):
    inputs = case(masked=True, clip_range_vf=0.1)
    compiled = both(*inputs)[0]
    use_python_kernels(monkeypatch, ppo_loss)
    for fast, slow in zip(compiled, both(*inputs)[0], strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    logits, value, allowed, rows = case(seed=3)
    grad = both(logits, value, allowed, rows)[0][2] / 3
    g = torch.Generator().manual_seed(1)
    direction = torch.randn(logits.shape, generator=g)
    step = 1e-2

    def loss(scale):
        return categorical_loss(logits + scale * direction, value, rows)[0].double()

    slope = (loss(step) - loss(-step)) / (2 * step)
    assert slope.item() == pytest.approx((grad * direction).sum().item(), rel=0.02)


def test_a_logit_that_is_not_a_number_makes_the_loss_one():
    logits, value, _, rows = case()
    logits[7, 2] = torch.nan
    assert categorical_loss(logits, value, rows)[0].isnan()
