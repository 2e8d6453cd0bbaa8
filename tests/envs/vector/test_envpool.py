"""EnvPool as a vector: idle rows, ends, seeds, and what must never reach C++."""

import functools
import hashlib
import subprocess
import sys
import threading

import envpool
import numpy as np
import pytest
import torch
from gymnasium import spaces
from processes import LIMIT, wait_until

from firstlight.envs import minigrid
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.seeding import derive_many
from firstlight.envs.types import Step, check
from firstlight.envs.vector import envpool_threads
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.envs.vector.envpool_threads import threads, wait_asleep

EMPTY = "MiniGrid-Empty-5x5-v0"
ROOMS = "MiniGrid-FourRooms-v0"  # another layout every episode
TO_GOAL = (2, 2, 1, 2, 2)  # in the empty room of 5 x 5


def make(task=EMPTY, num_envs=3, **options):
    return EnvPoolVec(task, num_envs=num_envs, num_threads=1, **options)


def plain(part):
    return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part.tolist()


def record(vec, seed, steps):
    """What `vec` says to fixed actions after a reset with `seed`, as plain numbers."""
    said = [[plain(part) for part in vec.reset(seed)]]
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        step = vec.step(torch.randint(0, 3, (vec.num_envs,), generator=g))
        said.append([plain(getattr(step, name)) for name in Step.__slots__])
    return said


def test_a_time_limit_truncates_and_the_next_call_is_idle():
    """Against a plain loop; action 6 does nothing."""
    vec = make(max_episode_steps=4)
    obs, _ = vec.reset(0)
    start = obs["direction"].tolist()
    elapsed, over = 0, False
    for _ in range(14):
        step = vec.step(torch.tensor([0, 1, 6]))  # turning left, right, not at all
        idle, over = over, False
        elapsed = 0 if idle else elapsed + 1
        over = elapsed == 4
        assert step.valid.tolist() == [not idle] * 3
        assert step.is_first.tolist() == [idle] * 3
        assert step.truncated.tolist() == [over] * 3
        assert step.terminated.tolist() == [False] * 3
        assert step.reward.tolist() == [0] * 3
        # the last observation is seen at the end, and the first of the next at the idle call
        turned = [start[0] - elapsed, start[1] + elapsed, start[2]]
        assert step.obs["direction"].tolist() == [way % 4 for way in turned]
        assert len(step.final_ids) == 0
        assert all(len(field) == 0 for field in step.final_obs.values())


def test_a_goal_terminates():
    vec = make()
    vec.reset(0)
    for t, action in enumerate(TO_GOAL):
        step = vec.step(torch.tensor([action, 6, action]))
        done = t == len(TO_GOAL) - 1
        assert step.terminated.tolist() == [done, False, done]
    assert step.truncated.tolist() == [False] * 3
    assert step.reward.tolist() == pytest.approx([1 - 0.9 * 5 / 100, 0, 1 - 0.9 * 5 / 100])
    assert step.info["agent_pos"].tolist() == [[3, 3], [1, 1], [3, 3]]  # where it ended
    step = vec.step(torch.tensor([2, 2, 6]))  # environment 1 goes on, what 0 does is ignored
    assert step.valid.tolist() == [False, True, False]
    assert step.is_first.tolist() == [True, False, True]
    assert step.reward.tolist() == [0, 0, 0]
    assert not (step.terminated | step.truncated).any()
    assert step.info["agent_pos"].tolist() == [[1, 1], [2, 1], [1, 1]]
    step = vec.step(torch.tensor([2, 2, 2]))
    assert step.valid.all()
    assert not step.is_first.any()
    assert step.info["agent_pos"].tolist() == [[2, 1], [3, 1], [2, 1]]


def test_a_new_start_forgets_the_ends_before():
    vec = make(max_episode_steps=2)
    for seed in (0, None, 1):
        vec.reset(seed)
        step = vec.step(torch.tensor([6, 6, 6]))
        assert step.valid.all()
        assert not step.is_first.any()
        assert vec.step(torch.tensor([6, 6, 6])).truncated.all()


def test_the_seed_decides_the_trajectory():
    options = {"max_episode_steps": 6}
    first, other = (record(make(ROOMS, **options), seed, 30) for seed in (1, 2))
    vec = make(ROOMS, **options)
    assert record(vec, 1, 30) == first
    assert record(vec, 1, 30) == first  # whatever was before
    assert first != other
    assert record(vec, 2, 30) == other


