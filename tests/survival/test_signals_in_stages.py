"""Signals in every stage of a run: ended in time, saved, and resumed as if nothing had happened."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import slow_stages
from processes import (
    WORKERS,
    fork,
    handles,
    lines,
    logged,
    shared_memory,
    wait_for_end_of_group,
    wait_until,
)

from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.status import read_status

ROLLOUT = 64  # environment steps
COMMON = (
    *("trainer.num_steps=16", "learner.minibatch_size=64", "learner.num_epochs=1"),
    *("eval_episodes=4", "eval_every=null", "checkpoint.every=null", "seed=3"),
)
CHAIN = ("env=chain", "env._target_=slow_stages.SlowChain", "env.num_envs=4", "env.length=4")
CARTPOLE = (
    *("env=custom", "env._target_=slow_stages.SlowCartPole", "env.num_envs=4"),
    "intrinsic.count.bits=32",
)
COUNT = ("intrinsic=[count]", "intrinsic.count._target_=slow_stages.SlowCount")
RND = ("intrinsic=[rnd]", "intrinsic.rnd.warmup_steps=32")

# stage: words of the command, variables that make it slow, the mark of a step in it
STAGES = {
    "collecting": ([*CHAIN, *COUNT], {"DELAY": "0.02"}, "DELAY"),
    "collecting by replay": ([*COUNT, *CARTPOLE], {"DELAY": "0.005"}, "DELAY"),
    "steps of two seconds": ([*COUNT, *CARTPOLE], {"DELAY": "2"}, "DELAY"),
    "warm-up": ([*CHAIN, *RND], {"DELAY": "0.02"}, "DELAY"),
    "computing": ([*CHAIN, *COUNT], {"COMPUTE_DELAY": "60"}, "COMPUTE_DELAY"),
    "learning": ([*CHAIN, *COUNT, "learner.num_epochs=200"], {}, None),
    "saving": ([*CHAIN, *COUNT, "checkpoint.every=1"], {}, None),
    "evaluating": ([*CHAIN, *COUNT], {"EVALUATION_DELAY": "0.5"}, "EVALUATION_DELAY"),
    "drawing": ([*CHAIN, *COUNT, "heat_maps=true", "heat_map_seconds=1"], {}, None),
}
OFTEN = {"collecting by replay", "steps of two seconds", "warm-up", "evaluating"}
"""Stages in `make test`; the others are in the soak."""
PATIENT = {"steps of two seconds", "computing"}  # must be given up, so `make test` waits less


def start(run_dir, words, steps, reached, **variables):
    reached.mkdir(exist_ok=True)
    command = [f"run_dir={run_dir}", "resume=auto", *COMMON, *words, f"total_steps={steps}"]
    return train(*command, REACHED=str(reached), **variables)


def train(*command, path=(), **variables):
    helpers = Path(slow_stages.__file__).parent
    return fork("slow_stages:train", *command, path=[helpers, *path], **variables)


def parameters(run_dir):
    """Every tensor of the newest checkpoint."""
    newest = checkpoint.newest(run_dir / "checkpoints")
    return safetensors.torch.load_file(newest / "tensors.safetensors")


def wait_for_stage(process, run_dir, reached, mark):
    """Wait until the stage has begun; where nothing marks it, until an iteration is over."""
    where = run_dir / "metrics.jsonl" if mark is None else reached / mark

    def begun():
        return process.poll() is not None or (where.exists() and (mark or where.read_bytes()))

    wait_until(begun)


@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_in_any_stage_ends_the_run_saved_and_resumable(soak, stage, tmp_path):
    if stage not in OFTEN and not soak.full:
        pytest.skip("in the soak")
    words, variables, mark = STAGES[stage]
    steps = 6 * ROLLOUT
    whole, dice = tmp_path / "whole", random.Random(stage)
    process = start(whole, words, steps, tmp_path / "reached")
    out, _ = process.communicate()
    assert process.returncode == 0, out
    if stage in PATIENT and not soak.full:
        variables = {**variables, "GRACE": "0.3"}
    slowest = 0.0
    for i in soak.times(1, 20):
        run_dir, reached = tmp_path / str(i), tmp_path / f"reached_{i}"
        process = start(run_dir, words, steps, reached, **variables)
        wait_for_stage(process, run_dir, reached, mark)
        time.sleep(dice.uniform(0, 0.3))
        name = dice.choice(["SIGTERM", "SIGINT"])
        sent = time.monotonic()
        process.send_signal(signal.Signals[name])
        out, _ = process.communicate()
        slowest = max(slowest, time.monotonic() - sent)
        if process.returncode != 0:  # else it was through already
            assert process.returncode == {"SIGTERM": 143, "SIGINT": 130}[name], out
            assert "Traceback" not in out
            found = read_status(run_dir)
            assert (found.status, found.error) == ("interrupted", name)
            newest = checkpoint.newest(run_dir / "checkpoints")
            assert found.step == (0 if newest is None else checkpoint.step_of(newest))
        process = start(run_dir, words, steps, reached)
        out, _ = process.communicate()
        assert process.returncode == 0, out
        assert read_status(run_dir).status == "finished"
        assert logged(run_dir) == logged(whole)
        ours, theirs = parameters(run_dir), parameters(whole)
        assert all(ours[name].equal(theirs[name]) for name in theirs)
    soak.found["slowest_seconds"] = round(slowest, 2)


def test_what_was_trained_is_saved_before_the_final_evaluation(tmp_path):
    words, variables, mark = STAGES["evaluating"]
    run_dir, reached = tmp_path / "run", tmp_path / "reached"
    process = start(run_dir, words, 2 * ROLLOUT, reached, **variables)
    wait_for_stage(process, run_dir, reached, mark)
    process.kill()  # nothing can be saved any more
    process.wait()
    assert checkpoint.step_of(checkpoint.newest(run_dir / "checkpoints")) == 2 * ROLLOUT
    process = start(run_dir, words, 2 * ROLLOUT, reached)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    last = logged(run_dir)[-1]
    assert last["step"] == 2 * ROLLOUT
    assert "eval/return_mean" in last  # the evaluation was made up for


def test_a_main_thread_that_does_not_come_back_from_c_is_given_up(tmp_path):
    module = """
