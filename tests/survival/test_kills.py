"""Real SIGKILLs: a run goes on as if nothing had happened, and its workers end with it."""

import os
import random
import signal
import time

import torch
from processes import (
    CHAIN,
    ENDLESS,
    WORKERS,
    finish,
    fork,
    lines,
    logged,
    shared_memory,
    start,
    wait_for_end_of_group,
    wait_for_lines,
    wait_until,
)

from firstlight.agents.session.run_directory import checkpoint


def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(soak, tmp_path):
    total = f"total_steps={64 * (2000 if soak.full else 100)}"
    finish(tmp_path / "whole", total, *CHAIN)
    killed, saved, kills = tmp_path / "killed", 0, 0
    dice = random.Random(1)
    for _ in soak.times(2, 20):
        process = start(killed, total, *CHAIN, "resume=auto")
        wait_for_lines(process, killed, len(lines(killed)) + 1)
        time.sleep(dice.uniform(0, 0.3))
        kills += process.poll() is None
        process.kill()
        process.communicate()
        newest = checkpoint.newest(killed / "checkpoints")
        if newest is not None:
            steps = checkpoint.load(newest)["steps"]
            assert steps >= saved
            saved = steps
    finish(killed, total, *CHAIN, "resume=auto")
    assert logged(killed) == logged(tmp_path / "whole")
    assert kills
    soak.found["kills_of_a_living_run"] = kills


SAVES = """
import sys
import torch
from firstlight.agents.session.run_directory import checkpoint

def save_for_ever():
    folder, first = sys.argv[1], int(sys.argv[2])
    for number in range(first, first + 1000):
        print("begin", number, flush=True)
        checkpoint.save(folder, {"weights": torch.arange(500_000), "steps": number}, number)
        print("end", number, flush=True)
"""


def test_a_kill_inside_a_save_leaves_the_checkpoint_before_it(soak, tmp_path):
    (tmp_path / "saves.py").write_text(SAVES)
    folder = tmp_path / "checkpoints"
    dice, finished, inside = random.Random(2), 1, 0
    checkpoint.save(folder, {"weights": torch.arange(500_000), "steps": 1}, 1)
    for _ in soak.times(10, 200):
        child = fork("saves:save_for_ever", folder, finished + 1, path=[tmp_path])
        for _ in range(dice.randint(1, 3)):  # the kill comes in the first, second or third save
            while not (said := child.stdout.readline()).startswith("begin"):
                assert said
        time.sleep(dice.uniform(0, 0.012))  # any moment of a save
        child.kill()
        last, number = [said, *child.communicate()[0].splitlines()][-1].split()
        inside += last == "begin"
        finished = int(number) - (last == "begin")
        state = checkpoint.load(checkpoint.newest(folder))
        assert state["steps"] in (finished, finished + 1)
        assert torch.equal(state["weights"], torch.arange(500_000))
        finished = state["steps"]
    assert inside >= soak.repeats / 3
    soak.found["inside_a_save"] = inside


def test_workers_end_when_the_training_process_is_killed(tmp_path):
    shared = shared_memory()
    process = start(tmp_path, *WORKERS, ENDLESS)
    wait_for_lines(process, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_end_of_group(process.pid)
    wait_until(lambda: shared_memory() <= shared)
