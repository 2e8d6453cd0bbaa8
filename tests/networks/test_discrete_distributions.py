"""Multi-discrete and multi-binary distributions against torch's, enumeration and masks by hand."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from torch import distributions

from firstlight.envs.action_spaces import ActionMask, choices
from firstlight.networks.distributions import (
    Categorical,
    JointCategorical,
    MultiBernoulli,
    distribution_for,
)

SPACES = [
    spaces.MultiDiscrete([3]),
    spaces.MultiDiscrete([4, 4, 4]),
    spaces.MultiDiscrete([2, 5, 1, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [-3, 5]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
]
MASKS = {  # [2, 3] has a mask over combinations of its own
    "parts": (spaces.MultiDiscrete([2, 3]), (5,), [0, 1, 1, 0, 1]),
    "equal": (spaces.MultiDiscrete([3, 3]), (2, 3), [[1, 0, 1], [0, 0, 1]]),
    "combinations": (spaces.MultiDiscrete([2, 3]), (2, 3), [[0, 1, 1], [0, 0, 1]]),
    "ones": (spaces.MultiBinary(3), (3,), [1, 0, 1]),
    "both": (spaces.MultiBinary(3), (3, 2), [[1, 1], [0, 1], [1, 0]]),
    "one": (spaces.Discrete(3), (3,), [1, 0, 1]),
}


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def every_action(space):
    """All actions [C, *shape], counted from 0."""
    rows = list(itertools.product(*map(range, choices(space))))
    return torch.tensor(rows).reshape(len(rows), *(space.shape or ()))


def reference(space, logits):
    """Torch's independent distributions, one for each component."""
    if isinstance(space, spaces.MultiBinary):
        return [distributions.Bernoulli(logits=one) for one in logits.unbind(-1)]
    parts = logits.split(list(choices(space)), -1)
    return [distributions.Categorical(logits=part) for part in parts]


def made(space, lead=(), seed=0, **options):
    head = distribution_for(space)
    logits = 2 * torch.randn(*lead, head.num_outputs, generator=numbers(seed), **options)
    return head.make(logits), logits


def masked(name, rows=1):
    space, shape, mask = MASKS[name]
    obs_space = spaces.Dict({"action_mask": spaces.MultiBinary(shape)})
    head = distribution_for(space, obs_space)
    logits = torch.randn(rows, head.num_outputs, generator=numbers(), requires_grad=True)
    given = torch.tensor(mask, dtype=torch.int8).expand(rows, *shape)
    return head.make(logits, mask=given), logits, space, np.array(mask, bool)


def is_allowed(space, mask, action):
    """The meaning of a mask, written out for one action."""
    parts = action.reshape(-1).tolist()
    if mask.shape == choices(space) and len(parts) > 1 and mask.size != sum(choices(space)):
        return bool(mask[tuple(parts)])
    if isinstance(space, spaces.MultiBinary):
        if mask.shape == space.shape:
            return all(mask[i] or part == 0 for i, part in enumerate(parts))
        return all(mask[i, part] for i, part in enumerate(parts))
    row, before = mask.ravel(), np.cumsum([0, *choices(space)])
    return all(row[before[i] + part] for i, part in enumerate(parts))


@pytest.mark.parametrize("lead", [(), (5,), (4, 3)])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_log_probability_and_entropy_equal_torch(space, lead):
    dist, logits = made(space, lead)
    parts = reference(space, logits)
    action = torch.from_numpy(np.array([space.sample() for _ in range(int(np.prod(lead)))]))
    if isinstance(space, spaces.MultiDiscrete):
        action = action - torch.from_numpy(space.start)
    action = action.reshape(*lead, *space.shape).long()
    columns = action.reshape(*lead, -1).unbind(-1)
    wanted = sum(p.log_prob(c.to(logits.dtype)) for p, c in zip(parts, columns, strict=True))
    assert dist.log_prob(action).shape == lead
    torch.testing.assert_close(dist.log_prob(action), wanted)
    torch.testing.assert_close(dist.entropy(), sum(part.entropy() for part in parts))
    assert dist.sample(numbers()).shape == dist.mode().shape == (*lead, *space.shape)
    assert dist.sample(numbers()).dtype == dist.mode().dtype == torch.int64


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_gradients_equal_torch(space):
    dist, logits = made(space, (6,), requires_grad=True)
    action = dist.sample(numbers(1))
    parts = reference(space, logits)
    columns = action.reshape(6, -1).unbind(-1)
    log_prob = sum(p.log_prob(c.to(logits.dtype)) for p, c in zip(parts, columns, strict=True))
    for mine, other in (
        (dist.log_prob(action), log_prob),
        (dist.entropy(), sum(part.entropy() for part in parts)),
    ):
        ours, theirs = (
            torch.autograd.grad(value.square().sum(), logits, retain_graph=True)[0]
            for value in (mine, other)
        )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_probabilities_add_up_to_one_and_decide_entropy_and_mode(space):
    dist, _ = made(space, (1,))
    actions = every_action(space)
    logs = torch.stack([dist.log_prob(action[None])[0] for action in actions])
    assert logs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(dist.entropy()[0], -(logs.exp() * logs).sum())
    assert torch.equal(dist.mode()[0], actions[logs.argmax()])


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_have_the_joint_frequencies(space):
    """Chi-square over all combinations: components are right and independent."""
    one, logits = made(space, (1,))
    rows = 20_000
    dist = distribution_for(space).make(logits.expand(rows, -1))
    drawn = dist.sample(numbers(3)).reshape(rows, -1).numpy()
    index = np.ravel_multi_index(tuple(drawn.T), choices(space))
    actions = every_action(space)
    seen = np.bincount(index, minlength=len(actions))
    expected = rows * torch.stack([one.log_prob(a[None])[0] for a in actions]).exp().numpy()
    likely = expected > 5
    seen = np.append(seen[likely], seen[~likely].sum() + 1e-9)
    expected = np.append(expected[likely], expected[~likely].sum() + 1e-9).astype(np.float64)
    assert stats.chisquare(seen, expected * (seen.sum() / expected.sum())).pvalue > 1e-3


