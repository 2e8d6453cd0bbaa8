"""`AntMaze`: walls, start, observation, rewards at the end; needs MuJoCo."""

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco")

from firstlight.envs import check_vec
from firstlight.envs.worlds import ant_maze
from firstlight.envs.worlds.ant_maze import AntMaze, make_ant_maze


def put(env, x, y):
    qpos, qvel = env._ant.init_qpos.copy(), env._ant.init_qvel.copy()
    qpos[:2] = x, y
    env._ant.set_state(qpos, qvel)


def test_check_vec_passes():
    check_vec(make_ant_maze(2, max_steps=7), steps=16)


def test_start_and_observation():
    env = AntMaze()
    obs, info = env.reset(seed=0)
    assert obs.shape == (29,)
    assert info["position"] == pytest.approx([-25, -25], abs=0.1)
    assert obs[:2] == pytest.approx((info["position"] - 5) / 70, abs=1e-6)
    assert obs[2] == pytest.approx(0.6, abs=0.1)
    other, _ = env.reset(seed=1)
    assert not np.array_equal(obs, other)
    assert np.array_equal(env.reset(seed=0)[0], obs)


def test_torques_move_the_ant_once_it_has_come_to_rest():
    env = AntMaze()
    gone = []
    for size in (1.0, 0.0):
        env.reset(seed=3)
        for _ in range(100):
            info = env.step(np.zeros(8))[4]
        start, random = info["position"], np.random.default_rng(0)
        for _ in range(60):
            info = env.step(size * random.uniform(-1, 1, 8))[4]
        gone.append(np.hypot(*(info["position"] - start)))
    assert gone[0] > 0.2 > gone[1]


@pytest.mark.parametrize("wall", ant_maze.WALLS)
def test_walls_push_back_what_stands_in_them(wall):
    """An ant whose torso overlaps a wall is in contact with it, one 3 m away is not."""
    env = AntMaze()
    env.reset(seed=0)
    x, y = (wall[0] + wall[2]) / 2, (wall[1] + wall[3]) / 2
    upright = wall[0] == wall[2]
    inwards = -1 if (x if upright else y) == 40 else 1
    names = env._ant.model
    for away, expected in ((0.4, True), (3.0, False)):
        put(env, x + away * inwards * upright, y + away * inwards * (not upright))
        contacts = env._ant.data.contact
        floor = names.geom("floor").id
        boxes = {g for g in range(names.ngeom) if names.geom_type[g] == 6}
        touched = any({int(c.geom1), int(c.geom2)} & boxes for c in contacts)
        assert touched == expected
        assert floor not in boxes


def test_the_reward_is_that_of_the_last_position():
    env = AntMaze(max_steps=2)
    env.reset(seed=0)
    put(env, 35.0, -24.0)
    _, reward, terminated, _, info = env.step(np.zeros(8))
    assert (reward, terminated, info["area"]) == (0, False, 1)
    _, reward, terminated, truncated, info = env.step(np.zeros(8))
    assert (terminated, truncated, info["success"]) == (True, False, True)
    far = np.hypot(*(info["position"] - [35, -25]))
    assert reward == pytest.approx((3 - far) / 3, abs=1e-5)
    assert reward == pytest.approx(2 / 3, abs=0.1)
    env.reset(seed=0)
    env.step(np.zeros(8))
    assert env.step(np.zeros(8))[1] == 0


def test_the_side_channels_of_many():
    vec = make_ant_maze(2, max_steps=3)
    _, info = vec.reset(0)
    assert set(info) == {"position", "area", "success"}
    assert vec.info_space["position"].high.tolist() == [40, 40]
    for _ in range(3):
        step = vec.step(torch.zeros(2, 8))
    assert step.terminated.tolist() == [True, True]
    assert step.final_info["area"].tolist() == [0, 0]
    vec.close()


def test_invalid_options_are_refused():
    with pytest.raises(ValueError, match="max_steps is 0"):
        AntMaze(max_steps=0)
