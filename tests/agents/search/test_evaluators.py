"""Compiled evaluators equal the vector environments, and both equal plain code."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from python_kernels import use_python_kernels

from firstlight.agents import evaluate
from firstlight.agents.search import controller_kernels
from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.search.evaluators import world_kernels
from firstlight.agents.search.evaluators.base import moments
from firstlight.agents.search.evaluators.choose import make_evaluator
from firstlight.agents.search.evaluators.vec import VecEvaluator
from firstlight.agents.search.evaluators.worlds import MazeEvaluator
from firstlight.envs import Chain, Curling, HardMaze, RedundantArm, Walks
from firstlight.envs.minigrid import make as make_minigrid

WORLDS = {
    "maze": lambda **o: HardMaze(5, max_steps=60, max_travel=4.0, **o),
    "maze, as published": lambda **o: HardMaze(
        5, max_steps=40, reward_previous_position=True, goals=[(70, 455, 25)], laser_unit=100, **o
    ),
    "curling": lambda **o: Curling(5, max_steps=90, goals=[(-0.6, 0.3, 0.15)], **o),
    "arm": lambda **o: RedundantArm(5, max_steps=40, goals=[(0.3, 0.7, 0.1)], **o),
    "arm, time": lambda **o: RedundantArm(5, max_steps=9, reward_at_timeout=True, **o),
}


def pair(name, **options):
    """The compiled evaluator of an environment, and the one that steps it."""
    world = WORLDS[name](**options)
    policy = GenomePolicy(world.obs_space, world.act_space, hidden=4)
    steps = world.max_steps
    return make_evaluator(world, policy), VecEvaluator(world, policy, max_steps=steps)


def genomes_for(policy, count, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(count, policy.genome_size)) * scale


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("name", WORLDS)
def test_both_evaluators_agree(name, autoreset):
    ours, stepped = pair(name, autoreset=autoreset)
    genomes = genomes_for(ours.policy, 24)
    genomes[::3] *= 4
    for samples in (1, 4):
        one, other = ours.evaluate(genomes, samples), stepped.evaluate(genomes, samples)
        assert np.array_equal(one.position.astype(np.float32), other.position)
        assert np.array_equal(one.ret, other.ret)
        assert np.array_equal(one.area, other.area)
        assert np.array_equal(one.steps, other.steps)
        assert np.array_equal(one.success, other.success)
        assert len(np.unique(one.scene[:, -1], axis=0)) > 12
    if name in ("maze, as published", "curling"):
        assert 0 < (one.ret > 0).sum() < 24


@pytest.mark.parametrize("name", ["maze", "curling", "arm"])
def test_compiled_episodes_equal_their_python(name, monkeypatch):
    ours, _ = pair(name)
    genomes = genomes_for(ours.policy, 3, seed=2)
    compiled = ours.evaluate(genomes, 2)
    use_python_kernels(monkeypatch, world_kernels)
    plain = ours.evaluate(genomes, 2)
    np.testing.assert_allclose(compiled.scene, plain.scene, atol=1e-9)
    assert np.array_equal(compiled.steps, plain.steps)


def test_results_depend_neither_on_threads_nor_on_the_other_genomes():
    maze = HardMaze(1, max_steps=50)
    policy = GenomePolicy(maze.obs_space, maze.act_space)
    genomes = genomes_for(policy, 23)
    whole = MazeEvaluator(maze, policy, 1).evaluate(genomes)
    order = np.random.default_rng(0).permutation(23)
    mixed = MazeEvaluator(maze, policy, 3).evaluate(genomes[order])
    assert np.array_equal(whole.scene[order], mixed.scene)
    single = MazeEvaluator(maze, policy, 2).evaluate(genomes[4:5])
    assert np.array_equal(whole.scene[4:5], single.scene)


def test_an_evaluation_of_the_policy_gives_the_same_return():
    world = WORLDS["curling"]()
    policy = GenomePolicy(world.obs_space, world.act_space)
    genomes = genomes_for(policy, 40)
    found = make_evaluator(world, policy).evaluate(genomes)
    best = int(found.ret.argmax())
    assert found.ret[best] > 0
    policy.genome.copy_(torch.from_numpy(genomes[best]))
    result = evaluate(policy, world, episodes=3, seed=0)
    assert result.return_mean == pytest.approx(found.ret[best])
    assert result.return_std == 0


@pytest.mark.parametrize(
    ("sizes", "size"),
    [((5, 5, 5, 2), 63), ((10, 5, 5, 3), 93), ((20, 5, 5, 20), 228), ((6, 5, 5, 5, 2), 94)],
)
def test_networks_have_the_published_sizes_and_equal_plain_matrices(sizes, size):
    random = np.random.default_rng(size)
    genomes, inputs = random.normal(size=(7, size)), random.normal(size=(7, sizes[0])) * 50
    outputs = np.empty((7, sizes[-1]))
    controller_kernels.respond_all(genomes, np.array(sizes), inputs, outputs)
    for genome, values, found in zip(genomes, inputs, outputs, strict=True):
        at = 0
        for i, o in itertools.pairwise(sizes):
            z = values @ genome[at : at + i * o].reshape(i, o) + genome[at + i * o]
            values = 2 / (1 + np.exp(-z)) - 1
            at += i * o + 1
        assert at == size
        np.testing.assert_allclose(found, values, atol=1e-12)
    plain = np.empty_like(outputs)
    controller_kernels.respond_all.py_func(genomes, np.array(sizes), inputs, plain)
    np.testing.assert_allclose(plain, outputs, atol=1e-12)


def test_moments_are_equally_spaced_and_end_at_the_end():
    assert moments(10, 3).tolist() == [3, 7, 10]
    assert moments(7, 7).tolist() == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="5 moments of an episode of 2 steps"):
        moments(2, 5)


def test_an_arm_that_is_stuck_stays_where_it_ended():
    arm = RedundantArm(1, max_steps=250)
    policy = GenomePolicy(arm.obs_space, arm.act_space)
    found = make_evaluator(arm, policy).evaluate(genomes_for(policy, 40, scale=5.0), 25)
    assert (found.steps < 200).sum() > 5
    for path, steps in zip(found.position, found.steps.tolist(), strict=True):
        stays = moments(250, 25) >= steps
        assert (path[stays] == path[-1]).all()
        assert (path[~stays] != path[-1]).any() or not (~stays).any()


@pytest.mark.parametrize("name", ["maze", "curling", "arm"])
def test_pictures_look_like_the_world_reduced(name):
    ours, _ = pair(name)
    world = WORLDS[name](autoreset="next_step")
    stepped = VecEvaluator(world, ours.policy, max_steps=world.max_steps, pictures=True)
    genomes = genomes_for(ours.policy, 6, seed=4)
    drawn = ours.draw(ours.evaluate(genomes, 2).scene)
    rendered = stepped.draw(stepped.evaluate(genomes, 2).scene)
    assert drawn.shape == rendered.shape == (6, 2, 64, 64, 3)
    assert drawn.dtype == rendered.dtype == np.uint8
    gap = np.abs(drawn.astype(float) - rendered).mean((2, 3, 4))
    assert gap.max() < 8  # goals and lasers are left out
    blue = (drawn[..., 2].astype(int) - drawn[..., 0] > 40).sum((2, 3))
    assert blue.min() >= 1
    assert not np.array_equal(drawn[0], drawn[1])


def test_pictures_hidden_by_a_reset_are_refused():
    ours, _ = pair("maze")
    world = WORLDS["maze"]()
    stepped = VecEvaluator(world, ours.policy, max_steps=world.max_steps, pictures=True)
    with pytest.raises(ValueError, match="give autoreset=next_step"):
        stepped.evaluate(genomes_for(ours.policy, 2))
    with pytest.raises(ValueError, match="no pictures"):
        VecEvaluator(world, ours.policy).draw(np.zeros((1, 1, 0)))


def test_other_environments_are_stepped_with_new_seeds_each_time():
    vec = make_minigrid("MiniGrid-DoorKey-5x5-v0", num_envs=4)
    policy = GenomePolicy(vec.obs_space, vec.act_space, hidden=3)
    evaluator = make_evaluator(vec, policy, seed=3, max_steps=20)
    assert isinstance(evaluator, VecEvaluator)
    genomes = genomes_for(policy, 6)
    first, second = evaluator.evaluate(genomes), evaluator.evaluate(genomes)
    assert first.position.shape == (6, 1, 2)
    assert evaluator.cells == (5, 5)
    assert first.steps.max() <= 20
    again = VecEvaluator(vec, policy, seed=3, max_steps=20, bounds=[[0, 0], [4, 4]])
    again.load_state_dict({"resets": 2})
    assert np.array_equal(again.evaluate(genomes).position, second.position)
    assert not np.array_equal(first.position, second.position)
    vec.close()


def test_discrete_actions_are_the_largest_outputs():
    vec = Chain(3, length=4)
    policy = GenomePolicy(vec.obs_space, vec.act_space)
    genomes = np.zeros((3, policy.genome_size))
    genomes[:, -12] = 5.0  # the last hidden neurons are on
    genomes[1, -10:-1:2] = 1.0  # weights to the second output
    genomes[2, -11:-1:2] = 1.0  # and to the first
    action = policy.act(genomes, vec.reset(0)[0])
    assert action.dtype == torch.int64
    assert action.tolist() == [0, 1, 0]  # of equals the first


def test_a_position_without_bounds_and_samples_without_a_length_are_refused():
    maze = HardMaze(1)
    policy = GenomePolicy(maze.obs_space, maze.act_space)
    with pytest.raises(ValueError, match="give max_steps"):
        VecEvaluator(maze, policy).evaluate(np.zeros((1, 63)), samples=2)
    unbounded = HardMaze(1)
    unbounded.info_space = spaces.Dict({"position": spaces.Box(-np.inf, np.inf, (2,))})
    with pytest.raises(ValueError, match=r"give evaluator\.bounds="):
        VecEvaluator(unbounded, policy)
    with pytest.raises(ValueError, match="num_threads is 0"):
        MazeEvaluator(maze, policy, 0)
    kept = HardMaze(1, keep_sensors_at_reset=True)
    assert isinstance(make_evaluator(kept, policy), VecEvaluator)
    with pytest.raises(ValueError, match="depend on each other"):
        MazeEvaluator(kept, policy)
    posed = HardMaze(1, observe_pose=True)
    policy = GenomePolicy(posed.obs_space, posed.act_space)
    assert isinstance(make_evaluator(posed, policy), VecEvaluator)
    with pytest.raises(ValueError, match="the sensors alone"):
        MazeEvaluator(posed, policy)


def test_parts_have_the_seeds_that_they_have_in_one_process():
    """Batches of random episodes, evaluated apart and in another order, as workers of Ray do."""

    def make():
        vec = Walks(3, slip=0.3)
        return VecEvaluator(vec, GenomePolicy(vec.obs_space, vec.act_space), seed=4, max_steps=20)

    whole, split, worker = make(), make(), make()
    for seed in range(3):
        given = genomes_for(whole.policy, 10, seed)
        expected, parts = whole.evaluate(given, 2), split.split(given, 2)
        assert [len(part) for part, _ in parts] == [3, 3, 3, 1]
        for i in (2, 0, 3, 1):
            part, state = parts[i]
            worker.load_state_dict(state)
            found = worker.evaluate(part, 2)
            rows = slice(3 * i, 3 * i + len(part))
            assert np.array_equal(found.position, expected.position[rows])
            assert np.array_equal(found.ret, expected.ret[rows])
        assert split.state_dict() == whole.state_dict()
