"""What a death of isolated environments does to rollouts, advantages, statistics and training."""

import logging
from types import SimpleNamespace

import pytest
import torch
from bombs import ABORT, ON, AbortsAtRandom, N, isolated, kill

from firstlight.agents import MLP, PPO, ActorCritic, Trainer, evaluate
from firstlight.agents.returns import gae, successor_values
from firstlight.agents.session.episodes import EpisodeStatistics
from firstlight.envs import Runner
from firstlight.envs.types import check
from firstlight.intrinsic.mixer import RewardMixer, Term


@pytest.fixture
def vec():
    vec = isolated()
    vec.reset(5)
    yield vec
    vec.close()


class Scripted:
    """Does what `plan` says at its t-th step; values an observation by its time."""

    def __init__(self, plan):
        self.plan, self.t = plan, -1

    def initial_state(self, num_envs):
        return {}

    def __call__(self, obs, state, is_first):
        self.t += 1
        value = 10 + obs["obs"][..., :1]
        return SimpleNamespace(dist=self, value=value, state={})

    def sample(self, generator):
        return self.draw(generator)[0]

    def draw(self, generator):
        action = torch.tensor([[self.plan.get(self.t, ON)] * N])
        return action, torch.zeros(action.shape)


def test_the_row_before_a_death_is_truncated_and_bootstraps_from_what_it_last_saw(vec):
    """Environments of lengths 6, killed in row 4 of the rollout, seen by its fifth action."""
    rollout = check(Runner(vec, seed=1).collect(Scripted({4: ABORT}), 12))
    assert rollout.valid[:, 0].tolist() == [t != 4 for t in range(12)]
    assert rollout.truncated[:, 0].nonzero().flatten().tolist() == [3]
    assert rollout.terminated[:, 0].nonzero().flatten().tolist() == [10]
    assert rollout.is_first[:, 0].nonzero().flatten().tolist() == [0, 5, 11]
    assert torch.equal(rollout.crashed, rollout.truncated)
    assert rollout.obs["obs"][4, :, 0].tolist() == [4] * N  # what row 3 led to is still there
    rewards = RewardMixer({"reward": Term(gamma=0.9)})(rollout, {})
    last = 10 + rollout.final_obs["obs"][:, :1]
    onward = successor_values(rollout, rollout.value, last, rewards.carry)
    args = (rewards.reward, rollout.value[:-1], onward, rewards.discount, rewards.carry)
    advantage = gae(*args, rollout.valid, 0.95)
    assert advantage[3, 0].item() == pytest.approx(1 + 0.9 * 14 - 13)  # not the next episode's
    assert advantage[2, 0].item() == pytest.approx(1 + 0.9 * 13 - 12 + 0.9 * 0.95 * 0.6, rel=1e-4)
    assert rollout.slice(2, 6).crashed.sum() == N


def test_a_death_right_after_an_end_cuts_nothing(vec):
    runner = Runner(vec, seed=1)
    rollout = check(runner.collect(Scripted({6: ABORT}), 9))
    assert rollout.terminated[:, 0].nonzero().flatten().tolist() == [5]
    assert not rollout.truncated.any()
    assert not rollout.crashed.any()
    assert rollout.is_first[:, 0].nonzero().flatten().tolist() == [0, 6, 7]


def test_a_death_in_the_first_row_of_a_rollout_has_nothing_left_to_cut(vec):
    """The rollout before bootstraps from its last observation as it is."""
    runner, statistics = Runner(vec, seed=1), EpisodeStatistics(N, None)
    for plan in ({}, {0: ABORT}, {}):
        rollout = check(runner.collect(Scripted(plan), 4))
        statistics.update(rollout)
        assert not rollout.truncated.any()
    assert [episode.length for episode in statistics.last] == [6] * N  # and not 4 more
    assert statistics.episodes == N


def test_episodes_that_died_are_in_no_statistics(vec):
    statistics = EpisodeStatistics(N, None)
    statistics.update(Runner(vec, seed=1).collect(Scripted({4: ABORT}), 12))
    assert [(episode.ret, episode.length) for episode in statistics.last] == [(6, 6)] * N
    kill(vec)
    result = evaluate(Scripted({3: ABORT}), vec, episodes=2 * N, seed=1)
    assert result.returns == [6] * 2 * N


def test_training_goes_on_through_deaths(caplog):
    caplog.set_level(logging.ERROR)
    vec = isolated(AbortsAtRandom, AbortsAtRandom, max_restarts=50)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(8,)))
    trainer = Trainer(vec, PPO(policy, minibatch_size=16), num_steps=16)
    trainer.run(200)
    assert trainer.session.steps >= 200
    assert 1 < vec.restarts < 30
    assert trainer.session.episodes.metrics()["rollout/length_mean"] == 6
    vec.close()