def test_no_two_environments_share_their_levels():
    """Not inside a run, and not between neighbouring runs, at no shift of the indices."""
    vec = make(ROOMS, num_envs=48)
    images = torch.cat([vec.reset(seed)[0]["image"].flatten(1) for seed in range(3)])
    places = torch.cat([vec.reset(seed)[1]["agent_pos"] for seed in range(3)])
    levels = {tuple(row) for row in torch.cat([images, places], 1).tolist()}
    assert len(levels) > 0.97 * 3 * 48  # two levels may look alike by chance, none do by seed


def test_levels_change_from_episode_to_episode():
    vec = make(ROOMS, num_envs=4, max_episode_steps=1)
    vec.reset(0)
    starts = []
    for _ in range(20):
        step = vec.step(torch.full((4,), 6))
        if step.is_first.all():
            starts.append(tuple(step.obs["image"].flatten().tolist()))
    assert len(starts) == len(set(starts)) == 10


@pytest.mark.parametrize(
    "action",
    [
        torch.tensor([0, 7, 0]),
        torch.tensor([0, -1, 0]),
        torch.tensor([0, 0]),
        torch.tensor([0, 0, 0, 0]),
        torch.tensor([0.0, 1.0, 2.0]),
        torch.tensor([[0], [0], [0]]),
    ],
)
def test_impossible_actions_are_refused(action):
    vec = make()
    vec.reset(0)
    vec.step(torch.tensor([2, 2, 2]))
    with pytest.raises(ValueError, match="action"):
        vec.step(action)
    step = vec.step(torch.tensor([2, 6, 6]))  # nothing was moved, the pool still works
    assert step.info["agent_pos"].tolist() == [[3, 1], [2, 1], [2, 1]]


def test_a_script_survives_an_impossible_action_and_ends_without_closing():
    """Inside EnvPool the action would abort the process, which no `except` could prevent."""
    code = (
        "import torch\n"
        "from firstlight.envs.vector.envpool import EnvPoolVec\n"
        f"vec = EnvPoolVec({EMPTY!r}, num_envs=2, num_threads=1)\n"
        "vec.reset(0)\n"
        "try:\n"
        "    vec.step(torch.tensor([0, 10**6]))\n"
        "except ValueError as error:\n"
        "    print('refused:', error)\n"
        "print(vec.step(torch.tensor([0, 6])).valid.tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "refused: action outside 0..6: 0 to 1000000\n[True, True]\n"


class FakePool:
    """Keeps what it is sent."""

    def _send(self, fields):
        self.sent = fields[-1]


@pytest.mark.parametrize(
    ("space", "action", "wanted"),
    [
        (spaces.Discrete(3, start=5), torch.tensor([0, 2, 1]), [5, 7, 6]),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), torch.tensor([[0, 2]] * 3), [[1, 1]] * 3),
    ],
)
def test_policies_count_from_zero(space, action, wanted):
    vec = make()
    vec._pool, vec.act_space = FakePool(), space
    vec.send(action)
    assert vec._pool.sent.tolist() == wanted
    with pytest.raises(ValueError, match="outside"):
        vec.send(action + 2)


def test_nothing_beyond_the_bounds_is_sent():
    vec = make(num_envs=2)
    low, high = np.array([-1.0, 0.0]), np.array([1.0, 5.0])
    vec._pool, vec.act_space = FakePool(), spaces.Box(low, high, dtype=np.float64)
    vec._action_dtype = np.float64
    vec.send(torch.tensor([[-3.0, 7.0], [0.25, 1.5]]))
    assert vec._pool.sent.tolist() == [[-1.0, 5.0], [0.25, 1.5]]
    assert vec._pool.sent.dtype == np.float64


