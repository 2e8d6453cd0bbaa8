"""Every family of EnvPool's that fits steps here and says what our page says of it."""

import re
from pathlib import Path

import envpool
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.envs.check_rows import Rules
from firstlight.envs.vector.envpool import EnvPoolVec

PAGE = Path(__file__).parents[3] / "docs/environments.md"
REGISTRY = envpool.registration.registry.specs
TRIED = {  # by family, as EnvPool's modules are called
    "atari": "Pong-v5",
    "box2d": "BipedalWalker-v3",
    "classic_control": "CartPole-v1",
    "gfootball": "gfootball/academy_empty_goal_close-v1",
    "highway": "Highway-v0",
    "jumanji": "BinPack-v2",
    "minigrid": "MiniGrid-DoorKey-8x8-v0",
    "mujoco.dmc": "FingerSpin-v1",
    "mujoco.gym": "Ant-v5",
    "mujoco.metaworld": "MetaWorld/Reach-v3",
    "mujoco.myosuite": "MyoHandAirplaneFixed-v0",
    "mujoco.playground": "AlohaHandOver-v1",
    "mujoco.robotics": "FetchReach-v4",
    "pgx": "Play2048-v1",
    "procgen": "BigfishEasy-v0",
    "toy_text": "Taxi-v3",
    "vizdoom": "Basic-v1",
}


UNLIMITED = ("pgx", "procgen")  # which ignore `max_episode_steps`


def family(task):
    return REGISTRY[task][0].removeprefix("envpool.")


def opened(task, num_envs=3, **options):
    try:
        return EnvPoolVec(task, num_envs=num_envs, num_threads=1, **options)
    except ImportError as error:
        pytest.skip(str(error))


def any_action(vec, rng):
    space, n = vec.act_space, vec.num_envs
    if isinstance(space, spaces.Discrete):
        return torch.from_numpy(rng.integers(0, space.n, n))
    if isinstance(space, spaces.MultiDiscrete):
        return torch.from_numpy(rng.integers(0, space.nvec, (n, *space.shape)))
    low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
    return torch.from_numpy(rng.uniform(low, high, (n, *space.shape)).astype(np.float32))


def played(vec, steps, seed=0):
    """How many episodes ended while every row kept the rules."""
    rules, rng = Rules(vec), np.random.default_rng(0)
    obs, info = vec.reset(seed)
    rules.check_fields("obs", obs, vec.obs_space, vec.num_envs)
    rules.check_fields("info", info, vec.info_space, vec.num_envs)
    over, ends = np.zeros(vec.num_envs, bool), 0
    for _ in range(steps):
        step = vec.step(any_action(vec, rng))
        over = rules.check_row(step, over)
        ends += int(over.sum())
        assert all(field.isfinite().all() for field in step.obs.values())
    return ends


@pytest.mark.parametrize("name", TRIED)
def test_a_family_keeps_the_rules_of_rows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ViZDoom leaves an .ini file where it runs
    assert family(TRIED[name]) == name
    vec = opened(TRIED[name], max_episode_steps=9)
    ends = played(vec, 24)
    assert ends >= 3 or name in UNLIMITED
    vec.close()


def test_every_id_of_minigrid_and_babyai_keeps_the_rules_of_rows():
    tasks = [task for task in envpool.list_all_envs() if family(task) == "minigrid"]
    assert len(tasks) >= 177
    for task in tasks:
        vec = EnvPoolVec(task, num_envs=2, num_threads=1, max_episode_steps=4)
        assert set(vec.obs_space) == {"image", "direction"}, task
        assert played(vec, 10) >= 2, task
        vec.close()


def test_our_page_lists_every_family_and_what_was_tried():
    rows = re.findall(r"^\| `([\w.]+)` \| (\d+) \| `([^`]+)`", PAGE.read_text(), re.MULTILINE)
    assert {name: task for name, _, task in rows} == TRIED
    counts = {name: 0 for name in TRIED}
    for task in envpool.list_all_envs():
        counts[family(task)] += 1
    if envpool.__version__ == "1.2.5":
        assert {name: int(count) for name, count, _ in rows} == counts
    assert "fits" in PAGE.read_text()


