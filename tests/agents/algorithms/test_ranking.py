"""RAPID's ranking buffer: scores, stored pairs and samples, against plain loops."""

from collections import Counter

import numpy as np
import pytest
import torch

from firstlight.agents.algorithms.auxiliaries.episodes import EpisodeSteps
from firstlight.agents.algorithms.auxiliaries.ranking import RankingBuffer, ScoreWeights

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
        yield EpisodeSteps({"name": names}, names[:, 1] + 1000, keys, reward)


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
def test_scores_and_stored_pairs_equal_a_plain_loop(weights, size):
    ranking, naive = RankingBuffer(size, ScoreWeights(*weights)), Naive(size, weights)
    for number, episode in enumerate(episodes_at_random(60)):
        ranking.insert(episode)
        naive.insert(number, episode)
        assert ranking.serial.tolist() == [e[0] for e in naive.kept]
        torch.testing.assert_close(ranking.score.tolist(), [naive.score(e) for e in naive.kept])
        obs, action = ranking._store
        found = [tuple(row) for row in obs["name"][ranking.slots].tolist()]
        assert found == [pair for e in naive.kept for pair in e[3]]
        assert (action[ranking.slots] - 1000).tolist() == [step for _, step in found]
    assert len(ranking) == min(size, sum(len(e) for e in episodes_at_random(60)))
    assert bool(ranking.visits.used) == (weights[2] != 0)


def test_a_full_buffer_drops_the_episodes_with_the_lowest_score():
    ranking = RankingBuffer(10, ScoreWeights(1, 0, 0))
    for number, ret in enumerate([0.0, 5.0, 1.0, 4.0, 0.5]):
        keys = torch.arange(5)
        reward = torch.tensor([ret, 0, 0, 0, 0])
        ranking.insert(EpisodeSteps({"o": keys + number}, keys, keys, reward))
    assert ranking.serial.tolist() == [1, 3]
    assert ranking.score.tolist() == [5.0, 4.0]


def test_samples_are_uniform_over_stored_pairs():
    ranking = RankingBuffer(20, ScoreWeights(*PUBLISHED))
    for episode in episodes_at_random(50):
        ranking.insert(episode)
    obs, action = ranking.sample(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(action - 1000, obs["name"][:, 1])
    counts = Counter(map(tuple, obs["name"].tolist()))
    assert set(counts) == set(map(tuple, ranking._store[0]["name"][ranking.slots].tolist()))
    assert max(abs(n - 1000) for n in counts.values()) < 5 * 1000**0.5
