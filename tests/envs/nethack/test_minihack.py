"""MiniHack environments: seeded levels, time limits that truncate, success as in MiniHack."""

import logging
import random
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from dungeon import HP, KEYS, TIME, play
from nle import nethack

from firstlight.envs import check_vec
from firstlight.envs.faults import EnvironmentRaisedError
from firstlight.envs.nethack.draw import HEIGHT, WIDTH
from firstlight.envs.nethack.minihack import TASKS, make
from firstlight.envs.nethack.minihack_env import MiniHackLevel, shared_generators
from firstlight.envs.seeding import derive

FAMILIES = ("keyroom_s5", "corridor_r2", "multiroom_n2", "room_random_5x5", "room_ultimate_15x15")


def same(a, b):
    return all((a[key] == b[key]).all() for key in KEYS)


@pytest.mark.parametrize("task", ["room_random_5x5", "keyroom_s5"])
def test_the_contract_of_vector_environments(task):
    check_vec(make(task, num_envs=2, max_episode_steps=9, text=True), steps=30)


def test_short_names_are_registered_tasks():
    assert len(TASKS) == 22
    assert set(TASKS.values()) <= set(gymnasium.registry)


@pytest.mark.parametrize("task", FAMILIES)
def test_an_episode_depends_only_on_its_seed_and_actions(task):
    fresh, used = MiniHackLevel(TASKS[task]), MiniHackLevel(TASKS[task])
    list(play(used, 50, 20))
    rooms = []
    for seed in range(5):
        random.seed(None)  # what others do to the shared generators must not matter
        np.random.seed(None)  # noqa: NPY002
        for a, b in zip(play(fresh, seed, 25), play(used, seed, 25), strict=True):
            assert same(a[0], b[0])
            assert a[1:4] == b[1:4]
        rooms.append(fresh.reset(seed=seed)[0]["glyphs"].tobytes())
    assert len(set(rooms)) == 5
    fresh.close()
    used.close()


def test_closed_doors_are_found_where_minihack_finds_them():
    env = MiniHackLevel(TASKS["keyroom_s5"], keys=(*KEYS, "screen_descriptions"))
    found = []
    for seed in range(4):
        for _ in play(env, seed, 60):
            found.append(env.level.get_object_direction("closed door"))
            assert found[-1] == type(env.level).get_object_direction(env.level, "closed door")
    assert len({*found}) > 3
    env.close()


def test_a_door_that_stays_locked_is_given_up():
    env = MiniHackLevel(TASKS["keyroom_s5"])
    find = env.level.get_object_direction
    steps = play(env, 0, 200)
    next(answer for answer in steps if find("closed door") is not None)
    now = env.level.last_observation
    answers = [find("closed door", now) for _ in range(60)]
    assert None not in answers[:50]
    assert {*answers[50:]} == {None}
    assert find("closed door") is not None
    env.close()


def test_the_states_of_shared_generators_are_restored():
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with shared_generators(3):
        drawn = random.random(), np.random.random()  # noqa: NPY002
    with shared_generators(3):
        assert drawn == (random.random(), np.random.random())  # noqa: NPY002
    env = MiniHackLevel(TASKS["room_random_5x5"])
    env.reset(seed=0)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def stairs(obs):
    """(x, y) of the stairs down."""
    y, x = np.argwhere(obs["glyphs"] == nethack.GLYPH_CMAP_OFF + 24)[0]
    return int(x), int(y)


def towards(env, obs):
    """The action that goes straight to the stairs."""
    x, y = obs["blstats"][:2]
    gx, gy = stairs(obs)
    step = int(np.sign(gx - x)), int(np.sign(gy - y))
    names = {(0, -1): "N", (1, 0): "E", (0, 1): "S", (-1, 0): "W"}
    names |= {(1, -1): "NE", (1, 1): "SE", (-1, 1): "SW", (-1, -1): "NW"}
    wanted = getattr(nethack.CompassDirection, names[step])
    return list(env.level.actions).index(wanted)


def walk(env, obs):
    while True:
        answer = env.step(towards(env, obs))
        obs = answer[0]
        if answer[2] or answer[3]:
            return answer


def test_reaching_the_goal_is_success_even_in_the_last_step():
    env = MiniHackLevel(TASKS["room_5x5"])
    obs, info = env.reset(seed=0)
    assert info["success"] == 0
    obs, reward, terminated, truncated, info = walk(env, obs)
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, 1)
    assert obs["blstats"][HP] > 0
    steps = env._steps
    late = MiniHackLevel(TASKS["room_5x5"], max_episode_steps=steps)
    assert walk(late, late.reset(seed=0)[0])[1:4] == (1.0, True, False)
    short = MiniHackLevel(TASKS["room_5x5"], max_episode_steps=steps - 1)
    obs, reward, terminated, truncated, info = walk(short, short.reset(seed=0)[0])
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, 0)
    assert obs["blstats"][HP] > 0


