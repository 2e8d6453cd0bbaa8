"""Environments in a process of their own: deaths cut episodes, and nothing else."""

import contextlib
import functools
import sys
from pathlib import Path

import pytest
import torch
from adapters import Unchecked
from bombs import (
    ABORT,
    EXIT,
    ODD,
    ON,
    SLEEP,
    AbortsInReset,
    AbortsInThirdStep,
    Bomb,
    N,
    isolated,
    kill,
    still,
)
from processes import wait_until

from firstlight.envs import Chain, GymVec, Isolated, RandomActor, Runner, WorkerDiedError
from firstlight.envs.types import Step
from firstlight.envs.vector import isolated as module
from firstlight.envs.vector.envpool import EnvPoolVec, make


@pytest.fixture
def vec():
    vec = isolated()
    vec.reset(5)
    yield vec
    vec.close()


def plain(part):
    return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part.tolist()


def said(step):
    return [plain(getattr(step, name)) for name in Step.__slots__]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_it_says_what_the_environments_say(method):
    inside, here = isolated(start_method=method), GymVec([Bomb] * N)
    try:
        assert inside.obs_space == here.obs_space
        assert inside.info_space == here.info_space
        assert inside.act_space == here.act_space
        assert (inside.resume, inside.num_envs) == ("replay", N)
        assert [*map(plain, inside.reset(5))] == [*map(plain, here.reset(5))]
        for _ in range(9):
            assert said(inside.step(still())) == said(here.step(still()))
    finally:
        inside.close()


def test_a_kill_opens_new_episodes_in_a_row_that_is_not_valid(vec, caplog):
    vec.step(still())
    kill(vec)
    step = vec.step(still())
    assert step.crashed_ids.tolist() == [0, 1, 2]
    assert step.is_first.all()
    for flag in (step.valid, step.terminated, step.truncated, step.reward):
        assert not flag.any()
    assert len(step.final_ids) == len(step.final_obs["obs"]) == len(step.final_info["success"]) == 0
    assert step.obs["obs"][:, 0].tolist() == [0] * N
    step = vec.step(still())
    assert step.valid.all()
    assert step.obs["obs"][:, 0].tolist() == [1] * N
    assert len(step.crashed_ids) == 0
    assert vec.restarts == 1
    assert "GymVec" in caplog.text
    assert "died of SIGKILL in step with actions [0, 0, 0]" in caplog.text


def test_new_episodes_follow_from_the_seed_and_the_number_of_deaths():
    def numbers(seed):
        vec = isolated()
        found = [vec.reset(seed)[0]["obs"][:, 1].tolist()]
        for _ in range(2):
            kill(vec)
            found.append(vec.step(still()).obs["obs"][:, 1].tolist())
        vec.close()
        return found

    first = numbers(1)
    assert first == numbers(1)
    assert len({number for row in first for number in row}) == 3 * N
    assert not {*first[1]} & {*numbers(2)[1]}


@pytest.mark.parametrize(
    ("action", "cause"),
    [(ABORT, "SIGABRT"), (EXIT, "exit code 3"), (SLEEP, "SIGABRT, for it gave no answer in 2 s")],
)
def test_whatever_it_dies_of_is_named_and_got_over(action, cause, caplog):
    vec = isolated()
    vec.reset(0)
    vec.timeout = 2.0 if action == SLEEP else 60.0
    assert len(vec.step(torch.tensor([ON, action, ON])).crashed_ids) == N
    assert f"died of {cause} in step with actions [0, {action}, 0]" in caplog.text
    assert vec.step(still()).valid.all()
    vec.close()


def test_an_abort_in_envpool_s_own_code_is_got_over(caplog):
    vec = Isolated(functools.partial(Unchecked, "MiniGrid-Empty-5x5-v0", num_envs=2, num_threads=1))
    vec.reset(0)
    step = vec.step(torch.tensor([0, 99]))
    assert step.crashed_ids.tolist() == [0, 1]
    assert "Unchecked('MiniGrid-Empty-5x5-v0', num_envs=2, num_threads=1)" in caplog.text
    assert "SIGABRT" in caplog.text
    assert vec.step(torch.tensor([0, 6])).valid.all()
    vec.close()


