"""Levels, rules and views of `GridWorld` equal those of the Python package."""

import sys
import warnings
from collections import deque

import minigrid  # noqa: F401  (registers the ids)
import numpy as np
import pytest
import torch
from minigrid.core.grid import Grid
from python_kernels import use_python_kernels

from firstlight.envs.minigrid import (
    gridworld,
    gridworld_kernels,
    levels_kernels,
    roomgrid_kernels,
)
from firstlight.envs.minigrid.cells import (
    BALL,
    BLUE,
    BOX,
    DOOR,
    EMPTY,
    GOAL,
    GREY,
    KEY,
    OPEN,
    RED,
    STONE,
    VIEW,
    WALL,
    name_of,
    pack,
    unpack,
)
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.envs.minigrid.gridworld_kernels import LIGHT
from firstlight.envs.minigrid.levels_kernels import begin_draws, draw
from firstlight.envs.minigrid.python_backend import Factory
from firstlight.envs.minigrid.tasks import TASKS
from firstlight.envs.types import Snapshot

WORD = 2**64 - 1
CHANNELS = ("agent_pos", "full_grid", "mission")
MULTIROOMS = [name for name in TASKS if "MultiRoom-" in name]
SHORT = {"MiniGrid-MultiRoom-N12-S10-v0"}  # the package takes a tenth of a second for a level
PLAYED = (
    "MiniGrid-MultiRoom-N2-S4-v0",
    "MiniGrid-MultiRoom-N4-S5-v1",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-KeyCorridorS3R2-v0",
    "MiniGrid-ObstructedMaze-1Dlhb-v0",
    "MiniGrid-ObstructedMaze-2Dlhb-v1",
    "MiniGrid-BlockedUnlockPickup-v0",
    "MiniGrid-Unlock-v0",
)
KERNELS = (gridworld, gridworld_kernels, levels_kernels, roomgrid_kernels)
UNCOMPILED = (
    "MiniGrid-MultiRoom-N2-S4-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-KeyCorridorS3R1-v0",
    "MiniGrid-ObstructedMaze-1Q-v0",
    "MiniGrid-ObstructedMaze-1Q-v1",
)
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)


def plain_mix(word):
    """`mixed` with Python integers."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & WORD
    return word ^ word >> 31


class Draws:
    """`draw` in plain Python, as the generator of one of the package's environments."""

    def __init__(self, state):
        self.state = int(state)

    def integers(self, low, high):
        self.state = (self.state + 0x9E3779B97F4A7C15) & WORD
        span = int(high) - int(low)
        return int(low) + ((plain_mix(self.state) >> 32) * span >> 32)