def test_success_does_not_depend_on_penalties():
    """A hundred steps into a wall cost 1, so that the return does not tell success."""
    env = MiniHackLevel(TASKS["room_5x5"], max_episode_steps=500)
    obs, _ = env.reset(seed=0)
    west = list(env.level.actions).index(nethack.CompassDirection.W)
    total = sum(env.step(west)[1] for _ in range(120))
    assert total == pytest.approx(-1.2)
    _, reward, *_, info = walk(env, obs)
    assert reward + total < 0
    assert info["success"] == 1


def test_death_has_reward_0_and_the_last_observation_is_of_the_game():
    env = MiniHackLevel(TASKS["room_monster_15x15"])
    dead = [a for a in (list(play(env, seed, 300, seed))[-1] for seed in range(6)) if a[2]]
    dead = [answer for answer in dead if not answer[4]["success"]]
    assert dead
    for obs, reward, _, truncated, _ in dead:
        assert (reward, truncated) == (0.0, False)
        assert obs["blstats"][HP] <= 0 or b"die" in obs["message"].tobytes()
        assert obs["blstats"][TIME] > 0


@pytest.mark.parametrize("task", ["room_random_5x5", "corridor_r2", "keyroom_s5"])
def test_a_level_gives_the_same_steps_as_minihack(task):
    """With the same seeds and actions."""
    ours = MiniHackLevel(TASKS[task])
    theirs = gymnasium.make(
        TASKS[task], observation_keys=KEYS, disable_env_checker=True, fix_moon_phase=True
    ).unwrapped
    core, disp, levels = (derive(3, f"nethack.{name}") for name in ("core", "disp", "levels"))
    theirs.nethack.set_initial_seeds(core, disp, False, levels)
    their_obs, _ = theirs.reset(sample_seed=False)
    our_obs, _ = ours.reset(seed=3)
    rng = np.random.default_rng(3)
    for _ in range(100):
        assert same(our_obs, their_obs)
        action = int(rng.integers(ours.action_space.n))
        our_obs, reward, terminated, *_ = ours.step(action)
        their_obs, their_reward, their_end, *_ = theirs.step(action)
        assert (reward, terminated) == (their_reward, their_end)
        if terminated:
            break
    theirs.close()


def test_further_observations_can_be_selected():
    env = MiniHackLevel(TASKS["room_5x5"], keys=(*KEYS, "chars", "glyphs_crop"))
    obs, _ = env.reset(seed=3)
    x, y = obs["blstats"][:2]
    assert chr(obs["chars"][y, x]) == "@"
    assert obs["glyphs_crop"][4, 4] == obs["glyphs"][y, x]


def test_views_are_written_and_pictures_drawn():
    env, other = MiniHackLevel(TASKS["keyroom_s5"]), MiniHackLevel(TASKS["keyroom_s5"])
    views = {key: np.zeros(s.shape, s.dtype) for key, s in env.observation_space.spaces.items()}
    env.set_buffers(views)
    for (mine, *_), (copies, *_) in zip(play(env, 1, 30), play(other, 1, 30), strict=True):
        assert all(mine[key] is views[key] for key in KEYS)
        assert same(mine, copies)
    picture = env.render()
    assert picture.shape == (24 * HEIGHT, 80 * WIDTH, 3)
    assert picture.any()


def test_importing_and_making_print_no_warnings_or_logs():
    code = (
        "from firstlight.envs.nethack.minihack import make; make('room_5x5', num_envs=1).reset(0)"
    )
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pkg_resources" not in done.stdout + done.stderr
    assert not logging.getLogger("nle.env.base").isEnabledFor(logging.INFO)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "keyroom_s6"}, "no MiniHack task 'keyroom_s6'; did you mean keyroom_s5"),
        ({"task": "MiniHack-Room-9x9-v0"}, "did you mean MiniHack-Room-5x5-v0"),
        ({"task": "CartPole-v1"}, "no MiniHack task 'CartPole-v1'"),
        ({"keys": ["glyphs", "smell"]}, "smell is not supported|no observation 'smell'"),
        ({"max_episode_steps": 0}, "expected at least 1"),
        ({"task": "MiniHack-LavaCrossingS9N1-v0"}, "cannot make .* with this MiniGrid"),
        ({"task": "MiniHack-Boxoban-Unfiltered-v0"}, "please download maps"),
    ],
)
def test_bad_choices_are_refused(options, message):
    with pytest.raises((ValueError, EnvironmentRaisedError), match=message):
        make(**{"task": "room_5x5", "num_envs": 1} | options)
