"""Workers that die, hang or raise cost their own open episodes, and nothing else."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from counting import (
    ABORT,
    ON,
    RAISE,
    SLEEP,
    SPIN,
    Counting,
    Raising,
    RefusesSeeds,
    RowChecker,
    Stuck,
    broken,
    length_of,
)
from processes import LIMIT, wait_until

from firstlight.envs import GymVec, PoolVec, RandomActor, Runner, check

N, WORKERS = 8, 4
HERE = Path(__file__).parent


def pooled(world=Counting, **options):
    return PoolVec(world, **{"num_envs": N, "num_workers": WORKERS, "timeout": 30.0} | options)


@pytest.fixture
def vec():
    vec = pooled()
    yield vec
    vec.close()


def still(n=N):
    return torch.full((n,), ON)


def but(env_id, action, n=N):
    actions = still(n)
    actions[env_id] = action
    return actions


def pids(vec):
    return [worker.process.pid for worker in vec._pool.workers]


def running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait_until_gone(pids):
    wait_until(lambda: not any(map(running, pids)))


def test_workers_killed_at_random_moments_cost_their_open_episodes_and_no_row(soak, vec, caplog):
    dice, kills = random.Random(1), 0
    ledger = RowChecker(9, vec.reset(9)[0])
    for _ in soak.times(2, 20):
        victim, others = dice.randrange(WORKERS), pids(vec)
        pid = others.pop(victim)
        killer = threading.Timer(dice.uniform(0, 0.05), os.kill, (pid, signal.SIGKILL))
        killer.start()
        while vec.restarts == kills:
            step = vec.step(still())
            ledger.add(step)
        killer.join()
        kills += 1
        assert step.crashed_ids.tolist() == [2 * victim, 2 * victim + 1]
        assert [p for w, p in enumerate(pids(vec)) if w != victim] == others
        assert f"worker {victim} of Counting died of SIGKILL" in caplog.text
        for _ in range(30):
            ledger.add(vec.step(still()))
    assert vec.restarts == kills == soak.repeats
    assert ledger.lost == 2 * kills
    soak.found["rows"] = ledger.valid


def test_what_raises_costs_its_own_episode_and_no_worker(caplog):
    vec = pooled(Raising, num_workers=2, max_restarts=10_000)
    ledger, before = RowChecker(2, vec.reset(2)[0]), pids(vec)
    lost = 0
    for _ in range(250):
        step = vec.step(still())
        ledger.add(step)
        lost += len(step.crashed_ids)
    assert 5 < vec.restarts == ledger.lost == lost < 60  # 20 are expected
    assert ledger.valid == 250 * N - lost
    assert pids(vec) == before
    assert caplog.text.count("action 0) raised; it is made again") == lost
    vec.close()


def test_the_warning_says_what_to_do_to_see_it_again(vec, caplog):
    count = vec.reset(2)[0]["count"]
    step = vec.step(but(3, RAISE))
    assert step.crashed_ids.tolist() == [3]
    assert f"environment 3 (seed {count[3, 0]}, action {RAISE}) raised" in caplog.text
    assert "ZeroDivisionError: requested by an action" in caplog.text
    assert "in step" in caplog.text


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        (ABORT, "SIGABRT"),
        (SLEEP, "SIGABRT, for it gave no answer in 2 s"),
        (SPIN, "SIGABRT, for it gave no answer in 2 s"),
    ],
    ids=["abort", "sleep", "spin with the lock"],
)
def test_a_worker_that_aborts_or_hangs_is_replaced(action, cause, caplog):
    vec = pooled(timeout=2.0)
    ledger = RowChecker(5, vec.reset(5)[0])
    before, seed = pids(vec), ledger.now[3][0]
    ledger.add(vec.step(still()))
    seed = ledger.now[3][0]
    step = vec.step(but(3, action))
    ledger.add(step)
    assert step.crashed_ids.tolist() == [2, 3]
    for _ in range(30):
        ledger.add(vec.step(still()))
    assert ledger.lost == 2
    assert vec.restarts == 1
    assert not running(before[1])
    said = f"worker 1 of Counting died of {cause} in environment 3 (seed {seed}, action {action})"
    assert said in caplog.text
    assert "replaced, the open episodes of environments 2 to 3 are lost" in caplog.text
    assert 'counting.py", line' in caplog.text  # where it stood
    vec.close()


def test_new_episodes_follow_from_the_seed_and_the_number_of_losses():
    def seeds(seed):
        vec = pooled(num_envs=2, num_workers=2)
        found = vec.reset(seed)[0]["count"][:, 0].tolist()
        for action in (ABORT, ABORT, RAISE):
            found += vec.step(but(1, action, 2)).obs["count"][1:, 0].tolist()
        vec.close()
        return found

    first = seeds(1)
    assert first == seeds(1)
    assert len({*first}) == 5


def test_too_many_failures_are_an_error():
    for action, last in (
        (RAISE, "ZeroDivisionError: requested by an action"),
        (ABORT, "died of SIGABRT"),
    ):
        vec = pooled(num_envs=2, num_workers=1, max_restarts=2)
        vec.reset(0)
        for _ in range(2):
            assert 1 in vec.step(but(1, action, 2)).crashed_ids
        with pytest.raises(RuntimeError, match="3 failures are more than max_restarts=2") as ended:
            vec.step(but(1, action, 2))
        assert last in str(ended.value)
        with pytest.raises(RuntimeError, match="3 failures"):  # and no row of before is told again
            vec.recv()
        assert "counting.py" in str(ended.value)
        vec.close()


def test_a_seed_that_no_episode_can_begin_from_is_got_over():
    vec = pooled(RefusesSeeds, num_envs=4, num_workers=2, max_restarts=1000)
    with contextlib.suppress(RuntimeError):  # three bad ones in a row
        vec.reset(0)
        ends = sum(len(vec.step(still(4)).final_ids) for _ in range(20))
        assert ends
    assert vec.restarts > 0
    vec.close()


def test_an_environment_that_cannot_begin_an_episode_ends_the_run():
    vec = pooled(Stuck, num_envs=1)
    vec.reset(0)
    (length,) = (length_of(seed) for seed in vec._memory.seed.tolist())
    for _ in range(length - 1):
        vec.step(still(1))
    with pytest.raises(RuntimeError, match=r"no episode can begin$") as ended:
        vec.step(still(1))
    assert "RuntimeError: no more" in str(ended.value)
    assert vec.restarts == 2
    vec.close()


def test_a_factory_that_fails_later_is_tried_until_it_is_too_often(vec, caplog):
    vec.reset(0)
    pool = vec._pool
    pool.max_restarts = 3
    worker = pool.workers[0]
    object.__setattr__(worker.task, "make", broken)
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"4 failures .* ZeroDivisionError: in the factory"):
        vec.step(still())


def test_a_death_while_nothing_was_asked_is_told_when_something_is(vec):
    """Environments 2 and 3 share a worker, which dies while only 2 is asked."""
    ledger = RowChecker(1, vec.reset(1)[0])
    for asked, lost in (([2], [2]), ([2], []), ([0, 3], [3]), ([2, 3], []), ([0, 1, 2, 3], [])):
        if asked == [2] and lost == [2]:
            os.kill(pids(vec)[1], signal.SIGKILL)
        vec.send_to(torch.tensor(asked), still(len(asked)))
        ids, step = vec.recv_ready(len(asked))
        assert ids.tolist() == asked
        assert step.crashed_ids.tolist() == lost
        ledger.add(step, ids)
    os.kill(pids(vec)[1], signal.SIGKILL)
    vec.send_to(torch.tensor([2]), still(1))
    assert vec.recv_ready()[1].crashed_ids.tolist() == [2]
    state = vec.state_dict()
    assert vec.load_state_dict(state)[2].tolist() == [i == 3 for i in range(N)]
    assert vec.step(still()).valid.all()


def test_a_death_outside_of_a_step_is_raised_and_the_next_step_gets_over_it(vec):
    ledger = RowChecker(1, vec.reset(1)[0])
    points = vec.snapshots()
    os.kill(pids(vec)[0], signal.SIGKILL)
    with pytest.raises(OSError, match="worker 0 of Counting died of SIGKILL in snapshots"):
        vec.state_dict()  # so a save is skipped
    ledger.add(vec.step(still()))
    assert ledger.lost == 2
    os.kill(pids(vec)[1], signal.SIGKILL)
    obs, _, lost = vec.restore(torch.arange(N), points)  # which must go on
    assert lost.tolist() == [i in (2, 3) for i in range(N)]
    assert obs["count"][:2].tolist() == [[point.seed, 0] for point in points[:2]]
    assert vec.step(still()).valid.all()


def test_a_death_before_reset_is_got_over(vec):
    os.kill(pids(vec)[3], signal.SIGKILL)
    obs, _ = vec.reset(1)
    assert obs["count"][:, 1].tolist() == [0] * N
    step = vec.step(still())
    assert step.valid.all()
    assert len(step.crashed_ids) == 0


def test_a_failure_does_not_change_what_the_others_answer(vec):
    here = GymVec([Counting] * N)
    here.reset(6)
    vec.reset(6)
    others = [i for i in range(N) if i not in (2, 3)]
    for t in range(40):
        action = {10: ABORT, 20: RAISE}.get(t, ON)
        one, two = vec.step(but(2, action)), here.step(still())
        assert torch.equal(one.obs["count"][others], two.obs["count"][others])
        assert torch.equal(one.reward[others], two.reward[others])
    assert vec.restarts == 2


def test_signals_are_left_to_the_process_that_trains(vec):
    ledger = RowChecker(1, vec.reset(1)[0])
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for pid in pids(vec):
            os.kill(pid, name)
        ledger.add(vec.step(still()))
    assert vec.restarts == 0


def test_a_runner_cuts_the_row_before_a_loss():
    vec = pooled(Raising, max_restarts=1000)
    runner = Runner(vec, seed=1)
    rollouts = [check(runner.collect(RandomActor(vec.act_space), 150)) for _ in range(2)]
    for rollout in rollouts:
        crashed = torch.zeros_like(rollout.valid) if rollout.crashed is None else rollout.crashed
        ended = rollout.terminated | rollout.truncated & ~crashed
        before_a_loss = rollout.valid[:-1] & ~ended[:-1] & ~rollout.valid[1:]
        assert torch.equal(crashed[:-1], before_a_loss)
        assert rollout.truncated[crashed].all()
    assert any(rollout.crashed is not None for rollout in rollouts)
    vec.close()


def test_closing_does_not_wait_for_what_hangs(vec):
    vec.reset(0)
    vec.send(but(3, SPIN))
    processes = [worker.process for worker in vec._pool.workers]
    vec.close()
    ends = [process.exitcode for process in processes]
    assert ends == [0, -signal.SIGKILL, 0, 0]  # the others had time to end by themselves


SCRIPT = """
import functools, sys, time, torch
from counting import Counting, ON, SLEEP, SPIN
from firstlight.envs import Chain, Isolated, PoolVec

