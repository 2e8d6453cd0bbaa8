"""Odd environments work, or are refused in one sentence: in all backends the same."""

import re

import numpy as np
import odd
import pytest
import torch
from command_line import command
from gymnasium import spaces

from firstlight.envs import GymVec, PoolVec
from firstlight.envs.faults import EnvironmentFaultError, EnvironmentRaisedError
from firstlight.envs.seeding import derive
from firstlight.envs.vector.pool import _tensors
from firstlight.envs.vector.pool_memory import memfd
from firstlight.envs.vector.pool_worker import STEP, WorkerEnvironments, WorkerTask
from firstlight.scripts import train

N, STEPS = 2, 11
ALL = [*odd.WORKS, *odd.REFUSED]
FEW = ["nested", "success as an array", "nothing", "four values", "no seed", "reward as text"]
FEW += ["raises in reset", "float16", "info None"]


def play(make_vec):
    """What a vector environment shows in some steps, or the sentence that refuses it."""
    vec = None
    try:
        vec = make_vec()
        shown = [vec.reset(1)]
        shape = (N, *(vec.act_space.shape or ()))
        is_box = isinstance(vec.act_space, spaces.Box)
        action = torch.zeros(shape, dtype=torch.float32 if is_box else torch.int64)
        for _ in range(STEPS):
            step = vec.step(action)
            shown.append((step.obs, step.info, step.reward, step.terminated, step.truncated))
        return [*map(plain, shown), dict(vec.left_out)]
    except (EnvironmentFaultError, EnvironmentRaisedError) as error:
        return str(error)
    finally:
        if vec is not None:
            vec.close()


def plain(part):
    if isinstance(part, dict):
        return {name: plain(field) for name, field in part.items()}
    if isinstance(part, tuple):
        return [plain(field) for field in part]
    return part.dtype, part.tolist()


def here(name):
    return play(lambda: GymVec([odd.factory(name)] * N))


@pytest.mark.parametrize("name", odd.WORKS)
def test_it_works_in_this_process(name):
    result = here(name)
    assert not isinstance(result, str), result
    flags = [moment[3][1] for moment in result[1 : STEPS + 1]]
    limit = {"never ends": 10**6, "ends at once": 1}.get(name, odd.LENGTH)
    assert [all(flag) for flag in flags] == [t % limit == 0 for t in range(1, STEPS + 1)]


@pytest.mark.parametrize("name", odd.REFUSED)
def test_it_is_refused_in_one_sentence(name):
    result = here(name)
    assert isinstance(result, str)
    assert "\n" not in result
    assert result.startswith("environment 0")
    assert re.search(odd.REFUSED[name][1], result), result


@pytest.mark.parametrize("name", ALL)
def test_a_worker_of_the_pool_says_the_same(name):
    """The code of the worker, in this process."""
    assert work(name) == here(name)


def work(name):
    """As `play`, with the environments of one worker of a pool."""
    failures = []
    task = WorkerTask(odd.factory(name), 0, range(N), N, 1, spaces.Dict({}), memfd())
    try:
        worker = WorkerEnvironments(task, failures.append)
        worker.attach()
    except (EnvironmentFaultError, EnvironmentRaisedError) as error:
        return str(error)
    memory, shown = worker.memory, []
    memory.next_seed[:] = [derive(1, "episode", i, 0) for i in range(N)]
    worker.reset_all()
    for t in range(STEPS + 1):
        if t and not failures:
            memory.command[:] = STEP
            worker.run_commands()
        obs = _tensors(memory.obs, np.arange(N))
        info = {"success": torch.from_numpy(memory.info["success"].copy())}
        rest = (memory.reward, memory.terminated, memory.truncated)
        shown.append((obs, info, *(torch.from_numpy(field.copy()) for field in rest)))
    worker.close()
    if failures:
        return failures[0].sentence
    first, *steps = map(plain, shown)
    return [first[:2], *steps, dict(worker.spaces_and_left_out[2])]


def test_processes_of_gymnasium_say_the_same(soak):
    """Each environment in its own process."""
    for name in ALL if soak.full else FEW:
        vec = play(lambda name=name: GymVec([odd.factory(name)] * N, asynchronous=True))
        assert vec == here(name), name


def test_the_pool_says_the_same(soak):
    for name in ALL if soak.full else FEW[:4]:
        pooled = play(
            lambda name=name: PoolVec(odd.factory(name), num_envs=N, num_workers=1, max_restarts=9)
        )
        expected = here(name)
        if name == "raises in reset":
            expected += ", as it did before: no episode can begin"
        assert pooled == expected, name


def test_what_raises_in_a_step_costs_the_pool_an_episode_until_it_is_too_often():
    for name in odd.RAISES:
        assert re.search(r"ZeroDivisionError: no step \(in step, .*odd.py, line \d+\)$", here(name))
    pooled = play(lambda: PoolVec(odd.factory(name), num_envs=N, num_workers=1, max_restarts=4))
    assert pooled.startswith("5 failures are more than max_restarts=4; the last was: environment")


SHORT = ("total_steps=32", "trainer.num_steps=8", "eval_episodes=2", "eval_every=null")


SAID = ["no observation space", "no seed", "four values", "another shape later", "reward as text"]
SAID += ["success as text", "ends as text", "raises in init", "raises in a later step"]


def run(name, *words):
    words = (*SHORT, "learner.num_epochs=1", "device=cpu", "env.num_envs=2", *words)
    return command(train.main, "env._target_=odd.make", f"+env.name='{name}'", *words)


def test_the_command_ends_with_the_sentence(soak, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [*odd.REFUSED, *odd.RAISES] if soak.full else SAID:
        done = run(name, f"run_dir={name}")
        assert done.status == 2
        assert "Traceback" not in done.err
        (*before, last) = done.lines()
        assert last.startswith("firstlight: ")
        expected = odd.REFUSED[name][1] if name in odd.REFUSED else "ZeroDivisionError: no step"
        assert re.search(expected, last), last
        inner = r'File ".*(/hydra/|/gymnasium/|firstlight/(envs|scripts))'
        assert not any(re.search(inner, line) for line in before)
        assert any("odd.py" in line for line in before) == ("ZeroDivisionError" in last)


def test_the_command_trains_or_says_why_not(soak, tmp_path, monkeypatch):
    """An observation that the adapters accept may still be none for an encoder."""
    monkeypatch.chdir(tmp_path)
    for name in odd.WORKS if soak.full else ["nested", "success as an array"]:
        done = run(name, f"run_dir={name}", "eval_max_steps=100")
        assert done.status in (0, 2), name
        assert "Traceback" not in done.err
        assert done.status == 0 or done.lines()[-1].startswith("firstlight: "), name
