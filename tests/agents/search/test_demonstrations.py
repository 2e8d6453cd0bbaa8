"""Reset points from a search: which steps they are at, and that the reward can be had from them."""

import numpy as np
import pytest
import torch

from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.search.demonstrations import collect_reset_points, rewarded_genomes
from firstlight.agents.session.run_directory import checkpoint
from firstlight.envs.worlds.hard_maze import HardMaze
from firstlight.networks.spec import describe

STEPS = 40


def maze(num_envs):
    """A maze with a goal before the robot, which a genome that drives straight on reaches."""
    return HardMaze(num_envs, max_steps=STEPS, max_travel=2.0, goals=[[110, 500, 60]])


def save_search(folder, returns):
    """Write a checkpoint of a search with genomes that drive straight on, or stand still."""
    vec = maze(1)
    policy = GenomePolicy(vec.obs_space, vec.act_space, hidden=1, num_layers=1)
    genomes = np.zeros((len(returns), policy.genome_size))
    genomes[:, -1] = np.where(np.array(returns) > 0, 2.0, 0.0)  # the bias of both wheels
    genomes[:, 0] = np.arange(len(returns))  # weights of a neuron that nothing listens to
    found = {"genome": genomes, "ret": np.array(returns)}
    best = int(np.argmax(returns))
    search = {"reward_archive": found, "best_genome": genomes[best], "best_return": returns[best]}
    state = {
        "steps": 1,
        "policy_spec": describe(policy),
        "learner": {"policy": policy.state_dict()},
        "search": search,
    }
    checkpoint.save(folder / "checkpoints", state, 1)
    return policy, genomes


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [(3, [1, 2, 4, 8, 16, 24, 32]), (8, [1, 2, *range(4, 40, 4)]), (100, [*range(1, 40)])],
)
def test_points_are_at_equal_distances_and_denser_after_the_start(tmp_path, wanted, steps):
    save_search(tmp_path, [0.5])
    (points,) = collect_reset_points(tmp_path, maze(3), points_per_episode=wanted)
    elapsed = [int(point.arrays["elapsed"]) for point in points]
    assert elapsed == steps


def test_every_rewarded_genome_has_points_and_is_rewarded_from_each(tmp_path):
    policy, genomes = save_search(tmp_path, [0.5, 0.0, 0.7])
    trajectories = collect_reset_points(tmp_path, maze(2), points_per_episode=2)
    points = [point for way in trajectories for point in way]
    assert [*map(len, trajectories)] == [6, 6]  # after 1, 2, 4, 8, 16 and 32 steps
    vec = maze(len(points))
    obs, _, lost = vec.restore(torch.arange(len(points)), points)
    assert not lost.any()
    reward = torch.zeros(len(points))
    for _ in range(STEPS):
        step = vec.step(policy.act(genomes[:1].repeat(len(points), 0), obs))
        obs, reward = step.obs, torch.maximum(reward, step.reward)
    assert (reward > 0).all()


def test_the_highest_returns_come_first_and_none_twice(tmp_path):
    save_search(tmp_path, [0.5, 0.0, 0.7])
    state = checkpoint.load(checkpoint.find(tmp_path, "newest"))
    assert rewarded_genomes(state["search"])[:, 0].tolist() == [2, 0]


def test_a_search_without_a_reward_is_refused(tmp_path):
    save_search(tmp_path, [0.0])
    with pytest.raises(ValueError, match="search longer"):
        collect_reset_points(tmp_path, maze(1))
