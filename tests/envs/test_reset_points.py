"""`ResetPoints`: restored starts are exact, kept apart in statistics, and saved with the run."""

import numpy as np
import pytest
import torch

from firstlight.agents.session.episodes import EpisodeStatistics
from firstlight.envs.check import check_vec
from firstlight.envs.minigrid.backends import make as make_minigrid
from firstlight.envs.reset_points import RESET_POINT, ResetPoints
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.seeding import generator
from firstlight.envs.worlds.chain import Chain
from firstlight.envs.worlds.hard_maze import HardMaze


def minigrid(num_envs):
    return make_minigrid(task="MiniGrid-DoorKey-5x5-v0", num_envs=num_envs, backend="python")


def maze(num_envs):
    return HardMaze(num_envs, max_steps=40)


def actions(vec, steps):
    numbers = generator(3, "test")
    if vec.act_space.shape:
        return torch.rand((steps, vec.num_envs, *vec.act_space.shape), generator=numbers)
    return torch.randint(int(vec.act_space.n), (steps, vec.num_envs), generator=numbers)


@pytest.mark.parametrize("make", [maze, minigrid])
def test_an_episode_from_a_point_goes_on_as_the_first_one_did(make):
    vec = make(2)
    vec.reset(5)
    taken = actions(vec, 20)
    for t in range(8):
        vec.step(taken[t])
    point = vec.snapshots()[1]
    plain = [vec.step(taken[t]) for t in range(8, 20)]

    again = ResetPoints(make(2), [[point]], share=1.0)
    _, info = again.reset(7)
    assert info[RESET_POINT].tolist() == [1, 1]
    for step, action in zip(plain, taken[8:, 1], strict=True):
        found = again.step(torch.stack([action, action]))
        for name, field in found.obs.items():
            assert torch.equal(field[0], step.obs[name][1])
            assert torch.equal(field[1], step.obs[name][1])
        assert found.reward.tolist() == [step.reward[1]] * 2
        assert found.terminated.tolist() == [bool(step.terminated[1])] * 2
        assert not step.is_first[1]  # else the comparison would end here


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_it_is_a_vector_environment(autoreset):
    vec = Chain(4, autoreset=autoreset, length=4)
    vec.reset()
    vec.step(vec.combination[:1].expand(4))
    points = vec.snapshots()
    check_vec(ResetPoints(vec, [points[:1], points[1:]], share=0.5))


def ways(vec, *lengths):
    """Trajectories of a chain: of each length, points after 1, 2, … right actions."""
    vec.reset()
    points = []
    for digit in vec.combination[: max(lengths)]:
        vec.step(digit.expand(vec.num_envs))
        points.append(vec.snapshots()[0])
    return [points[:length] for length in lengths]


def test_share_and_choice_of_trajectories():
    vec = Chain(64, length=4)
    wrapped = ResetPoints(vec, ways(vec, 1, 2, 3), share=0.25)
    starts = torch.cat([wrapped.reset(i)[1]["position"] for i in range(50)])
    shares = np.bincount(starts.numpy(), minlength=5) / len(starts)
    assert shares[:4] == pytest.approx([0.75, 0.25 / 3, 0.25 / 3, 0.25 / 3], abs=0.02)
    assert shares[4] == 0


def play(wrapped, right):
    """Play an episode in every environment, with the right digits or a wrong one."""
    vec, info = wrapped._vec, wrapped.reset()[1]
    starts, open_ = info["position"].tolist(), torch.ones(wrapped.num_envs, dtype=torch.bool)
    while open_.any():
        digits = vec.combination[info["position"].clamp(max=vec.length - 1)]
        step = wrapped.step(digits if right else 1 - digits)
        info, open_ = step.info, open_ & ~(step.terminated | step.truncated)
    return starts


