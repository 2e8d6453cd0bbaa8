"""Means over finished episodes do not favour the short ones, which end first."""

import math
from itertools import count

import numpy as np
import pytest
import torch

from firstlight.agents.session.episodes import EpisodeStatistics
from firstlight.envs.types import Rollout

SEEDS = 300
SHORT, LONG, SUCCESS_RATE = 3, 40, 0.3
TAGS = ("rollout/return_mean", "rollout/success_rate")
TOLERANCE = 0.02  # beside three standard errors: a mean of ratios differs a little from the ratio


class Simulation:
    """Environments whose episodes are short successes of return 1, or long failures of return 0.

    Args:
        seed: of the episodes.
        num_envs: number of environments.
        next_step: after an end, a row that only resets the environment follows.
        lengths: of successes and failures.
    """

    def __init__(self, seed, num_envs=16, *, next_step=False, lengths=(SHORT, LONG)):
        self.rng, self.num_envs, self.next_step = np.random.default_rng(seed), num_envs, next_step
        self.lengths = lengths
        self.left = np.zeros(num_envs, int)  # steps to the end; 0: begins at the next step
        self.success = np.zeros(num_envs, bool)
        self.resets = np.zeros(num_envs, bool)

    def rollout(self, num_steps=10):
        shape = (num_steps, self.num_envs)
        reward, done, valid = (
            np.zeros(shape, np.float32),
            np.zeros(shape, bool),
            np.ones(shape, bool),
        )
        told = np.full((num_steps + 1, self.num_envs), -1, np.int8)
        for t in range(num_steps):
            valid[t], self.resets = ~self.resets, np.zeros(self.num_envs, bool)
            begins = valid[t] & (self.left == 0)
            self.success[begins] = self.rng.random(begins.sum()) < SUCCESS_RATE
            self.left[begins] = np.where(self.success[begins], *self.lengths)
            self.left -= valid[t]
            done[t] = valid[t] & (self.left == 0)
            reward[t], told[t + 1] = done[t] & self.success, np.where(done[t], self.success, -1)
            self.resets = done[t] & self.next_step
        nothing = torch.zeros(num_steps + 1, self.num_envs)
        return Rollout(
            obs={},
            info={"success": torch.tensor(told)},
            action=nothing[1:].long(),
            log_prob=nothing[1:],
            value=nothing[..., None],
            dist_params=None,
            reward=torch.tensor(reward),
            terminated=torch.tensor(done),
            truncated=torch.zeros(shape, dtype=torch.bool),
            valid=torch.tensor(valid),
            is_first=nothing.bool(),
            final_at=torch.zeros(0, 2, dtype=torch.int64),
            final_obs={},
            final_info={"success": torch.zeros(0, dtype=torch.int8)},
            final_state={},
            state={},
            env_ids=torch.arange(self.num_envs),
        )


def first_means(seed, *, resume=False, **options):
    """Return the first values reported of `TAGS`, and the mean of the first episodes to end."""
    simulation = Simulation(seed, **options)
    statistics, old = EpisodeStatistics(simulation.num_envs, None), math.nan
    found: dict[str, float] = {}
    for number in count():
        statistics.update(simulation.rollout())
        if math.isnan(old) and statistics.last:
            old = np.mean([episode.success for episode in statistics.last])
        metrics = statistics.metrics()
        found = {tag: metrics[tag] for tag in TAGS if tag in metrics} | found
        if len(found) == len(TAGS):
            return *(found[tag] for tag in TAGS), old
        if resume and number == 1:
            state = statistics.state_dict()
            statistics = EpisodeStatistics(simulation.num_envs, None)
            statistics.load_state_dict(state)
    return None


@pytest.mark.parametrize("options", [{}, {"next_step": True}, {"resume": True}], ids=str)
def test_the_first_mean_that_is_reported_is_unbiased(options):
    *means, old = np.array([first_means(seed, **options) for seed in range(SEEDS)]).T
    for found in means:
        error = found.std() / math.sqrt(SEEDS)
        assert abs(found.mean() - SUCCESS_RATE) < 3 * error + TOLERANCE
    assert old.mean() > 0.9  # of the episodes that end first


@pytest.mark.parametrize("next_step", [False, True])
def test_later_means_are_unbiased_too(next_step):
    """Every cohort counts once; the newest at a moment still waits for its long episodes."""
    found = []
    for seed in range(40):
        simulation = Simulation(seed, next_step=next_step)
        statistics = EpisodeStatistics(simulation.num_envs, None)
        for _ in range(30):
            statistics.update(simulation.rollout())
        found.append(statistics.metrics()["rollout/return_mean"])
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - SUCCESS_RATE) < 3 * error + TOLERANCE


