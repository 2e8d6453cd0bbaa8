"""Draws of categorical actions: frequencies, masks, log-probabilities, and the ends of [0, 1)."""

import numpy as np
import pytest
import torch

from firstlight.networks.distributions import Categorical
from firstlight.networks.distributions.draw_kernel import draw_categorical


@pytest.fixture(params=[draw_categorical, draw_categorical.py_func], ids=["compiled", "python"])
def draw(request):
    return request.param


def test_actions_are_the_inverse_of_the_cumulative_probabilities(draw):
    p = np.array([0.5, 0.0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        logits = np.log(p).astype(np.float32) + 7
    uniform = np.array([0.0, 0.4999, 0.5001, 0.7999, 0.8001, 1 - 2**-24], np.float32)
    action, log_prob = draw(np.tile(logits, (6, 1)), uniform)
    assert action.tolist() == [0, 0, 2, 2, 3, 3]
    np.testing.assert_allclose(np.exp(log_prob), p[action], rtol=1e-5)


def test_frequencies_are_the_probabilities_and_masked_actions_are_never_drawn():
    allowed = torch.tensor([True, False, True, True, False])
    logits = torch.tensor([0.3, 5.0, -1.0, 1.2, 0.0]).expand(200_000, 5)
    action, log_prob = Categorical(logits, allowed.expand(200_000, 5)).draw(
        torch.Generator().manual_seed(0)
    )
    expected = torch.softmax(torch.where(allowed, logits[0], -torch.inf), 0)
    counts = torch.bincount(action, minlength=5) / len(action)
    torch.testing.assert_close(counts, expected, atol=4e-3, rtol=0)
    assert set(action.unique().tolist()) == {0, 2, 3}
    torch.testing.assert_close(log_prob.exp(), expected[action])


def test_where_nothing_is_allowed_all_actions_are_as_likely():
    logits = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    dist = Categorical(logits, torch.zeros(40_000, 3, dtype=torch.bool))
    action, log_prob = dist.draw(torch.Generator().manual_seed(1))
    assert (torch.bincount(action) / 40_000 - 1 / 3).abs().max() < 0.01
    torch.testing.assert_close(log_prob, torch.full((40_000,), -np.log(3), dtype=torch.float32))


def test_samples_are_the_drawn_actions_and_their_shape_is_kept():
    logits = torch.randn(4, 3, 6, requires_grad=True)
    dist = Categorical(logits)
    action, log_prob = dist.draw(torch.Generator().manual_seed(5))
    assert torch.equal(dist.sample(torch.Generator().manual_seed(5)), action)
    assert action.shape == log_prob.shape == (4, 3)
    torch.testing.assert_close(log_prob, dist.log_prob(action).detach(), atol=1e-6, rtol=1e-5)