def theirs(task, **options):
    """Create one environment of the Python package, with the side channels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 0 of some tasks is out of date
        return Factory(task, TASKS[task].python, "partial", CHANNELS, options)()


def level(vec, n, episode, env):
    """Reset `env` with the draws of an episode of environment `n` of `vec`."""
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        begin_draws(state, vec._seeds[n], episode)
    env.unwrapped._np_random = Draws(state[0])
    return env.reset()


def snapshot_of(env):
    """Snapshot of one of the package's environments, for `GridWorld.restore`."""
    env = env.unwrapped
    held = np.zeros((1, 1, 3), np.uint8)
    boxes = np.zeros((env.width, env.height, 3), np.uint8)
    for i, cell in enumerate(env.grid.grid):
        if cell is not None and cell.contains is not None:
            boxes[i % env.width, i // env.width] = cell.contains.encode()
    if env.carrying is not None:
        held[0, 0] = env.carrying.encode()
    target = getattr(env, "obj", None)
    arrays = {
        "grid": pack(env.grid.encode(), boxes),
        "agent": np.array([*env.agent_pos, env.agent_dir], np.int64),
        "carrying": pack(held)[0, 0],
        "elapsed": np.int64(env.step_count),
        "target": np.int64(0 if target is None else pack(np.array(target.encode(), np.uint8))),
        "rng": np.int64(0),
    }
    return Snapshot(arrays={name: torch.as_tensor(np.asarray(a)) for name, a in arrays.items()})


def busy_action(image, numbers):
    """Choose an action that often fits the cell ahead, so that objects are used."""
    front = image[VIEW // 2, VIEW - 2]
    if numbers.random() < 0.6:
        if front[0] in (DOOR, BOX) and (front[0] == BOX or front[2] != OPEN):
            return int(numbers.choice((TOGGLE, TOGGLE, PICKUP)))
        if front[0] in (KEY, BALL):
            return PICKUP
    return int(numbers.choice(7, p=(0.17, 0.17, 0.45, 0.03, 0.06, 0.1, 0.02)))


def same(obs, info, n, their_obs, their_info):
    """Whether all fields are equal."""
    ours = {
        **{k: f[n].numpy() for k, f in obs.items()},
        **{k: f[n].numpy() for k, f in info.items()},
    }
    both = {**their_obs, **their_info, "mission": their_info["mission"]}
    return all(np.array_equal(field, both[name]) for name, field in ours.items())


def compare_levels(task, seeds):
    """Assert that levels equal the package's. Returns their number, and that of different ones."""
    N = 2 if task in SHORT else 10
    vec = GridWorld(task, num_envs=N, full_grid=True, mission=True)
    env = theirs(task)
    assert vec.max_steps == env.unwrapped.max_steps
    different = set()
    for seed in seeds:
        obs, info = vec.reset(seed)
        for n in range(N):
            assert same(obs, info, n, *level(vec, n, 0, env)), (seed, n)
            different.add(info["full_grid"][n].numpy().tobytes())
    assert len(different) > 0.9 * N  # levels differ from each other
    assert not same(obs, info, 0, *level(vec, 0, 1, env))
    return N * len(seeds), len(different)


@pytest.mark.parametrize("task", TASKS)
def test_levels_equal_the_packages_for_equal_draws(task, soak):
    levels, different = compare_levels(task, soak.times(1, 100))
    soak.found = {"levels": levels, "different": different}


@pytest.mark.parametrize("task", PLAYED)
def test_every_step_equals_the_packages(task, soak):
    """On levels generated by the package with its own generator, and restored here."""
    numbers = np.random.default_rng(0)
    vec = GridWorld(task, num_envs=1, full_grid=True)
    env = theirs(task, max_steps=min(TASKS[task].max_steps, 150))
    vec.max_steps = env.unwrapped.max_steps
    met, steps, ends = set(), 0, 0
    for episode in soak.times(4, 1000):
        their_obs, their_info = env.reset(seed=episode)
        obs, info, _ = vec.restore(torch.tensor([0]), [snapshot_of(env)])
        over = False
        while not over:
            assert same(obs, info, 0, their_obs, their_info), (episode, steps)
            action = busy_action(their_obs["image"], numbers)
            their_obs, reward, ended, cut, their_info = env.step(action)
            step = vec.step(torch.tensor([action]))
            over = ended or cut
            obs, info = (step.final_obs, step.final_info) if over else (step.obs, step.info)
            assert step.reward.item() == np.float32(reward)
            assert step.terminated.item() == ended
            assert step.truncated.item() == (cut and not ended)
            met.add(tuple(their_obs["image"][VIEW // 2, VIEW - 1]))
            steps, ends = steps + 1, ends + ended
        assert same(obs, info, 0, their_obs, their_info), episode
    soak.found = {"steps": steps, "ended by themselves": ends, "things carried": len(met) - 1}
    assert len(met) > 1 or "MultiRoom" in task  # something was carried


def test_noisy_tv_changes_its_colour_as_in_the_package():
    task = "MiniGrid-MultiRoomNoisyTV-N7-S4-v0"
    numbers = np.random.default_rng(1)
    vec, env = GridWorld(task, num_envs=1, full_grid=True), theirs(task)
    obs, info = vec.reset(3)
    their_obs, their_info = level(vec, 0, 0, env)
    colours, held = set(), set()
    for t in range(139):
        assert same(obs, info, 0, their_obs, their_info), t
        busy = busy_action(their_obs["image"], numbers)
        action = DROP if numbers.random() < 0.3 else busy
        their_obs, *_, their_info = env.step(action)
        step = vec.step(torch.tensor([action]))
        obs, info = step.obs, step.info
        whole = info["full_grid"][0]
        colours |= set(whole[whole[..., 0] == BALL][:, 1].tolist())
        hand = obs["image"][0, VIEW // 2, VIEW - 1]
        held |= {int(hand[1])} if hand[0] == BALL else set()
    assert len(colours | held) == 6
    assert len(held) > 1


def steps_to_goal(codes, agent):
    """Minimum number of actions to a goal through closed doors; None if it cannot be reached."""
    start = tuple(int(v) for v in agent)
    opened: dict[int, list] = {0: [start]}
    cost, seen = 0, set()
    while any(opened.values()):
        for x, y, heading in opened.pop(cost, []):
            if (x, y, heading) in seen:
                continue
            seen.add((x, y, heading))
            if codes[x, y] & 15 == GOAL:
                return cost
            for turn in (1, 3):
                opened.setdefault(cost + 1, []).append((x, y, (heading + turn) % 4))
            dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[heading]
            front = codes[x + dx, y + dy]
            if front & 15 in (EMPTY, GOAL, DOOR, BALL):
                more = 1 + (front & 15 in (DOOR, BALL))
                opened.setdefault(cost + more, []).append((x + dx, y + dy, heading))
        cost += 1
    return None


def reached_rooms(codes, agent):
    """Sizes of the floors of all rooms that can be reached through doors."""
    kinds, rooms, seen = codes & 15, [], set()
    doors = deque([(int(agent[0]), int(agent[1]))])
    while doors:
        floor, todo = [], [doors.popleft()]
        while todo:
            x, y = todo.pop()
            if (x, y) in seen or kinds[x, y] == WALL:
                continue
            seen.add((x, y))
            if kinds[x, y] == DOOR:
                doors += [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
                continue
            floor.append((x, y))
            todo += [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        if floor:
            rooms.append(np.ptp(np.array(floor), axis=0) + 1)
    return rooms


@pytest.mark.parametrize("task", MULTIROOMS)
def test_every_multiroom_level_can_be_solved_in_time(task, soak):
    fewest, most, largest, _ = TASKS[task].numbers
    N = 20 if task in SHORT else 100
    vec = GridWorld(task, num_envs=N)
    best = []
    for seed in soak.times(1, 20):
        vec.reset(seed)
        for codes, agent in zip(vec._state["grid"], vec._state["agent"], strict=True):
            rooms = reached_rooms(codes, agent)
            assert fewest <= len(rooms) <= most
            sides = np.concatenate(rooms)
            assert sides.min() >= 2
            assert sides.max() <= largest - 2
            cost = steps_to_goal(codes, agent)
            assert cost is not None
            assert cost < vec.max_steps
            best.append(1 - 0.9 * cost / vec.max_steps)
    soak.found = {"levels": len(best), "mean of the best returns": round(float(np.mean(best)), 3)}
    assert 0.4 < np.mean(best) < 0.9


def test_light_equals_the_packages():
    numbers = np.random.default_rng(0)
    for _ in range(100):
        clear = numbers.random((VIEW, VIEW)) < numbers.choice((0.5, 0.8, 0.95))
        cells = np.where(clear[..., None], (EMPTY, 0, 0), (WALL, GREY, 0)).astype(np.uint8)
        expected = Grid.decode(cells)[0].process_vis((VIEW // 2, VIEW - 1))
        lit, ours = 1 << VIEW // 2, np.zeros((VIEW, VIEW), bool)
        for j in range(VIEW - 1, -1, -1):
            both = int(LIGHT[lit, sum(int(clear[i, j]) << i for i in range(VIEW))])
            ours[:, j] = [both >> i & 1 for i in range(VIEW)]
            lit = both >> VIEW
        assert np.array_equal(ours, expected)


def test_draws_equal_plain_python_and_are_uniform():
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        begin_draws(state, 7, 3)
        twin = Draws(state[0])
        drawn = [draw(state, -2, 5) for _ in range(7000)]
    assert drawn == [twin.integers(-2, 5) for _ in range(7000)]
    counts = np.bincount(np.array(drawn) + 2, minlength=7)
    assert len(counts) == 7
    assert ((counts - 1000) ** 2 / 1000).sum() < 22.5  # chi-square, 6 degrees, p = 0.001


def test_the_kernels_pass_as_plain_python(monkeypatch):
    for module in (*KERNELS, sys.modules[__name__]):
        use_python_kernels(monkeypatch, module)
    with np.errstate(over="ignore"):
        test_draws_equal_plain_python_and_are_uniform()
        for task in UNCOMPILED:
            compare_levels(task, [0])


def test_unpack_inverts_pack():
    cells = np.stack(np.meshgrid(range(11), range(6), range(3), indexing="ij"), -1).astype(np.uint8)
    assert np.array_equal(unpack(pack(cells)), cells)
    hidden = np.broadcast_to(np.array([KEY, BLUE, 0], np.uint8), cells.shape)
    assert np.array_equal(unpack(pack(cells, hidden)), cells)
    assert (pack(cells, hidden) >= 0).all()
    assert (pack(cells, hidden) != pack(cells)).all()
    assert pack(np.array([WALL, GREY, 0])) == STONE
    assert name_of(np.array([BOX, RED, 0])) == "red box"