if __name__ == "__main__":
    vec = PoolVec(Counting, num_envs=3, num_workers=3)
    vec.reset(0)
    if sys.argv[1] == "linger":
        vec.send(torch.tensor([ON, SLEEP, SPIN]))
    else:
        isolated = Isolated(functools.partial(Chain, 2))
        isolated.reset(0)
        print(isolated._child.process.pid, end=" ")
    print(*(worker.process.pid for worker in vec._pool.workers), flush=True)
    if sys.argv[1] == "linger":
        time.sleep(1000)
"""


def script(tmp_path, word):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, "-P", str(tmp_path / "script.py"), word]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_worker_outlives_a_parent_that_was_killed(tmp_path, monkeypatch):
    """One waits, one sleeps, one holds the interpreter's lock for ever."""
    entered = tmp_path / "entered"
    entered.mkdir()
    monkeypatch.setenv("ENTERED", str(entered))
    process = script(tmp_path, "linger")
    workers = [int(pid) for pid in process.stdout.readline().split()]
    wait_until(lambda: len([*entered.iterdir()]) == 2)  # one sleeps, one spins
    assert len(workers) == 3
    assert all(map(running, workers))
    process.kill()
    process.wait()
    wait_until_gone(workers)
    process.stdout.close()


def test_a_script_that_closes_neither_a_pool_nor_an_isolated_child_ends(tmp_path):
    process = script(tmp_path, "end")
    out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    pids = [int(pid) for pid in out.split()]
    assert len(pids) == 4
    wait_until_gone(pids)
