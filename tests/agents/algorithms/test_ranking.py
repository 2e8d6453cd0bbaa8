"""Which episodes RAPID ranks, how it scores them, and which pairs it keeps."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from nested import differing

from firstlight.agents.algorithms.auxiliaries import Rapid
from firstlight.agents.algorithms.auxiliaries.episodes import Episode, OpenEpisodes
from firstlight.agents.algorithms.auxiliaries.ranking import RankingBuffer, ScoreWeights
from firstlight.envs import Chain, Runner
from firstlight.envs.runner import RandomActor
from firstlight.envs.types import map_obs

PUBLISHED = (1.0, 0.1, 0.001)
MODES = ["same_step", "next_step"]


def episodes_at_random(count, seed=0, states=12, longest=20):
    """Episodes in which observation, action and key say which episode and step it was."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        length = int(draw.integers(1, longest + 1))
        names = torch.stack([torch.full((length,), number), torch.arange(length)], 1)
        keys = torch.from_numpy(draw.integers(0, states, length))
        reward = torch.from_numpy(draw.integers(-1, 2, length).astype(np.float32))
        yield Episode({"name": names}, names[:, 1] + 1000, keys, reward)


class Naive:
    """The ranking buffer as plain loops over plain lists."""

    def __init__(self, size, weights):
        self.size, self.weights, self.kept, self.visits = size, weights, [], Counter()

    def insert(self, number, episode):
        keys = episode.keys.tolist()
        self.visits.update(keys)
        pairs = [tuple(row) for row in episode.obs["name"].tolist()]
        self.kept.append((number, sum(episode.reward.tolist()), keys, pairs))
        self.kept.sort(key=lambda e: (self.score(e), e[0]), reverse=True)
        room, kept = self.size, []
        for number, total, keys, pairs in self.kept:
            if room > 0:
                kept.append((number, total, keys, pairs[:room]))
                room -= len(pairs[:room])
        self.kept = kept

    def score(self, episode):
        _, total, keys, _ = episode
        spread = sum(self.visits[key] ** -0.5 for key in keys) / len(keys)
        parts = (total, len(set(keys)) / len(keys), spread)
        return sum(w * part for w, part in zip(self.weights, parts, strict=True))


@pytest.mark.parametrize("size", [1, 37, 10**6])
@pytest.mark.parametrize("weights", [PUBLISHED, (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)])
def test_scores_and_kept_pairs_are_those_of_an_independent_loop(weights, size):
    ranking, naive = RankingBuffer(size, ScoreWeights(*weights)), Naive(size, weights)
    for number, episode in enumerate(episodes_at_random(120)):
        ranking.insert(episode)
        naive.insert(number, episode)
        assert ranking.serial.tolist() == [e[0] for e in naive.kept]
        torch.testing.assert_close(ranking.score.tolist(), [naive.score(e) for e in naive.kept])
        obs, action = ranking._store
        found = [tuple(row) for row in obs["name"][ranking.slots].tolist()]
        assert found == [pair for e in naive.kept for pair in e[3]]
        assert (action[ranking.slots] - 1000).tolist() == [step for _, step in found]
    assert len(ranking) == min(size, sum(len(e) for e in episodes_at_random(120)))
    assert bool(ranking.visits.used) == (weights[2] != 0)


def test_the_best_stays_and_the_worst_goes():
    ranking = RankingBuffer(10, ScoreWeights(1, 0, 0))
    for number, ret in enumerate([0.0, 5.0, 1.0, 4.0, 0.5]):
        keys = torch.arange(5)
        ranking.insert(Episode({"o": keys + number}, keys, keys, torch.tensor([ret, 0, 0, 0, 0])))
    assert ranking.serial.tolist() == [1, 3]
    assert ranking.score.tolist() == [5.0, 4.0]