def test_both_autoreset_modes_count_the_same_first_cohort():
    """A row more between two episodes moves their ends, not what the first ones return."""
    options = {"lengths": (11, 40)}  # of a first cohort with an episode in each environment
    for seed in range(5):
        same, later = (first_means(seed, next_step=mode, **options)[0] for mode in (False, True))
        assert same == later


def test_with_equal_lengths_the_means_are_the_plain_ones():
    simulation, statistics = Simulation(0, lengths=(5, 5)), EpisodeStatistics(16, None)
    every = []
    for _ in range(8):
        statistics.update(simulation.rollout())
        every += statistics.last
        recent = every[-128:]  # four rollouts' cohorts of 32: the first of at least 100 episodes
        rets = [episode.ret for episode in recent]
        assert statistics.metrics() == {
            "rollout/episodes": len(every),
            "rollout/episodes_counted": len(every),
            "rollout/return_mean": pytest.approx(np.mean(rets)),
            "rollout/return_std": pytest.approx(np.std(rets)),
            "rollout/success_rate": pytest.approx(np.mean(rets)),
            "rollout/length_mean": 5.0,
        }


def test_a_resume_in_the_middle_changes_nothing():
    simulations = [Simulation(1), Simulation(1)]
    unbroken, resumed = EpisodeStatistics(16, None), EpisodeStatistics(16, None)
    for _ in range(30):
        for simulation, statistics in zip(simulations, (unbroken, resumed), strict=True):
            statistics.update(simulation.rollout())
        assert resumed.metrics() == unbroken.metrics()
        state = resumed.state_dict()
        resumed = EpisodeStatistics(16, None)
        resumed.load_state_dict(state)
        assert repr(resumed.state_dict()) == repr(unbroken.state_dict())


def test_a_cut_of_every_open_episode_does_not_favour_those_that_ended():
    found = []
    for seed in range(100):
        simulation, statistics = Simulation(seed), EpisodeStatistics(16, None)
        for number in range(10):
            statistics.update(simulation.rollout())
            if number == 4:  # a barrier
                statistics.drop(torch.arange(16))
                simulation.left[:] = 0
        found.append(statistics.metrics()["rollout/return_mean"])
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - SUCCESS_RATE) < 3 * error + TOLERANCE


def test_a_lost_episode_does_not_hold_the_others_up():
    simulation, statistics = Simulation(2, num_envs=2, lengths=(1, 1)), EpisodeStatistics(2, None)
    simulation.left[0], simulation.success[0] = 1000, False
    statistics.update(simulation.rollout())
    assert (statistics.episodes, statistics.counted) == (10, 0)
    rollout = simulation.rollout()
    crashed = torch.zeros(10, 2, dtype=torch.bool)
    rollout.valid[3, 0], rollout.is_first[4, 0] = False, True
    rollout.truncated[2, 0] = crashed[2, 0] = True
    rollout = Rollout(**{n: getattr(rollout, n) for n in Rollout.__slots__} | {"crashed": crashed})
    statistics.update(rollout)
    assert statistics.last
    assert statistics.counted == 10  # the new episode in environment 0 is open since this rollout
    assert statistics.metrics()["rollout/length_mean"] == 1


def test_an_episode_that_never_ends_does_not_fill_the_memory():
    simulation, statistics = Simulation(3, lengths=(2, 5)), EpisodeStatistics(16, None, window=50)
    endless = np.array([1, 2])
    simulation.left[endless] = 10**6
    sizes = []
    for _ in range(200):
        statistics.update(simulation.rollout())
        sizes.append(sum(len(episodes) for _, episodes in statistics.state_dict()["waiting"]))
    assert "rollout/return_mean" not in statistics.metrics()
    assert max(sizes[100:]) <= max(sizes[:100]) < 400 < statistics.episodes
    simulation.left[endless] = 1
    for _ in range(3):
        statistics.update(simulation.rollout())
    assert statistics.metrics()["rollout/length_mean"] < 6  # the newest: without the endless ones


def test_a_state_from_before_cohorts_still_loads():
    simulation, statistics = Simulation(4), EpisodeStatistics(16, None)
    for _ in range(10):
        statistics.update(simulation.rollout())
    state = statistics.state_dict()
    for key in ("open_cohort", "window_cohorts", "waiting", "cohort", "counted"):
        del state[key]
    old = EpisodeStatistics(16, None)
    old.load_state_dict(state)
    assert old.metrics()["rollout/return_mean"] == statistics.metrics()["rollout/return_mean"]
    for _ in range(30):
        rollout = simulation.rollout()
        statistics.update(rollout)
        old.update(rollout)
    assert old.metrics()["rollout/return_mean"] == statistics.metrics()["rollout/return_mean"]
