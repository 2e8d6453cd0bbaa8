"""Shaping functions: formulas, bounds, and rewards at most once per episode."""

import math

import pytest
import torch

from firstlight.intrinsic.shaping import (
    checklist,
    exp_distance,
    geometric_and,
    milestones,
    potential_shaping,
)


def test_potential_shaping_telescopes_and_is_0_at_a_termination():
    phi = torch.randn(30, generator=torch.Generator().manual_seed(0))
    ends = torch.zeros(29, dtype=torch.bool)
    discounts = 0.9 ** torch.arange(29)
    cut = (discounts * potential_shaping(phi[:-1], phi[1:], ends, 0.9)).sum()
    assert cut.item() == pytest.approx((0.9**29 * phi[-1] - phi[0]).item(), abs=1e-5)
    ends[-1] = True
    over = (discounts * potential_shaping(phi[:-1], phi[1:], ends, 0.9)).sum()
    assert over.item() == pytest.approx(-phi[0].item(), abs=1e-5)


@pytest.mark.parametrize("scale", [0.5, 2300.0])
@pytest.mark.parametrize("dispersion", [0.6, 1.0, 1.1])
@pytest.mark.parametrize("density", [0.5, 1.0, 1.1])
def test_exp_distance_equals_the_formula_of_the_paper(scale, dispersion, density):
    distances = torch.linspace(0, 6 * scale, 50)
    shape = {"scale": scale, "dispersion": dispersion, "density": density}
    near, signed = exp_distance(distances, **shape), exp_distance(distances, **shape, signed=True)
    for d, value, either in zip(distances.tolist(), near.tolist(), signed.tolist(), strict=True):
        e = math.exp(-0.5 * d / (scale * dispersion))
        assert value == pytest.approx(e ** (1 / density), rel=1e-4)
        centred = 2 * (e - 0.5)
        expected = math.copysign(abs(centred) ** (1 / density), centred)
        assert either == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert near[0] == signed[0] == 1
    assert (near.diff() < 0).all()
    assert (signed.diff() < 0).all()
    assert signed.min() > -1
    middle = torch.tensor(2 * math.log(2) * scale * dispersion)
    assert exp_distance(middle, **shape, signed=True).abs() < 1e-2


def test_dispersion_widens_the_curve_and_density_raises_it():
    distance = torch.tensor([0.5, 1.0, 3.0])
    plain = exp_distance(distance, scale=1.0)
    assert (exp_distance(distance, scale=1.0, dispersion=2.0) > plain).all()
    assert (exp_distance(distance, scale=1.0, density=2.0) > plain).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_geometric_and_equals_a_plain_loop(n):
    values = torch.rand(40, n, generator=torch.Generator().manual_seed(n)) * 2 - 0.7
    for row, joined in zip(values.tolist(), geometric_and(values).tolist(), strict=True):
        size = math.prod(abs(v) for v in row) ** (1 / n)
        assert joined == pytest.approx(size if min(row) >= 0 else -size, rel=1e-4)
    if n == 1:
        assert torch.equal(geometric_and(values), values[:, 0])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(geometric_and(values[:, order]), geometric_and(values))


def test_each_milestone_is_rewarded_once_per_episode():
    values = torch.tensor([[0.0], [6.0], [2.0], [7.0], [25.0], [12.0], [30.0]])
    best, paid = torch.full((1,), -math.inf), []
    for value in values:
        reward, best = milestones(value, best, [5, 10, 20], [1.0, 2.0, 4.0])
        paid.append(reward.item())
    assert paid == [0, 1, 0, 0, 6, 0, 0]
    assert best.item() == 30


def test_each_item_of_a_checklist_is_rewarded_once_in_any_order():
    done = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 1, 1], [1, 1, 1]]).bool()
    before, paid = torch.zeros(3, dtype=torch.bool), []
    for now in done:
        reward, before = checklist(now, before, [1.0, 2.0, 4.0])
        paid.append(reward.item())
    assert paid == [4, 0, 1, 2, 0]
    assert sum(paid) == 7


def test_shaping_functions_accept_tensors_of_any_shape():
    x = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    assert exp_distance(x, scale=1.0).shape == (3, 4, 2)
    assert geometric_and(x).shape == (3, 4)
    assert milestones(x, x - 1, [0.5], [1.0])[0].shape == (3, 4, 2)
    assert checklist(x > 0.5, x > 0.9, [1.0, 1.0])[0].shape == (3, 4)
    assert potential_shaping(x, x, x > 0.5, 0.9).shape == (3, 4, 2)