@pytest.mark.parametrize("name", MASKS)
def test_masks_forbid_exactly_what_they_name(name):
    """Allowed actions keep the proportions of an unmasked distribution; others are not taken."""
    dist, logits, space, mask = masked(name)
    actions = every_action(space)
    allowed = torch.tensor([is_allowed(space, mask, action) for action in actions])
    assert 0 < allowed.sum() < len(actions)
    probs = torch.stack([dist.log_prob(action[None])[0] for action in actions]).exp()
    plain = dist.__class__ is JointCategorical
    free = (
        Categorical(logits).params[0].exp()
        if plain
        else torch.stack(
            [distribution_for(space).make(logits).log_prob(a[None])[0] for a in actions]
        ).exp()
    )
    torch.testing.assert_close(probs, free * allowed / (free * allowed).sum())
    logs = probs[allowed].log()
    torch.testing.assert_close(dist.entropy()[0], -(logs.exp() * logs).sum())
    assert torch.equal(dist.mode()[0], actions[probs.argmax()])
    many, _, _, _ = masked(name, rows=1)
    head = distribution_for(space, spaces.Dict({"action_mask": spaces.MultiBinary(mask.shape)}))
    wide = head.make(
        logits.detach().expand(20_000, -1), mask=torch.tensor(mask).expand(20_000, *mask.shape)
    )
    drawn = wide.sample(numbers(1)).reshape(20_000, -1).unique(dim=0)
    assert {tuple(r) for r in drawn.tolist()} <= {
        tuple(a) for a in actions[allowed].reshape(int(allowed.sum()), -1).tolist()
    }
    assert torch.equal(many.params, dist.params)


@pytest.mark.parametrize("name", MASKS)
def test_masked_logits_get_no_gradient(name):
    dist, logits, _, mask = masked(name)
    (dist.log_prob(dist.mode()) + dist.entropy()).sum().backward()
    assert torch.isfinite(logits.grad).all()
    decided = ~mask.all(-1) if name in ("both",) else ~mask
    assert (logits.grad[0][torch.from_numpy(decided.ravel())] == 0).all()
    assert torch.isfinite(dist.fisher_diagonal()).all()


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_fisher_matrix_is_the_mean_outer_product_of_scores(space):
    """Its diagonal, weighted by changes of the parameters, is the curvature of the divergence."""
    dist, logits = made(space, (1,), dtype=torch.float64)
    step = 1e-3 * torch.randn(logits.shape, generator=numbers(5), dtype=torch.float64)
    near = distribution_for(space).make(logits + step)
    actions = every_action(space)
    ours, theirs = (
        torch.stack([d.log_prob(action[None])[0] for action in actions]) for d in (dist, near)
    )
    divergence = (ours.exp() * (ours - theirs)).sum()
    moved = near.params - dist.params
    quadratic = 0.5 * (dist.fisher_diagonal() * moved.square()).sum()
    torch.testing.assert_close(quadratic, divergence, rtol=2e-2, atol=0)


def test_huge_logits_are_finite():
    for space in SPACES:
        head = distribution_for(space)
        dist = head.make(1e4 * torch.randn(50, head.num_outputs, generator=numbers()))
        action = dist.sample(numbers())
        assert torch.equal(action, dist.mode())
        assert torch.isfinite(dist.log_prob(action)).all()
        assert torch.isfinite(dist.entropy()).all()


def test_a_switch_without_an_alternative_is_certain():
    allowed = torch.tensor([[True, False], [False, True], [True, True]])
    dist = MultiBernoulli(torch.zeros(1000, 3), (3,), allowed.expand(1000, 3, 2))
    drawn = dist.sample(numbers())
    assert not drawn[:, 0].any()
    assert drawn[:, 1].all()
    torch.testing.assert_close(dist.entropy(), torch.full((1000,), float(np.log(2))))


def test_a_mask_that_does_not_fit_is_refused():
    for space, shape in (
        (spaces.Discrete(3), (4,)),
        (spaces.MultiDiscrete([2, 3]), (4,)),
        (spaces.MultiDiscrete([2, 3]), (3, 2)),
        (spaces.MultiBinary(3), (3, 3)),
    ):
        with pytest.raises(ValueError, match="'action_mask' has shape"):
            ActionMask(space, shape)
    many = spaces.Dict({"action_mask": spaces.MultiBinary((300, 300))})
    with pytest.raises(ValueError, match="90,000 combinations"):
        distribution_for(spaces.MultiDiscrete([300, 300]), many)
    with pytest.raises(ValueError, match="no action distribution"):
        distribution_for(spaces.Text(3))


def test_where_nothing_is_allowed_every_choice_is_as_likely():
    space = spaces.MultiDiscrete([2, 4])
    head = distribution_for(space, spaces.Dict({"action_mask": spaces.MultiBinary(6)}))
    logits = torch.randn(20_000, 6, generator=numbers())
    dist = head.make(logits, mask=torch.tensor([0, 1, 0, 0, 0, 0]).expand(20_000, 6))
    drawn = dist.sample(numbers(1))
    assert (drawn[:, 0] == 1).all()
    share = torch.bincount(drawn[:, 1], minlength=4) / 20_000  # of the padding there is none
    torch.testing.assert_close(share, torch.full((4,), 0.25), atol=0.02, rtol=0)
