"""`Chain` equals a plain loop, and continues from snapshots."""

import numpy as np
import pytest
import torch

from firstlight.envs.types import Step
from firstlight.envs.worlds.chain import Chain

MODES = ["same_step", "next_step"]


def random_actions(vec, steps, seed=0, good=0.7):
    """Yield actions that mostly lead on, so that both kinds of end occur."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        wanted = vec.combination[vec._position.clamp(max=vec.length - 1)]
        errs = torch.rand(vec.num_envs, generator=g) > good
        yield torch.where(errs, 1 - wanted, wanted)


class Plain:
    """One environment in plain Python."""

    def __init__(self, combination, horizon, next_step):
        self.combination, self.horizon, self.next_step = combination, horizon, next_step
        self.position = self.elapsed = 0
        self.over = False

    def step(self, action):
        """Return position, reward, terminated, truncated, valid, is_first, hidden position."""
        if self.over:
            self.position = self.elapsed = 0
            self.over = False
            return 0, 0.0, False, False, False, True, None
        if action == self.combination[self.position]:
            self.position += 1
        else:
            self.position = 0
        self.elapsed += 1
        terminated = self.position == len(self.combination)
        truncated = not terminated and self.elapsed == self.horizon
        hidden, shown = None, self.position
        if terminated or truncated:
            if self.next_step:
                self.over = True
            else:
                hidden, shown = self.position, 0
                self.position = self.elapsed = 0
        is_first = (terminated or truncated) and not self.next_step
        return shown, float(terminated), terminated, truncated, True, is_first, hidden


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize(("length", "horizon"), [(1, 1), (3, 5), (4, None)])
def test_transitions_equal_a_plain_loop(autoreset, length, horizon):
    vec = Chain(7, length=length, horizon=horizon, autoreset=autoreset, seed=length)
    combination = vec.combination.tolist()
    plain = [Plain(combination, horizon or 2 * length, autoreset == "next_step") for _ in range(7)]
    obs, info = vec.reset()
    assert obs["obs"].argmax(1).tolist() == info["position"].tolist() == [0] * 7
    ends = {"terminated": 0, "truncated": 0}
    for action in random_actions(vec, 120):
        step = vec.step(action)
        rows = [lock.step(int(a)) for lock, a in zip(plain, action, strict=True)]
        shown, reward, terminated, truncated, valid, is_first, hidden = zip(*rows, strict=True)
        assert step.obs["obs"].argmax(1).tolist() == list(shown)
        assert step.obs["obs"].sum(1).tolist() == [1] * 7
        assert step.info["position"].tolist() == list(shown)
        assert step.info["success"].tolist() == [int(position == length) for position in shown]
        assert step.reward.tolist() == list(reward)
        assert step.terminated.tolist() == list(terminated)
        assert step.truncated.tolist() == list(truncated)
        assert step.valid.tolist() == list(valid)
        assert step.is_first.tolist() == list(is_first)
        ids = [i for i, position in enumerate(hidden) if position is not None]
        assert step.final_ids.tolist() == ids
        assert step.final_obs["obs"].argmax(1).tolist() == [hidden[i] for i in ids]
        assert step.final_info["position"].tolist() == [hidden[i] for i in ids]
        assert step.final_info["success"].tolist() == [int(hidden[i] == length) for i in ids]
        ends["terminated"] += sum(terminated)
        ends["truncated"] += sum(truncated)
    assert ends["terminated"] > 10
    assert ends["truncated"] > 10 or length == 4


def test_only_the_right_combination_is_rewarded():
    """Random actions reach the end of 10 cells in about 1 of 1,000 attempts."""
    vec = Chain(64, length=10, horizon=10)
    vec.reset()
    g = torch.Generator().manual_seed(0)
    total = sum(vec.step(torch.randint(0, 2, (64,), generator=g)).reward.sum() for _ in range(200))
    assert total <= 12
    vec.reset()
    rewards = [vec.step(digit.expand(64)).reward.sum().item() for digit in vec.combination]
    assert rewards == [0.0] * 9 + [64.0]


def test_the_combination_depends_on_the_seed_only():
    locks = [Chain(1, length=40, seed=seed).combination for seed in range(4)]
    assert torch.equal(locks[0], Chain(3, length=40, seed=0).combination)
    assert all(not torch.equal(locks[0], other) for other in locks[1:])
    assert {0, 1} == set(locks[0].tolist())


def play(vec, actions):
    """Steps as nested lists."""

    def plain(part):
        return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part.tolist()

    steps = [vec.step(action) for action in actions]
    return [[plain(getattr(step, name)) for name in Step.__slots__] for step in steps]


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("between", ["nothing", "steps", "reset", "restore of others"])
def test_restored_environments_continue_with_the_same_steps(autoreset, between):
    vec = Chain(5, length=3, horizon=4, autoreset=autoreset)
    vec.reset()
    for action in random_actions(vec, 6, good=0.5):
        vec.step(action)
    snapshots = vec.snapshots()
    places = [int(p.arrays["position"]) + 10 * int(p.arrays["elapsed"]) for p in snapshots]
    assert len(set(places)) > 2
    g = torch.Generator().manual_seed(1)
    actions = [torch.randint(0, 2, (5,), generator=g) for _ in range(15)]
    expected = play(vec, actions)
    if between == "steps":
        play(vec, actions[:4])
    if between in ("reset", "restore of others"):
        vec.reset()
    if between == "restore of others":
        vec.restore(torch.tensor([3, 1]), [snapshots[0], snapshots[2]])
    vec.restore(torch.arange(5), snapshots)
    assert play(vec, actions) == expected


def test_environments_stepped_in_inference_mode_can_be_reset_and_restored():
    vec = Chain(2, length=3)
    with torch.inference_mode():
        vec.step(vec.combination[0].expand(2))
    snapshots = vec.snapshots()
    with torch.inference_mode():
        vec.step(vec.combination[1].expand(2))
    vec.restore(torch.arange(2), snapshots)
    assert vec._position.tolist() == [1, 1]
    with torch.inference_mode():
        vec.step(vec.combination[1].expand(2))
    vec.reset()
    assert vec._position.tolist() == [0, 0]


def test_a_snapshot_of_one_environment_restores_another():
    vec = Chain(3, length=4)
    vec.reset()
    vec.step(vec.combination[0].expand(3))
    vec.step(vec.combination[1].expand(3))
    snapshot = vec.snapshots()[0]
    vec.reset()
    vec.restore(torch.tensor([2]), [snapshot])
    assert vec._position.tolist() == [0, 0, 2]
    assert vec._elapsed.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    "action",
    [
        torch.tensor([0, 1, 2]),
        torch.tensor([0, -1, 0]),
        torch.tensor([0, 1]),
        torch.tensor([0, 1, 0, 1]),
        torch.tensor([[0], [1], [0]]),
        torch.tensor([0.0, 0.5, 1.0]),
    ],
)
def test_invalid_actions_are_refused_and_change_nothing(action):
    vec = Chain(3, length=4)
    vec.reset()
    vec.step(vec.combination[0].expand(3))
    with pytest.raises(ValueError, match="action"):
        vec.step(action)
    assert vec._position.tolist() == [1, 1, 1]


def test_an_unknown_autoreset_is_refused():
    with pytest.raises(ValueError, match="'never'"):
        Chain(autoreset="never")


def test_render_shows_the_agents_cell():
    vec = Chain(2, length=4)
    vec.reset()
    first = vec.render(1)
    vec.step(torch.stack([1 - vec.combination[0], vec.combination[0]]))
    assert first.shape == (16, 80, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(vec.render(0), first)
    assert not np.array_equal(vec.render(1), first)
    vec.close()
    vec.close()