import ctypes, os, pathlib
from slow_stages import SlowCartPole

class Native(SlowCartPole):
    "Blocks in C, without the interpreter's lock, in its fortieth step."
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 40 and "BLOCK" in os.environ:
            mask = (ctypes.c_ulong * 16)(*[2**64 - 1] * 16)  # signals do not interrupt the wait
            libc = ctypes.CDLL(None)
            libc.pthread_sigmask(0, mask, None)
            pathlib.Path(os.environ["BLOCK"]).touch()
            libc.sleep(600)
        return super().step(action)
"""
    (tmp_path / "native.py").write_text(module)
    blocked = tmp_path / "blocked"
    words = [*CARTPOLE[:3], "env._target_=native.Native", "env.num_envs=1", "trainer.num_steps=16"]
    command = [f"run_dir={tmp_path / 'run'}", *COMMON, *words, "total_steps=100_000"]
    variables = {"BLOCK": str(blocked), "GRACE": "0.2", "FORCE": "0.4"}
    process = train(*command, path=[tmp_path], **variables)
    wait_until(lambda: blocked.exists() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 143, out
    found = read_status(tmp_path / "run")
    assert (found.status, found.error) == ("interrupted", "SIGTERM")
    saved = checkpoint.load(checkpoint.newest(tmp_path / "run" / "checkpoints"))
    assert 0 < found.step == saved["steps"] < 40


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_doctor_ends_on_a_signal(name, tmp_path):
    words = [*STAGES["steps of two seconds"][0], "doctor=true", "total_steps=100_000"]
    reached = tmp_path / "reached"
    reached.mkdir()
    variables = {"REACHED": str(reached), "DELAY": "2", "GRACE": "0.3"}
    process = train(*COMMON, *words, **variables)
    wait_until(lambda: (reached / "DELAY").exists() or process.poll() is not None)
    process.send_signal(signal.Signals[name])
    out, _ = process.communicate()
    assert process.returncode == {"SIGTERM": 143, "SIGINT": 130}[name], out
    assert "Traceback" not in out


def test_a_signal_at_any_moment_of_the_doctor_leaves_nothing_behind(soak, tmp_path):
    temporary, run_dir, shared = tmp_path / "temporary", tmp_path / "run", shared_memory()
    temporary.mkdir()
    words = [*WORKERS, "intrinsic=[count]", "intrinsic.count.bits=32", "total_steps=100_000"]
    command = [*words, "doctor=true", "doctor_seconds=1", f"run_dir={run_dir}"]

    def start_doctor():
        process = train(*command, TMPDIR=str(temporary))
        wait_until(lambda: process.poll() is not None or handles(process.pid, signal.SIGTERM))
        return process, time.monotonic()

    process, began = start_doctor()  # not disturbed, to know how long it takes
    out, _ = process.communicate()
    assert process.returncode in (0, 1), out
    whole, dice, slowest, interrupted = time.monotonic() - began, random.Random(2), 0.0, 0
    for _ in soak.times(2, 20):
        process, _ = start_doctor()
        time.sleep(dice.uniform(0, whole))  # it builds, trains, checks seeds, prints
        name = dice.choice(["SIGTERM", "SIGINT"])
        sent = time.monotonic()
        with contextlib.suppress(ProcessLookupError):  # as a terminal does: to the workers as well
            os.killpg(process.pid, signal.Signals[name])
        out, _ = process.communicate()
        slowest = max(slowest, time.monotonic() - sent)
        if "first update with every source" not in out:  # else its work was done already
            assert process.returncode == {"SIGTERM": 143, "SIGINT": 130}[name], out
            assert "Traceback" not in out
            interrupted += 1
        wait_for_end_of_group(process.pid)
        assert not run_dir.exists()
        assert list(temporary.iterdir()) == []
    wait_until(lambda: shared_memory() <= shared)
    soak.found |= {"slowest_seconds": round(slowest, 2), "interrupted": interrupted}


def test_two_commands_never_write_into_one_directory(soak, tmp_path):
    """Both are started with ``resume=auto``, as a requeued job beside one that still runs."""
    dice, refused = random.Random(1), 0
    rollouts, latest = (12, 2.0) if soak.full else (6, 1.0)
    words = [*CHAIN, *COUNT, "checkpoint.every=64"]
    whole = tmp_path / "whole"
    reached = tmp_path / "reached"
    start(whole, words, rollouts * ROLLOUT, reached).communicate()
    for i in soak.times(1, 20):
        run_dir = tmp_path / str(i)
        first = start(run_dir, words, rollouts * ROLLOUT, reached, DELAY="0.03")
        time.sleep(dice.uniform(0, latest))
        second = start(run_dir, words, rollouts * ROLLOUT, reached, DELAY="0.03")
        ends = {}
        for process, other in ((first, second), (second, first)):
            out, _ = process.communicate()
            ends[process] = process.returncode
            if process.returncode == 2:
                refused += 1
                assert f"in use by process {other.pid} on" in out
                assert "Traceback" not in out
            else:
                assert process.returncode == 0, out
        assert 0 in ends.values()
        assert read_status(run_dir).status == "finished"
        steps = [line["step"] for line in lines(run_dir)]
        assert steps == sorted(set(steps))
        assert logged(run_dir) == logged(whole)
        ours, theirs = parameters(run_dir), parameters(whole)
        assert all(ours[name].equal(theirs[name]) for name in theirs)
    soak.found["refused"] = refused


def test_the_lock_is_free_after_the_death_of_its_holder(tmp_path):
    words, reached = [*CHAIN, *COUNT], tmp_path / "reached"
    process = start(tmp_path / "run", words, 100_000, reached, DELAY="0.01")
    wait_for_stage(process, tmp_path / "run", reached, None)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process = start(tmp_path / "run", words, 2 * ROLLOUT, reached)
    out, _ = process.communicate()
    assert process.returncode == 0, out