def test_continuous_actions_are_clipped():
    within, beyond = (make("Pendulum-v1", num_envs=2) for _ in range(2))
    assert within.act_space.high.tolist() == [2]
    for vec in (within, beyond):
        vec.reset(3)
    for _ in range(5):
        step = within.step(torch.tensor([[2.0], [-2.0]]))
        other = beyond.step(torch.tensor([[9.0], [-1e6]]))
        assert torch.equal(step.obs["obs"], other.obs["obs"])
        assert torch.equal(step.reward, other.reward)
    gentle = within.step(torch.tensor([[0.5], [-2.0]])).reward
    assert gentle[0] != beyond.step(torch.tensor([[2.0], [-2.0]])).reward[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_continuous_actions_must_be_finite(bad):
    vec = make("Pendulum-v1", num_envs=2)
    vec.reset(0)
    with pytest.raises(ValueError, match="finite"):
        vec.step(torch.tensor([[0.0], [bad]]))
    with pytest.raises(ValueError, match="shape"):
        vec.step(torch.zeros(2, 2))
    assert vec.step(torch.zeros(2, 1)).valid.all()


def test_a_step_in_two_halves_is_a_step():
    whole, halves = make(ROOMS, max_episode_steps=3), make(ROOMS, max_episode_steps=3)
    for vec in (whole, halves):
        vec.reset(5)
    for t in range(10):
        action = torch.tensor([t % 3, 2, 1])
        expected = whole.step(action)
        halves.send(action)
        got = halves.recv()
        for name in Step.__slots__:
            assert plain(getattr(got, name)) == plain(getattr(expected, name)), name


def test_steps_own_their_memory():
    vec = make(ROOMS, max_episode_steps=3)
    vec.reset(0)
    steps = [vec.step(torch.tensor([t % 3, 2, 0])) for t in range(8)]
    said = [[plain(getattr(step, name)) for name in Step.__slots__] for step in steps]
    for t in range(8):
        vec.step(torch.tensor([2, t % 3, 1]))
    vec.reset(1)
    for step, wanted in zip(steps, said, strict=True):
        assert [plain(getattr(step, name)) for name in Step.__slots__] == wanted


def test_fields_and_dtypes():
    vec = make(obs_keys=("image", "direction"), info_keys=("agent_pos",))
    obs, info = vec.reset(0)
    assert set(vec.obs_space) == set(obs) == {"image", "direction"}
    assert set(vec.info_space) == set(info) == {"agent_pos"}
    for fields, space in ((obs, vec.obs_space), (info, vec.info_space)):
        for name, field in fields.items():
            assert field.shape == (3, *space[name].shape)
            for row in field.numpy():
                assert space[name].contains(row[()])
    assert obs["image"].dtype == torch.uint8
    assert obs["direction"].dtype == torch.int64
    assert info["agent_pos"].dtype == torch.int64
    assert {"image", "direction"} == set(make().obs_space)
    assert set(make(obs_keys=("mission",)).reset(0)[0]) == {"mission"}
    assert {"agent_pos", "mission_id"} == set(make().info_space)
    assert make(success_threshold=0.25).success_threshold == 0.25


def test_wide_floats_become_float32():
    vec = make("Ant-v4", num_envs=2)
    obs, info = vec.reset(0)
    step = vec.step(torch.full((2, 8), 3.0))
    for fields in (obs, step.obs, info, step.info, {"reward": step.reward}):
        assert {field.dtype for field in fields.values()} == {torch.float32}
    assert {space.dtype for space in vec.info_space.values()} == {np.dtype(np.float32)}


TASKS = [EMPTY, "Pong-v5", "Ant-v4", "BinPack-v2"]


@pytest.mark.parametrize("task", TASKS)
def test_it_says_what_envpool_says(task):
    """Against EnvPool's own Python, with the same seeds and actions, field by field."""
    vec = make(task, num_envs=3, max_episode_steps=12)
    seeds = [int(seed) for seed in derive_many(7, "envpool", 3)]
    raw = envpool.make_gymnasium(task, num_envs=3, seed=seeds, max_episode_steps=12)
    (obs, _), (expected, _) = vec.reset(7), raw.reset()
    vec.act_space.seed(0)
    for t in range(30):
        for name, field in obs.items():
            there = expected
            for key in name.split(".") if isinstance(expected, dict) else ():
                there = there[key]
            assert np.array_equal(field.numpy(), there.astype(field.numpy().dtype)), (t, name)
        action = np.stack([vec.act_space.sample() for _ in range(3)])
        counted = action - getattr(vec.act_space, "start", 0)
        step = vec.step(torch.from_numpy(counted))
        expected, reward, terminated, truncated, info = raw.step(action)
        obs = step.obs
        assert np.array_equal(step.reward[step.valid], reward.astype(np.float32)[step.valid])
        assert np.array_equal(step.terminated, terminated)
        assert np.array_equal(step.truncated, truncated)
        for name in set(step.info) - {"success"}:
            assert np.allclose(step.info[name], info[name])


@pytest.mark.parametrize("kind", ["obs", "info"])
def test_unknown_fields_are_named(kind):
    wanted = {"obs": "observation.*'smell'.*'image'", "info": "info.*'smell'.*'agent_pos'"}[kind]
    with pytest.raises(ValueError, match=wanted):
        make(**{f"{kind}_keys": ("smell",)})


def test_an_unknown_task_suggests_a_near_one():
    with pytest.raises(ValueError, match=r"'MiniGrid-Emty-5x5-v0'; did you mean '(.*)'\?") as error:
        EnvPoolVec("MiniGrid-Emty-5x5-v0")
    assert EMPTY in str(error.value)
    with pytest.raises(ValueError, match=r"no task 'qqqqqqqqqqq'$"):
        EnvPoolVec("qqqqqqqqqqq")


def test_pictures():
    vec = make(num_envs=2)
    vec.reset(4)
    with pytest.raises(RuntimeError, match="enable_rendering"):
        vec.render(0)
    vec.enable_rendering()
    expected = make(num_envs=2).reset(4)[0]
    obs, _ = vec.reset(4)  # pictures change nothing else
    assert torch.equal(obs["image"], expected["image"])
    first = vec.render(0).copy()
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    assert first.std() > 1
    vec.step(torch.tensor([2, 6]))
    assert not np.array_equal(vec.render(0), first)
    assert np.array_equal(vec.render(1), first)


def test_closing_frees_the_pool_and_may_be_repeated():
    make().close()  # what a family starts once
    before = threads()
    vec = make()
    vec.reset(0)
    assert threads() > before
    vec.close()
    vec.close()
    wait_until(lambda: threads() == before)  # an ended thread may still be listed
    with pytest.raises(ValueError, match="closed"):
        vec.reset()
    with pytest.raises(ValueError, match="closed"):
        vec.step(torch.tensor([6, 6, 6]))
    vec.reset(1)  # builds another
    assert threads() > before
    del vec
    assert threads() == before


class Sleepless:
    """Stands for the pool; keeps in `freed` how often its thread was looked at before."""

    def __init__(self, looks, freed):
        self.looks, self.freed = looks, freed

    def __del__(self):
        self.freed.append(len(self.looks))


@pytest.mark.parametrize("free", ["close", "reset", "__del__"])
def test_a_pool_is_freed_only_when_its_threads_sleep(free, monkeypatch):
    """Or it might wait for ever for a buffer that its thread no longer makes; see `wait_asleep`."""
    vec, looks, freed = make(), [], []
    vec.close()
    vec._pool, vec._threads = Sleepless(looks, freed), [7]
    states = iter("RRDRS")
    monkeypatch.setattr(envpool_threads, "_state", lambda id: looks.append(id) or next(states))
    getattr(vec, free)(*[0] * (free == "reset"))
    assert freed == [5]
    assert looks == [7] * 5
    monkeypatch.undo()
    vec.close()


def test_threads_are_seen_working_and_asleep():
    """Hashing lets go of Python's lock."""
    task = functools.partial(hashlib.pbkdf2_hmac, "sha256", b"", b"", 5_000_000)
    thread = threading.Thread(target=task)
    thread.start()
    wait_until(lambda: envpool_threads._state(thread.native_id) == "R")
    assert not wait_asleep([thread.native_id], seconds=0.05)
    thread.join()
    assert wait_asleep([thread.native_id])  # it is gone
    idle = threading.Event()
    thread = threading.Thread(target=idle.wait)
    thread.start()
    assert wait_asleep([thread.native_id])
    idle.set()
    thread.join()


def test_it_cannot_be_set_back_and_says_so():
    with pytest.raises(NotImplementedError, match="cannot"):
        make().restore(torch.tensor([0]), [])


@pytest.mark.parametrize("task", ["MiniGrid-DoorKey-5x5-v0", "MountainCarContinuous-v0"])
def test_rollouts_of_a_random_agent_obey_the_law(task):
    """Idle rows pay nothing, end nothing, and follow an end each."""
    vec = make(task, num_envs=4, max_episode_steps=7)
    runner = Runner(vec, seed=1)
    rollouts = [check(runner.collect(RandomActor(vec.act_space), 20)) for _ in range(2)]
    shape = (20, 4) if isinstance(vec.act_space, spaces.Discrete) else (20, 4, 1)
    for rollout in rollouts:
        assert rollout.action.shape == shape
        for name, space in vec.obs_space.items():
            assert rollout.obs[name].shape == (21, 4, *space.shape)
        ended = rollout.terminated | rollout.truncated
        assert torch.equal(~rollout.valid[1:], ended[:-1])
        assert torch.equal(rollout.is_first[1:], ~rollout.valid)
        assert rollout.reward[~rollout.valid].abs().sum() == 0
        assert not ended[~rollout.valid].any()
        assert ended.sum() >= 8
    assert torch.equal(
        rollouts[0].terminated[-1] | rollouts[0].truncated[-1], ~rollouts[1].valid[0]
    )
    lengths = rollouts[0].valid.sum(0)
    assert (lengths <= 18).all()  # at most 7 in 8


def test_minigrid_shows_what_policies_may_see():
    vec = minigrid.make(EMPTY, num_envs=2, num_threads=1, max_episode_steps=3)
    assert isinstance(vec, EnvPoolVec)
    assert set(vec.obs_space) == {"image", "direction"}
    assert set(vec.info_space) == {"agent_pos"}
    assert vec.success_threshold == 0
    vec.reset(0)
    ends = [vec.step(torch.tensor([6, 6])).truncated.tolist() for _ in range(3)]
    assert ends == [[False] * 2, [False] * 2, [True] * 2]
