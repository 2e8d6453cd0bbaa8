"""Adam with clipped gradients, against torch's Adam and torch's clipping."""

import copy
import math

import pytest
import torch
from torch import nn

from firstlight.networks.clipped_adam import ClippedAdam

SHAPES = [(40, 8), (8,), (), (3, 2, 2), (0,)]


def parameters(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=g)) for shape in SHAPES]


def gradients(seed, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=g) for shape in SHAPES]


@pytest.mark.parametrize("scale", [1e-3, 1e3])  # below the limit, and clipped
def test_steps_equal_those_of_torch(scale):
    ours, theirs = parameters(), parameters()
    optimizer, reference = ClippedAdam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01, eps=1e-5)
    for step in range(5):
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = 0.01 / (1 + step)
        for own, other, grad in zip(ours, theirs, gradients(step, scale), strict=True):
            own.grad, other.grad = grad.clone(), grad.clone()
        if step == 2:  # an unused parameter keeps its moments and its count of steps
            ours[0].grad = theirs[0].grad = None
        norm = optimizer.clipped_step(0.5)
        expected = nn.utils.clip_grad_norm_(theirs, 0.5)
        reference.step()
        torch.testing.assert_close(norm, expected)
        for own, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)
        assert all(parameter.grad is None for parameter in ours)


def test_gradients_of_any_layout_are_read_in_order():
    ours, theirs = parameters(), parameters()
    optimizer, reference = ClippedAdam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01, eps=1e-5)
    grads = gradients(3)
    grads[0] = grads[0].reshape(8, 40).T
    for own, other, grad in zip(ours, theirs, grads, strict=True):
        own.grad, other.grad = grad, grad.clone()
    optimizer.clipped_step(1e9)
    reference.step()
    torch.testing.assert_close(ours[0], theirs[0])


def test_states_are_exchanged_with_torch_in_both_directions():
    first, second = ClippedAdam(one := parameters(), lr=0.01), parameters()
    torch_one = torch.optim.Adam(second, lr=0.01, eps=1e-5, fused=True)
    for own, grad in zip(one, gradients(0), strict=True):
        own.grad = grad
    first.clipped_step(1.0)
    with torch.no_grad():
        for own, other in zip(one, second, strict=True):
            other.copy_(own)
    torch_one.load_state_dict(copy.deepcopy(first.state_dict()))
    for own, other, grad in zip(one, second, gradients(1), strict=True):
        own.grad, other.grad = grad.clone(), grad.clone()
    first.clipped_step(1e9)
    torch_one.step()
    for own, other in zip(one, second, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)
    again = ClippedAdam(third := parameters(7), lr=0.5)
    again.load_state_dict(copy.deepcopy(torch_one.state_dict()))
    assert again.param_groups[0]["lr"] == 0.01
    moments = again.state[third[0]]["exp_avg"]
    torch.testing.assert_close(moments, torch_one.state[second[0]]["exp_avg"])


def test_a_gradient_that_is_not_finite_makes_the_norm_not_finite():
    optimizer = ClippedAdam(ours := parameters(), lr=0.01)
    for own, grad in zip(ours, gradients(0), strict=True):
        own.grad = grad
    ours[0].grad[3, 3] = torch.inf
    assert not torch.isfinite(optimizer.clipped_step(1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # our loop, and torch's
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(dtype, bad):
    ours = [nn.Parameter(p.detach().to(dtype)) for p in parameters()]
    optimizer = ClippedAdam(ours, lr=0.01)
    for parameter, grad in zip(ours, gradients(0), strict=True):
        parameter.grad = grad.to(dtype)
    optimizer.clipped_step(math.inf)
    before = [p.detach().clone() for p in ours]
    for parameter, grad in zip(ours, gradients(1), strict=True):
        parameter.grad = grad.to(dtype)
    ours[1].grad[3] = bad
    assert not torch.isfinite(optimizer.clipped_step(math.inf))
    for parameter, was in zip(ours, before, strict=True):
        assert torch.equal(parameter, was)


def test_rows_that_get_a_gradient_late_step_as_those_of_torch():
    """And rows that had one once move on by their moments."""
    ours, theirs = ([nn.Parameter(torch.zeros(30, 20))] for _ in range(2))
    optimizer, reference = ClippedAdam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01, eps=1e-5)
    for step in range(6):
        grad = torch.zeros(30, 20)
        grad[5 * step : 5 * step + 2] = torch.randn(2, 20)
        ours[0].grad, theirs[0].grad = grad.clone(), grad.clone()
        torch.testing.assert_close(optimizer.clipped_step(1e9), grad.norm())
        reference.step()
        torch.testing.assert_close(ours[0], theirs[0])
        if step == 3:  # as after a checkpoint
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert (ours[0] == 0).all(1).sum() == 30 - 6 * 2