def test_starts_move_towards_the_true_start_by_success_and_back_by_failure():
    vec = Chain(1, length=8)
    wrapped = ResetPoints(vec, ways(vec, 7), share=1.0)
    results = [True, True, False, False, True, True, True, False]
    starts = [play(wrapped, right)[0] for right in results]
    # strides of 3, and of 1 after the first failure
    assert starts == [7, 4, 1, 4, 5, 4, 3, 2]
    assert wrapped.positions.tolist() == [2]
    wrapped.reset(0)
    assert (wrapped.positions.tolist(), wrapped.strides.tolist()) == ([6], [3])


def test_an_episode_at_the_true_start_is_one_of_the_task():
    vec = Chain(2, length=3)
    wrapped = ResetPoints(vec, ways(vec, 1), share=1.0)
    assert play(wrapped, right=True) == [1, 1]
    assert wrapped.positions.tolist() == [-1]
    _, info = wrapped.reset()
    assert (info["position"].tolist(), info[RESET_POINT].tolist()) == ([0, 0], [0, 0])
    assert play(wrapped, right=False) == [0, 0]
    assert wrapped.positions.tolist() == [0]


def test_statistics_count_such_episodes_apart():
    """The true starts of a chain hardly ever succeed; the points lie before its last cell."""
    vec = Chain(8, length=6)
    vec.reset()
    for digit in vec.combination[:5]:
        vec.step(digit.expand(8))
    wrapped = ResetPoints(vec, [vec.snapshots()[:1]], share=0.5)
    rollout = Runner(wrapped, seed=0).collect(RandomActor(vec.act_space), 300)
    statistics = EpisodeStatistics(8, None)
    for first in range(0, 300, 50):
        statistics.update(rollout.slice(first, first + 50))
    metrics = statistics.metrics()
    apart = [True, False]
    by_flag = {flag: [] for flag in apart}
    info, rewards = rollout.next_info(), np.zeros(8)
    for t in range(300):
        for n in range(8):
            rewards[n] += float(rollout.reward[t, n])
            if rollout.terminated[t, n] or rollout.truncated[t, n]:
                by_flag[bool(info[RESET_POINT][t, n])].append(rewards[n])
                rewards[n] = 0
    assert metrics["rollout/reset_point_episodes"] == len(by_flag[True]) > 50
    last = np.mean(by_flag[True][-100:])
    assert metrics["rollout/reset_point_return_mean"] == pytest.approx(last, abs=0.05)
    assert metrics["rollout/return_mean"] < 0.1 < metrics["rollout/reset_point_return_mean"]
    assert metrics["rollout/episodes_counted"] <= len(by_flag[False])
    loaded = EpisodeStatistics(8, None)
    loaded.load_state_dict(statistics.state_dict())
    assert loaded.metrics() == metrics


def test_a_saved_wrapper_continues_identically():
    vec = Chain(4, length=3)
    vec.reset()
    first = vec.snapshots()[:1]
    vec.step(vec.combination[:1].expand(4))
    points = [*first, *vec.snapshots()[:1]]
    one, two = (ResetPoints(Chain(4, length=3), [given], share=0.5) for given in (points, first))
    one.reset(0)
    taken = actions(vec, 60)
    for t in range(20):
        one.step(taken[t])
    two.reset(1)
    two.load_persistent_state(one.persistent_state())
    _, info, lost = two.load_state_dict(one.state_dict())
    assert not lost.any()
    assert RESET_POINT in info
    for t in range(20, 60):
        a, b = one.step(taken[t]), two.step(taken[t])
        for name in a.info:
            assert torch.equal(a.info[name], b.info[name])


def test_environments_that_cannot_be_restored_and_wrong_numbers_are_refused():
    vec = Chain(2)
    vec.reset()
    points = vec.snapshots()
    for given, share in (([], 0.5), ([[]], 0.5), ([points], 1.5)):
        with pytest.raises(ValueError, match="expected at least one"):
            ResetPoints(vec, given, share=share)
    vec.resume = "dropped"
    with pytest.raises(ValueError, match="cannot be set back"):
        ResetPoints(vec, [points])