def test_too_many_deaths_in_a_row_are_an_error(caplog):
    vec = isolated(AbortsInThirdStep, max_restarts=2)
    vec.reset(0)
    lost = [len(vec.step(still(1)).crashed_ids) for _ in range(8)]
    assert lost == [0, 0, 1, 0, 0, 1, 0, 0]
    with pytest.raises(WorkerDiedError, match=r"^3 deaths in a row: .*SIGABRT in step"):
        vec.step(still(1))
    assert vec.restarts == 2
    vec.close()
    stillborn = isolated(AbortsInReset, max_restarts=1)
    with pytest.raises(WorkerDiedError, match=r"2 deaths in a row: .*SIGABRT in reset"):
        stillborn.reset(0)
    stillborn.close()


def test_deaths_far_apart_are_not_in_a_row(monkeypatch):
    monkeypatch.setattr(module, "_CALM", 2)
    vec = isolated(AbortsInThirdStep, max_restarts=1)
    vec.reset(0)
    lost = sum(len(vec.step(still(1)).crashed_ids) for _ in range(9))
    assert lost == vec.restarts == 3
    vec.close()


def test_exceptions_come_through_and_nothing_is_restarted(vec):
    vec.step(still())
    with pytest.raises(ValueError, match=r"outside 0\.\.4") as refused:
        vec.step(torch.tensor([0, 7, 0]))
    assert "checked_actions" in refused.value.__notes__[0]
    with pytest.raises(RuntimeError, match="OddError: one and two"):
        vec.step(torch.full((N,), ODD))
    assert vec.restarts == 0
    with pytest.raises(ValueError, match="'Pon-v5'; did you mean"):
        make("Pon-v5", isolated=True)
    with pytest.raises(ValueError, match="a process cannot be given"):
        Isolated(lambda: Chain(2))


def test_it_goes_back_to_where_it_was_and_counts_its_deaths_on(vec):
    vec.step(still())
    kill(vec)
    vec.step(still())
    state, points = vec.state_dict(), vec.snapshots()
    future = [said(vec.step(still())) for _ in range(8)]
    obs, _, lost = vec.restore(torch.tensor([2]), points[2:])
    assert obs["obs"][0, 0] == 0
    assert lost.tolist() == [False]
    other = isolated()
    _, _, lost = other.load_state_dict(state)
    assert not lost.any()
    assert [said(other.step(still())) for _ in range(8)] == future
    assert other.restarts == 1
    other.close()


def test_a_death_outside_of_a_step_is_raised_and_the_next_step_gets_over_it(vec):
    kill(vec)
    with pytest.raises(OSError, match="died of SIGKILL in state_dict"):  # so a save is skipped
        vec.state_dict()
    assert len(vec.step(still()).crashed_ids) == N
    assert vec.step(still()).valid.all()


def test_rendering_outlives_a_death():
    vec = make("MiniGrid-Empty-5x5-v0", num_envs=1, num_threads=1, isolated=True)
    vec.enable_rendering()
    vec.reset(3)
    assert vec.render(0).shape[2] == 3
    kill(vec)
    vec.step(still(1))
    assert vec.render(0).shape[2] == 3
    vec.close()


def alive(group):
    """Processes of a group that are more than an entry in a table."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            found += [path] if int(its_group) == group and state != "Z" else []
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_closing_leaves_no_process_behind(vec):
    inner = Isolated(functools.partial(GymVec, [Bomb] * 2, asynchronous=True))
    inner.reset(0)
    group = inner._child.process.pid
    kill(inner)  # its environments' processes are orphans now
    inner.close()
    inner.close()
    wait_until(lambda: not alive(group))  # what was killed may take a moment to be gone
    with pytest.raises(ValueError, match="is closed"):
        inner.step(still(2))


def test_envpool_makes_either():
    assert isinstance(make("CartPole-v1", num_envs=2), EnvPoolVec)
    vec = make("CartPole-v1", num_envs=2, isolated=True)
    assert isinstance(vec, Isolated)
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 40)
    assert (~rollout.valid).any()
    assert rollout.crashed is None
    vec.close()
