"""Screening rejects programs that fail, lie about their ranges, or pay for the wrong thing."""

import dataclasses
import re
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hydra import compose, initialize_config_module

from firstlight.envs import Chain
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.worlds.array_backed import ArrayBacked
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.intrinsic.design.recording import UNFINISHED, Recording, record_transitions
from firstlight.intrinsic.design.screening import screen
from firstlight.scripts.build_env import make_vec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
N = 8


def program(body, ranges='{"a": (0, 1)}', before=""):
    return RewardProgram.parse(
        f"import numpy as np\nRANGES = {ranges}\n{before}\n"
        f"def reward(obs, action, next_obs, info, memory):\n    {body}\n"
    )


@pytest.fixture(scope="module")
def chain():
    return record_transitions(Chain(N, length=3, horizon=6), 70)


@pytest.fixture(scope="module")
def rooms():
    """Random play in the empty room of 6x6 cells, with successes and failures."""
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        cfg = compose("train", overrides=["env=minigrid/any", "env.task=MiniGrid-Empty-6x6-v0"])
    vec = make_vec(cfg.env, num_envs=N)
    return record_transitions(vec, 400)


HERE = 'here = next_obs["obs"].argmax(-1)\n    '
NEW = program(
    HERE + 'before = memory.get("far", here * 0)\n    memory["far"] = np.maximum(before, here)\n'
    '    return {"a": 0.3 * (here > before)}'
)


def test_a_sensible_program_passes(chain):
    report = screen(NEW, chain)
    assert report.passed, report.problems
    assert report.ranking > 0.8
    assert report.components["a"][2] == pytest.approx(0.3)
    assert report.circle_return is None or report.circle_return < report.success_return
    assert report.successes > 10
    assert report.failures > 10
    numbers = report.numbers()
    assert numbers["starc"] == report.starc
    assert numbers["mean of a"] == report.components["a"][1]


REJECTED = {
    'return {"a": obs["map"]}': "KeyError: 'map'",
    'return {"b": 0.0 * action}': "expected \\['a'\\]",
    'return {"a": action / 0.0}': "not finite",
    'return {"a": 3.0 * action}': "from 0 to 3, declared are 0 to 1",
    'return {"a": 0.5}': "is 0.5 in all 560",
    'state.append(1)\n    return {"a": 0.5 / len(state) * action}': "when it is called again",
    'return {"a": action / (1 + action.sum())}': "its own row alone",
    'return {"a": hash("x") % 1009 / 1009 * action}': "in a new process",
    'memory["k"] = memory.get("k", 0 * action) + 1\n    return {"a": memory["k"] / 6}': "higher",
}


@pytest.mark.parametrize("body", REJECTED)
def test_what_is_wrong_is_said(chain, body):
    report = screen(program(body, before="state = []"), chain)
    assert not report.passed
    assert any(re.search(REJECTED[body], text) for text in report.problems), report.problems


def test_a_program_that_takes_too_long_is_rejected(chain):
    assert "milliseconds, expected at most 0" in screen(NEW, chain, max_milliseconds=0).problems[0]
    slow = program(
        's = 0\n    for _ in range(10**10):\n        s += 1\n    return {"a": 0.0 * action}'
    )
    assert "longer than 0.5 seconds" in screen(slow, chain, timeout_seconds=0.5).problems[0]


def test_features_are_checked_too(chain):
    text = NEW.source + 'FEATURES = {"x": (1, 0, 1, 0)}\ndef features(obs, info, memory):\n    '
    for body, problem in (
        ('return {"x": info["position"]}', "feature x has values from 0 to 2"),
        ('return {"x": info["position"] / (1 + info["position"].max())}', "its own row alone"),
    ):
        (found,) = screen(RewardProgram.parse(text + body), chain).problems
        assert problem in found
    assert screen(RewardProgram.parse(text + 'return {"x": info["position"] / 3}'), chain).passed


GOAL = (  # distance to the goal in the agent's view, 99 where it is not seen
    'view = (x["image"][..., 0] == 8)\n'
    "    far = np.abs(np.arange(7) - 3)[:, None] + (6 - np.arange(7))\n"
    "    return np.where(view, far, 99).min((1, 2))\n"
)
DISTANCE = f"def distance(x):\n    {GOAL}\n"
HOVERS = program('return {"a": 0.1 * (distance(next_obs) < 4)}', before=DISTANCE)
COMES_NEARER = program(
    'best = memory.get("best", np.zeros(len(action)))\n'
    "    now = 10.0 - np.minimum(distance(next_obs), 10)\n"
    '    memory["best"] = np.maximum(best, now)\n'
    '    return {"a": 0.05 * np.maximum(now - best, 0)}',
    before=DISTANCE,
)


def test_a_program_that_pays_for_hovering_near_the_goal_is_caught_and_progress_is_not(rooms):
    assert (rooms.success == 1).sum() >= 5
    assert (rooms.success == 0).sum() >= 5
    report = screen(HOVERS, rooms)
    assert any("going in a circle until the time limit" in text for text in report.problems)
    good = screen(COMES_NEARER, rooms)
    assert good.passed, good.problems
    assert good.ranking > 0.5
    assert good.starc < 1


def test_a_circle_that_pays_less_than_success_is_not_held_against_a_program(rooms):
    report = screen(program('return {"a": 0.001 * (action == 0)}'), rooms, min_ranking=0)
    assert 0 < report.circle_return < report.success_return
    assert report.passed, report.problems


