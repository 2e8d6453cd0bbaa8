"""Real signals at any moment: the run is saved, the status is right, and nothing is left behind."""

import os
import random
import signal
import threading
import time

import pytest
from processes import (
    CHAIN,
    ENDLESS,
    WORKERS,
    lines,
    shared_memory,
    start,
    start_cold,
    wait_for_end_of_group,
    wait_for_lines,
    wait_for_output,
    wait_until,
)

from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.status import read_status
from firstlight.agents.session.signals import Signals


@pytest.mark.parametrize(
    ("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_at_any_moment_saves_and_leaves_nothing_behind(soak, name, status, tmp_path):
    dice, shared, slowest = random.Random(name), shared_memory(), 0.0
    for i in soak.times(1, 20):
        run_dir = tmp_path / str(i)
        process = start(run_dir, *WORKERS, ENDLESS)
        wait_for_lines(process, run_dir)
        time.sleep(dice.uniform(0, 0.5))  # any moment of an iteration
        sent = time.monotonic()
        os.killpg(process.pid, signal.Signals[name])  # as a terminal does: to the workers as well
        out, _ = process.communicate()
        slowest = max(slowest, time.monotonic() - sent)
        assert process.returncode == status, out
        wait_for_end_of_group(process.pid)
        found = read_status(run_dir)
        assert found.status == "interrupted"
        assert found.resume == "replay"
        saved = checkpoint.load(checkpoint.newest(run_dir / "checkpoints"))
        assert saved["steps"] == found.step == lines(run_dir)[-1]["step"]
    wait_until(lambda: shared_memory() <= shared)
    soak.found["slowest_seconds"] = round(slowest, 2)


def test_a_signal_before_the_first_iteration_leaves_nothing_behind(soak, tmp_path):
    dice = random.Random(4)
    for i in soak.times(1, 20):
        process = start_cold(tmp_path / str(i), *WORKERS, ENDLESS)
        time.sleep(dice.uniform(0.1, 4.0))  # any moment of imports and construction
        os.killpg(process.pid, signal.SIGTERM)
        out, _ = process.communicate()
        # negative: before Python has installed a handler
        assert process.returncode in (143, -signal.SIGTERM), out
        wait_for_end_of_group(process.pid)


def test_a_signal_saves_when_nobody_reads_the_output(tmp_path):
    process = start(tmp_path, *WORKERS, ENDLESS)
    wait_for_lines(process, tmp_path)
    process.stdout.close()  # as when Ctrl-C ends the `tee` behind it as well
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    wait_for_end_of_group(process.pid)
    assert read_status(tmp_path).status == "interrupted"
    assert read_status(tmp_path).error == "SIGINT"
    assert checkpoint.newest(tmp_path / "checkpoints") is not None


STUCK = """
import os, pathlib, time
from gymnasium.envs.classic_control import CartPoleEnv

class Stuck(CartPoleEnv):
    "Never ends its hundredth step."
    steps = 0

    def step(self, action):
        self.steps += 1
        while self.steps == 100:
            pathlib.Path(os.environ["STUCK"]).touch()
            time.sleep(1)
        return super().step(action)
"""


def test_a_second_signal_does_not_wait_for_the_iteration(tmp_path):
    (tmp_path / "stuck.py").write_text(STUCK)
    run_dir, stuck = tmp_path / "run", tmp_path / "stuck"
    words = ("env=custom", "env._target_=stuck.Stuck", "env.num_envs=1", "trainer.num_steps=64")
    process = start(run_dir, *words, ENDLESS, path=[tmp_path], STUCK=str(stuck))
    wait_until(stuck.exists)
    process.send_signal(signal.SIGINT)
    wait_for_output(process, "SIGINT: saving after this iteration")
    assert process.poll() is None  # the iteration is not over
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 143, out
    assert read_status(run_dir).status == "interrupted"
    assert checkpoint.newest(run_dir / "checkpoints") is None


def test_sigusr1_saves_and_ends_the_run(tmp_path):
    process = start(tmp_path, *CHAIN, "checkpoint.every=null", ENDLESS)
    wait_for_lines(process, tmp_path)
    process.send_signal(signal.SIGUSR1)  # as Slurm does before the time is up
    out, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGUSR1, out
    found = read_status(tmp_path)
    assert found.status == "interrupted"
    saved = checkpoint.load(checkpoint.newest(tmp_path / "checkpoints"))
    assert saved["steps"] == found.step


def test_sigusr1_does_not_hide_an_earlier_sigterm():
    with pytest.raises(SystemExit) as ended, Signals() as signals:  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert signals.received == signal.SIGTERM
        signals.dispatch()
    assert ended.value.code == 143


def test_an_earlier_handler_is_called_after_the_save():
    calls = []
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: calls.append(signum))
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGUSR2)
            assert (signals.received, calls) == (signal.SIGUSR2, [])
            signals.dispatch()
            assert (signals.received, calls) == (None, [signal.SIGUSR2])
            signal.raise_signal(signal.SIGUSR2)  # and once more, as for a job that was requeued
            assert (signals.received, calls) == (signal.SIGUSR2, [signal.SIGUSR2])
        signal.raise_signal(signal.SIGUSR2)
        assert calls == [signal.SIGUSR2] * 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_the_thread_has_ended_on_leaving_even_if_a_forked_process_holds_its_pipe_open():
    def running():
        return [thread for thread in threading.enumerate() if thread.name == "firstlight-signals"]

    reader, writer = os.pipe()
    with Signals():
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent closes the pipe
            os._exit(0)
        assert len(running()) == 1
    assert not running()
    os.close(reader)
    os.close(writer)
    os.waitpid(pid, 0)
