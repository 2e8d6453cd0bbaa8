"""Episodes are assembled across rollouts, complete and in a fixed order."""

import dataclasses

import pytest
import torch
from nested import differing

from firstlight.agents.algorithms.auxiliaries import Rapid
from firstlight.agents.algorithms.auxiliaries.episodes import EpisodeAssembler
from firstlight.envs import Chain, Runner
from firstlight.envs.runner import RandomActor
from firstlight.envs.types import map_obs

MODES = ["same_step", "next_step"]


def walks(autoreset, rollouts=6, T=7, N=5, seed=0):
    """Collect consecutive rollouts of a random walk; return them and their runner."""
    runner = Runner(Chain(N, length=4, horizon=5, autoreset=autoreset), seed=seed)
    actor = RandomActor(runner.vec.act_space)
    return [runner.collect(actor, T) for _ in range(rollouts)], runner


def keys_of(rollout):
    return rollout.obs["obs"].long().argmax(-1)


def assembled(rollouts):
    """Assemble episodes, as lists of states, actions and rewards."""
    opened = EpisodeAssembler()
    ended = [e for rollout in rollouts for e in opened.add(rollout, keys_of(rollout))]
    for episode in ended:
        assert torch.equal(episode.obs["obs"].argmax(-1), episode.keys)
    return [(e.keys.tolist(), e.action.tolist(), e.reward.tolist()) for e in ended]


def expected(rollouts):
    """Collect the same by a loop over steps, in any order."""
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
def test_finished_episodes_are_assembled_across_rollouts_and_environments(autoreset):
    rollouts, _ = walks(autoreset)
    found, wanted = assembled(rollouts), expected(rollouts)
    if autoreset == "next_step":  # ends in the last row are returned with the next rollout
        wanted = [e for e in wanted if e in found]
    assert sorted(found) == sorted(wanted)
    assert len(found) > 20


@pytest.mark.parametrize("autoreset", MODES)
def test_no_part_of_a_cut_episode_is_returned(autoreset):
    rollouts, runner = walks(autoreset, rollouts=1, T=8)
    cut = runner.cut(rollouts[0])
    assert bool((cut.truncated & ~rollouts[0].truncated).any())
    after = [runner.collect(RandomActor(runner.vec.act_space), 8) for _ in range(2)]
    assert after[0].is_first[0].all()
    assert assembled([cut, *after]) == assembled([rollouts[0]]) + assembled(after)


@pytest.mark.parametrize("autoreset", MODES)
def test_incomplete_episodes_are_left_out(autoreset):
    rollouts, _ = walks(autoreset, rollouts=5, seed=3)
    moments = torch.arange(5 * 7 + 1)[:, None] * 10 + torch.arange(5)  # [5T+1, N], distinct

    def found(numbers):
        opened = EpisodeAssembler()
        shown = [opened.add(rollouts[i], moments[7 * i : 7 * i + 8]) for i in numbers]
        return {tuple(episode.keys.tolist()) for ended in shown for episode in ended}

    whole = found([0, 1, 2, 3, 4])
    assert found([3, 4]) < whole  # begins in the middle of episodes
    assert found([0, 1, 3, 4]) < whole  # a rollout is missing
    assert len(found([0, 1, 3, 4])) >= 0.5 * len(whole)


def test_an_episode_whose_environment_crashed_is_left_out():
    (rollout,), _ = walks("same_step", rollouts=1, T=8)
    ends = (rollout.truncated & rollout.valid).nonzero()
    t, n = ends[0].tolist()
    lost = torch.zeros_like(rollout.truncated)
    lost[t, n] = True
    found = assembled([dataclasses.replace(rollout, crashed=lost)])
    assert len(found) == len(assembled([rollout])) - 1


@pytest.mark.parametrize("autoreset", MODES)
def test_two_half_rollouts_give_the_episodes_of_one_rollout(autoreset):
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
    """Return the rollout with its environments in other columns."""
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
