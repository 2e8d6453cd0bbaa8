"""`WorldEnv`: worlds as Gymnasium environments, and the registered ids."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from firstlight.envs import DeepSea, GymVec, Warehouse, WorldEnv, check_vec
from firstlight.envs.worlds.warehouse import MAX_STEPS

IDS = {
    "firstlight/WarehouseSimpleStatic-v0": "simple_static",
    "firstlight/WarehouseSimpleDynamic-v0": "simple_dynamic",
    "firstlight/WarehouseComplexStatic-v0": "complex_static",
    "firstlight/WarehouseComplexDynamic-v0": "complex_dynamic",
}


@pytest.mark.parametrize("name", IDS)
def test_every_scene_has_an_id(name):
    env = gymnasium.make(name, num_beams=8)
    assert env.unwrapped.vec.scene == IDS[name]
    assert env.unwrapped.vec.max_steps == MAX_STEPS[IDS[name]]
    assert env.observation_space["lidar"].shape == (8,)


@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_check_passes_for_an_id():
    check_env(gymnasium.make(next(iter(IDS)), render_mode="rgb_array").unwrapped)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["HardMaze", "CollectBall", "RedundantArm", "Curling"])
def test_gymnasiums_own_check_passes_for_worlds_of_the_searches(name):
    check_env(gymnasium.make(f"firstlight/{name}-v0", render_mode="rgb_array").unwrapped)


@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_check_passes_for_another_world():
    check_env(WorldEnv(DeepSea, size=4), skip_render_check=True)


def test_episodes_equal_those_of_the_world():
    env, vec = WorldEnv(Warehouse, max_steps=6), Warehouse(1, max_steps=6)
    _, info = env.reset(seed=3)
    first = vec.reset(int(np.random.default_rng(3).integers(2**31)))
    assert np.array_equal(info["position"], first[1]["position"][0])
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32)
    for t, action in enumerate(actions):
        obs, reward, terminated, truncated, info = env.step(action)
        step = vec.step(torch.from_numpy(action)[None])
        shown, told = (step.obs, step.info) if t < 5 else (step.final_obs, step.final_info)
        assert all(np.array_equal(obs[name], shown[name][0]) for name in shown)
        assert all(np.array_equal(info[name], told[name][0]) for name in told)
        assert (reward, terminated, truncated) == (0, False, t == 5)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(actions[0])


def test_a_step_before_reset_is_refused():
    with pytest.raises(RuntimeError, match="call reset"):
        WorldEnv(Warehouse).step(np.zeros(2, np.float32))


def test_ids_work_in_gymvec():
    name = next(iter(IDS))
    check_vec(GymVec([lambda: gymnasium.make(name, max_steps=9)] * 2), steps=20)


def test_render_modes():
    assert WorldEnv(Warehouse).render() is None
    with pytest.raises(ValueError, match="render_mode is 'human'"):
        WorldEnv(Warehouse, render_mode="human")