def test_samples_are_kept_pairs_each_as_likely_as_any_other():
    ranking = RankingBuffer(20, ScoreWeights(*PUBLISHED))
    for episode in episodes_at_random(50):
        ranking.insert(episode)
    obs, action = ranking.sample(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(action - 1000, obs["name"][:, 1])
    counts = Counter(map(tuple, obs["name"].tolist()))
    assert set(counts) == set(map(tuple, ranking._store[0]["name"][ranking.slots].tolist()))
    assert max(abs(n - 1000) for n in counts.values()) < 5 * 1000**0.5


# --- which episodes


def walks(autoreset, rollouts=6, T=7, N=5, seed=0):
    """Rollouts of a random walk that follow one another, and their runner."""
    runner = Runner(Chain(N, length=4, horizon=5, autoreset=autoreset), seed=seed)
    actor = RandomActor(runner.vec.act_space)
    return [runner.collect(actor, T) for _ in range(rollouts)], runner


def keys_of(rollout):
    return rollout.obs["obs"].long().argmax(-1)


def ranked(rollouts):
    """What `OpenEpisodes` hands out, as lists of states, actions and rewards."""
    opened = OpenEpisodes()
    ended = [e for rollout in rollouts for e in opened.add(rollout, keys_of(rollout))]
    for episode in ended:
        assert torch.equal(episode.obs["obs"].argmax(-1), episode.keys)
    return [(e.keys.tolist(), e.action.tolist(), e.reward.tolist()) for e in ended]


def expected(rollouts):
    """The same by a loop over steps: whole episodes, in any order."""
    found, running = [], {}
    for rollout in rollouts:
        keys = keys_of(rollout)
        for t in range(rollout.num_steps):
            for n in range(rollout.num_envs):
                if rollout.is_first[t, n]:
                    running[n] = []
                if n not in running or not rollout.valid[t, n]:
                    continue
                row = (keys[t, n].item(), rollout.action[t, n].item(), rollout.reward[t, n].item())
                running[n].append(row)
                if rollout.terminated[t, n] or rollout.truncated[t, n]:
                    found.append(tuple(map(list, zip(*running.pop(n), strict=True))))
    return found


@pytest.mark.parametrize("autoreset", MODES)
def test_finished_episodes_are_found_across_rollouts_and_environments(autoreset):
    rollouts, _ = walks(autoreset)
    found, wanted = ranked(rollouts), expected(rollouts)
    if autoreset == "next_step":  # those of the very last row wait for what follows
        wanted = [e for e in wanted if e in found]
    assert sorted(found) == sorted(wanted)
    assert len(found) > 20


@pytest.mark.parametrize("autoreset", MODES)
def test_nothing_of_a_cut_episode_is_handed_out(autoreset):
    rollouts, runner = walks(autoreset, rollouts=1, T=8)
    cut = runner.cut(rollouts[0])
    assert bool((cut.truncated & ~rollouts[0].truncated).any())
    after = [runner.collect(RandomActor(runner.vec.act_space), 8) for _ in range(2)]
    assert after[0].is_first[0].all()
    assert ranked([cut, *after]) == ranked([rollouts[0]]) + ranked(after)


@pytest.mark.parametrize("autoreset", MODES)
def test_episodes_that_were_not_seen_whole_are_left_out(autoreset):
    rollouts, _ = walks(autoreset, rollouts=5, seed=3)
    moments = torch.arange(5 * 7 + 1)[:, None] * 10 + torch.arange(5)  # [5T+1, N], all different

    def found(numbers):
        opened = OpenEpisodes()
        shown = [opened.add(rollouts[i], moments[7 * i : 7 * i + 8]) for i in numbers]
        return {tuple(episode.keys.tolist()) for ended in shown for episode in ended}

    whole = found([0, 1, 2, 3, 4])
    assert found([3, 4]) < whole  # begins in the middle of episodes
    assert found([0, 1, 3, 4]) < whole  # a rollout is missing
    assert len(found([0, 1, 3, 4])) >= 0.5 * len(whole)


def test_an_episode_that_died_with_its_environment_is_left_out():
    (rollout,), _ = walks("same_step", rollouts=1, T=8)
    ends = (rollout.truncated & rollout.valid).nonzero()
    t, n = ends[0].tolist()
    lost = torch.zeros_like(rollout.truncated)
    lost[t, n] = True
    found = ranked([dataclasses.replace(rollout, crashed=lost)])
    assert len(found) == len(ranked([rollout])) - 1


@pytest.mark.parametrize("autoreset", MODES)
def test_two_half_rollouts_are_one_whole(autoreset):
    (whole,), runner = walks(autoreset, rollouts=1, T=40)
    for cut in (1, 13, 20, 39):
        one, two = Rapid(runner.vec.obs_space, size=50), Rapid(runner.vec.obs_space, size=50)
        one.observe(whole, 0.0)
        two.observe(whole.slice(0, cut), 0.0)
        two.observe(whole.slice(cut, 40), 0.0)
        assert differing(one.state_dict(), two.state_dict()) is None
        assert one.ranking.episodes > 10


@pytest.mark.parametrize("autoreset", MODES)
def test_the_order_of_columns_changes_nothing(autoreset):
    rollouts, runner = walks(autoreset)
    one, two = Rapid(runner.vec.obs_space, size=50), Rapid(runner.vec.obs_space, size=50)
    for seed, rollout in enumerate(rollouts):
        one.observe(rollout, 0.0)
        two.observe(permuted(rollout, seed), 0.0)
    state, other = one.state_dict(), two.state_dict()
    other["open"] = {key: other["open"][key] for key in state["open"]}
    assert differing(state, other) is None


def permuted(rollout, seed):
    """The same environments in other columns."""
    order = torch.randperm(rollout.num_envs, generator=torch.Generator().manual_seed(seed))
    place = order.argsort()
    columns = ("action", "log_prob", "value", "reward", "terminated", "truncated", "valid")
    changes = {name: getattr(rollout, name)[:, order] for name in (*columns, "is_first")}
    final_at = rollout.final_at.clone()
    final_at[:, 1] = place[final_at[:, 1]]
    for name in ("obs", "info"):
        changes[name] = map_obs(lambda field: field[:, order], getattr(rollout, name))
    return dataclasses.replace(
        rollout, **changes, final_at=final_at, env_ids=rollout.env_ids[order]
    )