def test_nested_observations_get_dotted_names():
    vec = opened("BinPack-v2")
    assert {"ems.x1", "ems.z2", "items.x_len", "items_mask", "action_mask"} <= set(vec.obs_space)
    obs, _ = vec.reset(0)
    assert obs["ems.x1"].shape == (3, 40)
    assert obs["action_mask"].dtype == torch.bool
    some = opened("BinPack-v2", obs_keys=("items.x_len", "ems_mask"))
    assert torch.equal(some.reset(0)[0]["items.x_len"], obs["items.x_len"])
    with pytest.raises(ValueError, match=r"no observation \['items'\].*'items.x_len'"):
        opened("BinPack-v2", obs_keys=("items",))


def test_whole_numbered_boxes_are_choices():
    """Which policies count from 0."""
    vec = opened("BinPack-v2")
    assert isinstance(vec.act_space, spaces.MultiDiscrete)
    assert vec.act_space.nvec.tolist() == [40, 20]
    vec.reset(0)
    assert vec.step(torch.tensor([[39, 19], [0, 0], [3, 4]])).valid.all()
    with pytest.raises(ValueError, match="outside"):
        vec.step(torch.tensor([[40, 0]] * 3))


def test_bounds_that_are_none_are_none():
    """EnvPool gives the least positive number where it means no bound."""
    walker = opened("BipedalWalker-v3")
    assert (walker.obs_space["obs"].low == -np.inf).all()
    assert (walker.obs_space["obs"].high == np.inf).all()
    assert walker.act_space.low.tolist() == [-1] * 4
    vec = opened("FingerSpin-v1")
    assert {space.dtype for space in vec.obs_space.values()} == {np.dtype(np.float32)}
    assert all((space.low == -np.inf).all() for space in vec.obs_space.values())
    assert vec.obs_space["dist_to_target"].shape == ()


def test_int32_becomes_int64_also_in_the_space():
    vec = opened("Blackjack-v1")
    assert vec.obs_space["obs"].dtype == np.int64
    assert vec.reset(0)[0]["obs"].dtype == torch.int64
    assert opened("CVRP-v1").obs_space["trajectory"].dtype == np.int64


@pytest.mark.parametrize("task", ["MetaWorld/Reach-v3", "FetchReach-v4"])
def test_success_under_either_name_is_the_channel_of_that_name(task):
    vec = opened(task, max_episode_steps=5)
    assert "is_success" not in vec.info_space
    assert vec.info_space["success"] == spaces.Box(-1, 1, (), np.int8)
    _, info = vec.reset(0)
    assert info["success"].tolist() == [0, 0, 0]
    vec.send(torch.zeros(3, *vec.act_space.shape))
    fields = vec._pool._recv()
    fields[vec._success] = np.array([0.0, 1.0, 0.5])
    _, info = vec._fields(fields)
    assert info["success"].tolist() == [0, 1, 1]
    assert info["success"].dtype == torch.int8
    without = opened(task, info_keys=())
    assert set(without.reset(0)[1]) == set(without.info_space) == set()


@pytest.mark.parametrize("task", ["Go9x9-v1", "IntersectionMultiAgent-v0"])
def test_several_players_are_refused(task):
    with pytest.raises(ValueError, match=f"{task} has 2 players in each environment"):
        EnvPoolVec(task, num_envs=2)


def test_a_way_of_resetting_that_is_not_known_is_refused(monkeypatch):
    """Row 4 of the complaints, should EnvPool ever change."""
    pool = type(EnvPoolVec("CartPole-v1", num_envs=1)._pool)
    monkeypatch.setattr(pool, "metadata", {})
    with pytest.raises(ValueError, match="must be NEXT_STEP"):
        EnvPoolVec("CartPole-v1", num_envs=1)
