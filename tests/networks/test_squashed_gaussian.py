"""Squashed normal distributions against a change of variables by torch, and by numbers."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from firstlight.networks.distributions import DiagGaussian, SquashedGaussian, distribution_for
from firstlight.networks.distributions.heads import LOG_STD_RANGE


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def make(mean, log_std, low=-1.0, high=1.0, **options):
    mean = torch.as_tensor(mean, dtype=torch.float64)
    centre = torch.full(mean.shape[-1:], (low + high) / 2, dtype=torch.float64)
    half = torch.full(mean.shape[-1:], (high - low) / 2, dtype=torch.float64)
    log_std = torch.as_tensor(log_std, dtype=torch.float64)
    return SquashedGaussian(mean, log_std, centre, half, **options)


@pytest.mark.parametrize("bounds", [(-1, 1), (25, 35), (-0.1, 0.3)])
def test_it_equals_torch(bounds):
    mean = torch.randn(7, 3, generator=numbers(), dtype=torch.float64)
    log_std = 0.5 * torch.randn(3, generator=numbers(1), dtype=torch.float64)
    ours = make(mean, log_std, *bounds)
    theirs = distributions.Independent(
        distributions.TransformedDistribution(
            distributions.Normal(mean, log_std.exp()),
            [
                distributions.TanhTransform(),
                distributions.AffineTransform(sum(bounds) / 2, (bounds[1] - bounds[0]) / 2),
            ],
        ),
        1,
    )
    action = ours.sample(numbers(2))
    assert ((action > bounds[0]) & (action < bounds[1])).all()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))


@pytest.mark.parametrize("log_std", [-1.0, 0.0, 0.5])
@pytest.mark.parametrize("mean", [0.0, -1.5])
def test_its_density_integrates_to_one_and_gives_entropy_and_median(mean, log_std):
    dist = make([[mean]], [log_std], 2, 6)
    u = torch.linspace(mean - 6 * math.exp(log_std), mean + 6 * math.exp(log_std), 200_001)
    action = 4 + 2 * u.double().tanh()
    inside = (action - 4).abs() < 2 * (1 - 2e-6)
    action = action[inside]
    density = make(torch.full((len(action), 1), mean), [log_std], 2, 6).log_prob(action[:, None])
    assert torch.trapezoid(density.exp(), action).item() == pytest.approx(1, abs=1e-3)
    entropy = -torch.trapezoid(density.exp() * density, action).item()
    assert dist.entropy().item() == pytest.approx(entropy, abs=5e-3)
    below = action <= dist.mode().item()
    assert torch.trapezoid(density.exp()[below], action[below]).item() == pytest.approx(
        0.5, abs=1e-3
    )


def test_the_jacobian_is_that_of_finite_differences():
    dist = make([[0.3, -0.7]], [0.2, -0.4], -3, 5)
    u = torch.tensor([[0.9, -1.1]], dtype=torch.float64)
    h = 1e-6
    slope = (dist._outer(u + h) - dist._outer(u - h)) / (2 * h)
    normal = DiagGaussian(dist.mean, dist.log_std)
    wanted = normal.log_prob(u) - slope.log().sum(-1)
    torch.testing.assert_close(dist.log_prob(dist._outer(u)), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("std", "tolerance"), [(1, 1e-4), (2, 5e-3), (5, 0.15)])
def test_the_quadrature_of_the_entropy_is_as_good_as_documented(std, tolerance):
    log_std = math.log(std)
    for mean in (0.0, 0.5, 2.0, -6.0):
        dist = make([[mean]], [log_std])
        z = torch.linspace(-9, 9, 100_001, dtype=torch.float64)
        weight = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
        u = mean + math.exp(log_std) * z
        slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
        exact = log_std + 0.5 * math.log(2 * math.pi * math.e)
        exact += torch.trapezoid(weight * slope, z).item()
        assert dist.entropy().item() == pytest.approx(exact, abs=tolerance)


def test_extreme_actions_have_finite_densities_and_gradients():
    mean = torch.tensor([[20.0, -20.0, 0.0]], requires_grad=True)
    dist = SquashedGaussian(mean, torch.zeros(3), torch.zeros(3), torch.ones(3))
    action = torch.cat([dist.sample(numbers()), torch.tensor([[1.0, -1.0, 1.0]])])
    value = dist.log_prob(action).sum() + dist.entropy().sum()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(mean.grad).all()


def test_gradients_equal_those_of_torch():
    mean = torch.randn(5, 2, generator=numbers(), dtype=torch.float64, requires_grad=True)
    log_std = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    dist = make(mean, log_std)
    action = dist.sample(numbers(1)).detach()
    theirs = distributions.TransformedDistribution(
        distributions.Normal(mean, log_std.exp()), [distributions.TanhTransform()]
    )
    ours = torch.autograd.grad(dist.log_prob(action).square().sum(), [mean, log_std])
    other = torch.autograd.grad(theirs.log_prob(action).sum(-1).square().sum(), [mean, log_std])
    for mine, wanted in zip(ours, other, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_only_bounded_dimensions_are_squashed():
    low, high = np.array([25, -np.inf], np.float32), np.array([35, np.inf], np.float32)
    head = distribution_for(spaces.Box(low, high), scale_actions=True, squash=True)
    mean, log_std = torch.randn(4000, 2, generator=numbers()), torch.ones(2)
    dist = head.make(mean, log_std)
    action = dist.sample(numbers(1))
    assert 25 <= action[:, 0].min() < action[:, 0].max() <= 35
    free = DiagGaussian(mean[:, 1:], log_std[1:])
    squashed = SquashedGaussian(mean[:, :1], log_std[:1], torch.tensor([30.0]), torch.tensor([5.0]))
    wanted = free.log_prob(action[:, 1:]) + squashed.log_prob(action[:, :1])
    torch.testing.assert_close(dist.log_prob(action), wanted)
    torch.testing.assert_close(dist.entropy(), free.entropy() + squashed.entropy())


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_box_of_any_shape_is_its_elements_in_a_row(shape, squash, dependent):
    size = math.prod(shape)
    options = {"scale_actions": True, "squash": squash, "state_dependent_std": dependent}
    head = distribution_for(spaces.Box(-2, 4, shape), **options)
    flat = distribution_for(spaces.Box(-2, 4, (size,)), **options)
    assert head.num_outputs == (2 * size if dependent else size)
    assert head.num_log_std == (0 if dependent else size)
    outputs = torch.randn(5, 4, head.num_outputs, generator=numbers())
    log_std = None if dependent else torch.zeros(size)
    dist, row = head.make(outputs, log_std), flat.make(outputs, log_std)
    action = dist.sample(numbers(1))
    assert action.shape == dist.mode().shape == (5, 4, *shape)
    assert torch.equal(action.reshape(5, 4, size), row.sample(numbers(1)))
    assert torch.equal(dist.log_prob(action), row.log_prob(action.reshape(5, 4, size)))
    assert torch.equal(dist.params, row.params)
    assert head.scale.shape == shape
    assert (head.scale == 3).all()


def test_deviations_of_the_head_are_clamped():
    head = distribution_for(spaces.Box(-1, 1, (2,)), state_dependent_std=True)
    outputs = torch.tensor([[0.5, -0.5, -100.0, 100.0], [0.0, 0.0, 0.3, -0.3]])
    dist = head.make(outputs)
    torch.testing.assert_close(dist.mean, outputs[:, :2])
    torch.testing.assert_close(dist.log_std, torch.tensor([[*LOG_STD_RANGE], [0.3, -0.3]]))
