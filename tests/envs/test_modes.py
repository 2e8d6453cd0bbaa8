"""Both modes of autoreset give equal advantages and statistics; invalid rows have no effect.

`tests/agents/test_returns.py` tests the same with `Chain` alone.
"""

import dataclasses
import functools
from typing import ClassVar

import pytest
import torch
from adapters import Joined, cartpole, pool

from firstlight.agents.returns import gae, successor_values, vtrace
from firstlight.agents.session.episodes import EpisodeStatistics
from firstlight.envs import RandomActor, Runner
from firstlight.intrinsic.mixer import Heads, RewardMixer, Term


def rated(rollout, table, estimator="gae", garbage=0.0):
    """Advantages [T, N, 2] of an episodic stream and one that is not, with values by `table`."""
    idle = ~rollout.valid
    rollout = dataclasses.replace(rollout, reward=rollout.reward.masked_fill(idle, garbage))
    terms = {"reward": Term(gamma=0.9), "bonus": Term(gamma=0.8, episodic=False)}
    bonus = rollout.next_obs()["obs"].square().sum(2).masked_fill(idle, garbage)
    rewards = RewardMixer(terms, Heads())(rollout, {"bonus": bonus})
    value, last = rollout.obs["obs"] @ table, rollout.final_obs["obs"] @ table
    onward = successor_values(rollout, value, last, rewards.carry)
    args = (rewards.reward, value[:-1], onward, rewards.discount, rewards.carry, rollout.valid)
    if estimator == "gae":
        return gae(*args, 0.95)
    log_rho = torch.sin(rollout.valid.cumsum(0).float())  # by valid row, not by time
    return vtrace(log_rho.masked_fill(idle, garbage), *args).advantage


TABLE = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("estimator", ["gae", "vtrace"])
def test_advantages_do_not_depend_on_invalid_rows(estimator):
    """An invalid row would else be one wrong sample per episode and environment."""
    vec = pool("CartPole-v1", steps=7)()
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 40)
    assert (~rollout.valid).sum() > 8
    clean, spoilt = (rated(rollout, TABLE, estimator, value) for value in (0.0, torch.nan))
    assert torch.equal(clean[rollout.valid], spoilt[rollout.valid])


class Balance:
    """Policy that pushes in the direction of the fall, and sometimes the other way."""

    state: ClassVar = {}

    def initial_state(self, num_envs):
        return {}

    def __call__(self, obs, state, is_first):
        self.dist, self.obs = self, obs["obs"]
        self.value = self.obs @ TABLE
        return self

    def draw(self, generator):
        pole, place = self.obs[..., 2] + self.obs[..., 3], self.obs[..., 0]
        action = ((pole > 0) ^ (torch.sin(1e4 * place) > 0.5)).long()
        return action, torch.zeros(action.shape)


def alone(rollout, n, rows):
    """Cut out the first `rows` valid rows of environment n."""
    here = rollout.final_at[:, 1] == n

    def column(value):
        if isinstance(value, dict):
            return {name: field[:, n : n + 1] for name, field in value.items()}
        return value[:, n : n + 1] if isinstance(value, torch.Tensor) else value

    names = ("obs", "info", "action", "log_prob", "value", "reward")
    names += ("terminated", "truncated", "valid", "is_first")
    changed = {name: column(getattr(rollout, name)) for name in names}
    single = dataclasses.replace(
        rollout,
        **changed,
        final_at=rollout.final_at[here] * torch.tensor([1, 0]),
        final_obs={name: field[here] for name, field in rollout.final_obs.items()},
        final_info={name: field[here] for name, field in rollout.final_info.items()},
        env_ids=torch.zeros(1, dtype=torch.int64),
    )
    return single.slice(0, int((single.valid.cumsum(0) == rows).nonzero()[0, 0]) + 1)


def both_ways(T=120):
    """Yield rollouts of each of three environments in both modes, with equally many valid rows."""
    factories = [functools.partial(cartpole, limit) for limit in (7, 13, 500)]
    same, later = (
        Runner(Joined(factories, mode), seed=3).collect(Balance(), T)
        for mode in ("same-step", "next-step")
    )
    assert later.terminated.any()
    assert later.truncated.any()
    assert same.valid.all()
    for n in range(3):
        ended = (same.terminated | same.truncated)[:, n]
        rows = int(later.valid[:, n].sum())
        while ended[rows - 1]:  # a non-episodic stream bootstraps otherwise in a last row that ends
            rows -= 1
        yield alone(same, n, rows), alone(later, n, rows)


@pytest.mark.parametrize("estimator", ["gae", "vtrace"])
def test_both_autoreset_modes_give_equal_advantages(estimator):
    """Environments end at different times; one stream is episodic and one is not."""
    for same, later in both_ways():
        assert (~later.valid).any()
        got = rated(later, TABLE, estimator)[later.valid]
        expected = rated(same, TABLE, estimator)[same.valid]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_both_autoreset_modes_give_equal_episode_statistics():
    counts = []
    for pair in both_ways():
        found = []
        for rollout in pair:
            statistics = EpisodeStatistics(1, success_threshold=10.0)
            statistics.update(rollout)
            found.append((statistics.last, statistics.metrics()))
        assert found[0] == found[1]
        counts.append(len(found[0][0]))
    assert min(counts) >= 1
    assert sum(counts) > 12