def test_recorded_failures_that_hover_outrank_successes():
    """Episodes of a policy that goes next to the goal and stays there until the time limit."""
    vec = Ring(N)
    recording = record_transitions(vec, 60, Hovering(vec))
    hovers = program('return {"a": 1.0 * (next_obs["obs"][:, 0] == 3)}')
    report = screen(hovers, recording)
    assert report.ranking == 0
    assert any("in 0% of pairs" in text for text in report.problems)
    assert any("going in a circle" in text for text in report.problems)
    arrives = program('return {"a": 1.0 * (next_obs["obs"][:, 0] == 4)}')
    assert screen(arrives, recording).passed


class Ring(ArrayBacked):
    """Five cells in a row: one step forward, or none; the last one is the goal."""

    _saved = ("place", "elapsed", "over")

    def __init__(self, num_envs):
        super().__init__(num_envs, "same_step")
        self.obs_space = spaces.Dict({"obs": spaces.Box(0, 4, (1,), np.uint8)})
        self.info_space = spaces.Dict({"success": spaces.Box(-1, 1, (), np.int8)})
        self.act_space = spaces.Discrete(2)
        self._place = torch.zeros(num_envs, dtype=torch.int64)
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64)

    def reset(self, seed=None):
        return self._begin_all()

    def _advance(self, actions, valid):
        self._place = self._place + torch.from_numpy(actions)
        self._elapsed = self._elapsed + 1
        done = self._place == 4
        return done.float(), done, ~done & (self._elapsed >= 12)

    def _begin(self, ids):
        self._place = self._place.index_fill(0, ids, 0)
        self._elapsed = self._elapsed.index_fill(0, ids, 0)

    def _observe(self, ids):
        place = self._place[ids]
        return {"obs": place[:, None].to(torch.uint8)}, {"success": (place == 4).to(torch.int8)}


def test_without_successes_the_ranking_is_unknown_and_no_reason_to_reject():
    recording = record_transitions(Chain(N, length=16, horizon=8), 40)
    report = screen(NEW, recording)
    assert report.passed, report.problems
    assert (report.successes, report.ranking, report.starc) == (0, None, None)


def test_weights_count(chain):
    two = program(
        HERE + 'return {"a": 0.1 * (here == 3), "age": -0.1 * (action > -1)}',
        ranges='{"a": (0, 1), "age": (-1, 0)}',
    )
    assert screen(two, chain, weights={"age": 0.0}).passed
    punished = screen(two, chain, weights={"a": -1.0, "age": 0.0})
    assert punished.ranking == 0


def test_a_shaped_reward_is_as_near_to_the_environments_as_the_noise_allows(chain):
    near = program(HERE + 'return {"a": 1.0 * (here == 3)}')
    shaped = program(
        HERE + 'was = obs["obs"].argmax(-1)\n    end = here == 3\n'
        '    return {"a": 1.0 * end + 0.2 * (0.99 * here * ~end - was)}',
        ranges='{"a": (-2, 2)}',
    )
    against = program(HERE + 'return {"a": -1.0 * (here == 3)}', ranges='{"a": (-1, 0)}')
    reports = [screen(each, chain) for each in (near, shaped, against)]
    assert reports[0].starc == pytest.approx(0, abs=1e-6)
    assert reports[0].epic == pytest.approx(0, abs=1e-6)
    assert reports[1].starc < 0.05
    assert reports[2].starc == pytest.approx(1)
    assert all(report.starc_noise < 0.3 for report in reports)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_episodes_are_those_of_a_plain_loop(autoreset):
    vec = Chain(3, length=2, horizon=4, autoreset=autoreset)
    runner = Runner(vec)
    rollouts = [runner.collect(RandomActor(vec.act_space), 7) for _ in range(3)]
    recording = Recording.of(rollouts, None)
    sums = recording.episode_sums(recording.reward)
    found = 0
    for n in range(3):
        total, rows = 0.0, []
        for t in range(21):
            if not recording.valid[t, n]:
                continue
            rows.append(t)
            total += recording.reward[t, n]
            rollout, row = rollouts[t // 7], t % 7
            if rollout.terminated[row, n] or rollout.truncated[row, n]:
                (number,) = set(recording.episode[rows, n].tolist())
                assert sums[number] == total
                assert recording.success[number] == total
                found, total, rows = found + 1, 0.0, []
        assert all(recording.episode[rows, n] == UNFINISHED)
    assert found == len(recording.success) > 9


def test_an_episode_whose_environment_crashed_is_none():
    rollout = Runner(vec := Chain(3, length=2, horizon=4)).collect(
        RandomActor(Chain(3).act_space), 9
    )
    whole = Recording.of([rollout], vec.success_threshold)
    over = rollout.terminated | rollout.truncated
    crashed = over & (over.cumsum(0) == 1)  # the first of each environment
    some = Recording.of([dataclasses.replace(rollout, crashed=crashed)], vec.success_threshold)
    assert len(some.success) == len(whole.success) - 3


class Hovering:
    """Goes to the goal in one half of the environments, next to it in the other."""

    def __init__(self, vec):
        self.actor = RandomActor(vec.act_space)

    def initial_state(self, num_envs):
        return self.actor.initial_state(num_envs)

    def __call__(self, obs, state, is_first):
        out = self.actor(obs, state, is_first)
        goes_on = (obs["obs"][..., 0] < 3) | (torch.arange(N) % 2 == 0)

        class Chosen:
            params = out.dist

            def draw(self, generator):
                return goes_on.long(), torch.zeros(goes_on.shape)

        return out._replace(dist=Chosen())
