"""Points of Gymnasium environments: going back to one, alone or among others, and knowing it."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.envs.types import Snapshot
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.vector.replay import digest

N = 3


class Dice(gymnasium.Env):
    """Shows a die that each step throws anew, pays what it shows, and ends on a six."""

    observation_space = spaces.Discrete(7)
    action_space = spaces.Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = 0
        return self.shown, {}

    def step(self, action):
        assert action in self.action_space
        self.shown = (int(self.np_random.integers(1, 7)) + int(action)) % 6 + 1
        return self.shown, float(self.shown), self.shown == 6, False, {"is_success": True}


class Clock(Dice):
    """Dice, but what it shows also depends on how often it was ever stepped."""

    steps = 0

    def step(self, action):
        self.steps += 1
        answer = super().step(action)
        return (self.steps % 7, *answer[1:])


def play(vec, actions):
    """What comes of `actions` [T, N]: observations, rewards and ends."""
    steps = [vec.step(action) for action in actions]
    return [torch.stack([getattr(s, n) for s in steps]) for n in ("reward", "terminated")] + [
        torch.stack([s.obs["obs"] for s in steps])
    ]


@pytest.fixture(params=[False, True], ids=["here", "processes"])
def vec(request):
    vec = GymVec([Dice] * N, asynchronous=request.param)
    vec.reset(seed=5)
    yield vec
    vec.close()


def actions(steps, seed=0):
    return torch.randint(0, 3, (steps, N), generator=torch.Generator().manual_seed(seed))


def test_going_back_to_a_point_is_living_on_from_there(vec):
    play(vec, actions(9))
    points = vec.snapshots()
    state = vec.state_dict()
    first = play(vec, actions(30, seed=1))
    obs, info, lost = vec.load_state_dict(state)
    assert not lost.any()
    assert obs["obs"].shape == (N,)
    assert info["success"].shape == (N,)
    again = play(vec, actions(30, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[1].any()  # beyond the ends of episodes
    assert [p.seed for p in points] == [p["seed"] for p in state["points"]]


def test_a_point_shows_what_was_seen_there(vec):
    seen = play(vec, actions(9))[2][-1]
    points = vec.snapshots()
    play(vec, actions(5, seed=2))
    obs, _, lost = vec.restore(torch.tensor([2, 0]), [points[2], points[0]])
    assert obs["obs"].tolist() == seen[[2, 0]].tolist()
    assert lost.tolist() == [False, False]


def test_the_others_stay_where_they_are(vec):
    play(vec, actions(9))
    points = vec.snapshots()
    play(vec, actions(4, seed=3))
    stood = vec.snapshots()
    vec.restore(torch.tensor([1]), [points[1]])
    now = vec.snapshots()
    assert [p.digest for p in now] == [stood[0].digest, points[1].digest, stood[2].digest]


def test_a_point_may_be_another_environments():
    vec = GymVec([Dice] * N)
    vec.reset(seed=5)
    play(vec, actions(7))
    points = vec.snapshots()
    obs, _, lost = vec.restore(torch.arange(N), [points[0]] * N)
    assert len(set(obs["obs"].tolist())) == 1
    assert not lost.any()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_another_answer_is_noticed_and_begins_an_episode(asynchronous):
    vec = GymVec([Dice, Clock, Dice], asynchronous=asynchronous)
    vec.reset(seed=5)
    play(vec, actions(2))
    points = vec.snapshots()
    obs, _, lost = vec.restore(torch.arange(N), points)
    assert lost.tolist() == [False, True, False]
    assert obs["obs"][1] == 0
    assert vec.snapshots()[1].actions is None
    assert vec.snapshots()[1].seed != points[1].seed
    vec.close()


def test_an_environment_that_raises_on_the_way_begins_an_episode():
    vec = GymVec([Dice] * N)
    vec.reset(seed=5)
    far = torch.full((4,), 99)
    _, _, lost = vec.restore(torch.tensor([1]), [Snapshot(seed=1, actions=far, digest=1)])
    assert lost.tolist() == [True]
    vec.step(actions(1)[0])


def test_the_digest_feels_everything():
    answers = [
        {"a": np.zeros(3, np.float32), "b": "go"},
        {"a": np.zeros(3, np.float32), "b": "stop"},
        {"a": np.array([0, 0, 1e-7], np.float32), "b": "go"},
        {"b": "go"},
        (np.int64(3), 1.0, True, False),
        (np.int64(3), 1.0, False, True),
        (np.int64(3), 1.5, True, False),
        np.arange(6).reshape(2, 3)[:, ::2],
    ]
    assert len({digest(answer) for answer in answers}) == len(answers)
    assert digest(answers[0], before=1) != digest(answers[0])
    shuffled = {"b": "go", "a": np.zeros(3, np.float32)}
    assert digest(shuffled) == digest(answers[0])
