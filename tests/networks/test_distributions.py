"""Action distributions against those of torch, and samples against their probabilities."""

import math

import pytest
import torch
from torch import distributions

from firstlight.networks.distributions import Categorical, DiagGaussian


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("lead", [(), (5,), (4, 3)])
@pytest.mark.parametrize("num_actions", [1, 2, 7])
def test_categorical_equals_torch(lead, num_actions):
    logits = 3 * torch.randn(*lead, num_actions, generator=numbers())
    ours, theirs = Categorical(logits), distributions.Categorical(logits=logits)
    action = torch.randint(0, num_actions, lead, generator=numbers(1))
    assert ours.log_prob(action).shape == lead
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.params, theirs.logits)
    assert torch.equal(ours.mode(), logits.argmax(-1))
    assert ours.sample(numbers()).shape == lead
    assert ours.sample(numbers()).dtype == torch.int64


@pytest.mark.parametrize("lead", [(), (5,), (4, 3)])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_gaussian_equals_torch(lead, size, shared):
    mean = torch.randn(*lead, size, generator=numbers())
    log_std = torch.randn(*(() if shared else lead), size, generator=numbers(1))
    ours = DiagGaussian(mean, log_std)
    theirs = distributions.Independent(distributions.Normal(mean, log_std.exp()), 1)
    action = 2 * torch.randn(*lead, size, generator=numbers(2))
    assert ours.log_prob(action).shape == lead
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().expand(lead))
    assert torch.equal(ours.mode(), mean)
    assert ours.sample(numbers()).shape == (*lead, size)
    assert ours.params.shape == (*lead, 2 * size)
    again = DiagGaussian(*ours.params.split(size, -1))
    torch.testing.assert_close(again.log_prob(action), ours.log_prob(action))


def test_gradients_equal_torch():
    logits = torch.randn(6, 4, generator=numbers(), requires_grad=True)
    mean = torch.randn(6, 2, generator=numbers(), requires_grad=True)
    log_std = torch.randn(2, generator=numbers(1), requires_grad=True)
    choice, point = torch.tensor([0, 1, 2, 3, 0, 1]), torch.randn(6, 2, generator=numbers(2))
    pairs = [
        (Categorical(logits), distributions.Categorical(logits=logits), choice),
        (
            DiagGaussian(mean, log_std),
            distributions.Independent(distributions.Normal(mean, log_std.exp()), 1),
            point,
        ),
    ]
    for ours, theirs, action in pairs:
        parameters = [logits] if action is choice else [mean, log_std]
        for which in ("log_prob", "entropy"):
            given = (action,) if which == "log_prob" else ()
            grads = [
                torch.autograd.grad(
                    getattr(dist, which)(*given).square().sum(),
                    parameters,
                    retain_graph=True,
                    allow_unused=True,
                )
                for dist in (ours, theirs)
            ]
            for mine, other in zip(*grads, strict=True):
                assert (mine is None) == (other is None)
                if mine is not None:
                    torch.testing.assert_close(mine, other)


def test_categorical_sample_frequencies_match_its_probabilities():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0], [5.0, 5.0, 0.0, -20.0]])
    draws = Categorical(logits.expand(40_000, 2, 4)).sample(numbers())
    for row in range(2):
        probs = logits[row].softmax(0)
        counts = torch.bincount(draws[:, row], minlength=4).double()
        deviation = (40_000 * probs * (1 - probs)).sqrt() + 1
        assert ((counts - 40_000 * probs).abs() < 5 * deviation).all()
    together = (draws[:, 0] * 4 + draws[:, 1]).bincount(minlength=16).reshape(4, 4) / 40_000
    expected = logits[0].softmax(0)[:, None] * logits[1].softmax(0)
    assert (together - expected).abs().max() < 0.015  # the rows are drawn independently


def test_gaussian_samples_have_its_mean_and_deviation():
    mean, log_std = torch.tensor([1.0, -3.0]), torch.tensor([0.5, -1.0])
    draws = DiagGaussian(mean.expand(40_000, 2), log_std).sample(numbers())
    error = 5 * log_std.exp() / math.sqrt(40_000)
    assert ((draws.mean(0) - mean).abs() < error).all()
    torch.testing.assert_close(draws.std(0), log_std.exp(), rtol=0.02, atol=0)
    assert draws.T.corrcoef()[0, 1].abs() < 0.025


def test_entropy_is_the_mean_negative_log_probability():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    categorical = Categorical(logits.expand(40_000, 4))
    surprise = -categorical.log_prob(categorical.sample(numbers())).mean()
    assert surprise.item() == pytest.approx(categorical.entropy()[0].item(), abs=0.02)
    gaussian = DiagGaussian(torch.zeros(40_000, 2), torch.tensor([0.5, -1.0]))
    surprise = -gaussian.log_prob(gaussian.sample(numbers())).mean()
    assert surprise.item() == pytest.approx(gaussian.entropy()[0].item(), abs=0.03)
    assert Categorical(torch.zeros(5)).entropy().item() == pytest.approx(math.log(5))


@pytest.mark.parametrize(
    "dist",
    [
        Categorical(torch.randn(3, 50, 6, generator=numbers(3))),
        DiagGaussian(torch.randn(3, 50, 2, generator=numbers(3)), torch.zeros(2)),
    ],
)
def test_the_result_depends_on_the_generator_alone(dist):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = dist.sample(numbers(7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(dist.sample(numbers(7)), first)
    assert not torch.equal(dist.sample(numbers(8)), first)
    generator = numbers(7)
    assert torch.equal(dist.sample(generator), first)
    assert not torch.equal(dist.sample(generator), first)  # the generator advances
    torch.manual_seed(2)
    drawn = dist.sample()
    torch.manual_seed(2)
    assert torch.equal(dist.sample(), drawn)  # the global generator by default


def test_shifting_logits_changes_nothing_and_huge_logits_are_finite():
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    near, far = Categorical(logits), Categorical(logits + 1000)
    torch.testing.assert_close(near.params, far.params, atol=1e-4, rtol=0)
    extreme = Categorical(torch.tensor([[1e4, -1e4, 0.0]]).expand(100, 3))
    assert (extreme.sample(numbers()) == 0).all()
    assert extreme.entropy().abs().max() == 0
    assert extreme.log_prob(torch.zeros(100, dtype=torch.int64)).abs().max() == 0


def test_a_masked_action_is_never_sampled_and_adds_no_entropy():
    least = torch.finfo(torch.float32).min
    logits = torch.tensor([0.0, least, 1.0, least]).expand(20_000, 4)
    dist = Categorical(logits)
    assert set(dist.sample(numbers()).unique().tolist()) == {0, 2}
    two = Categorical(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(dist.entropy()[0], two.entropy())
    leaf = torch.tensor([0.0, least, 1.0, least], requires_grad=True)
    Categorical(leaf).entropy().backward()
    assert torch.isfinite(leaf.grad).all()
    assert leaf.grad[1] == leaf.grad[3] == 0
