"""A long run holds as much memory and as many files at its end as at its beginning."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import (
    children,
    lines,
    shared_memory,
    start,
    wait_for_end_of_group,
    wait_for_lines,
    wait_until,
)

MINUTES = 30.0


def memory(pid):
    """Resident megabytes and open files of a process and its children."""
    resident = files = 0
    for number in (pid, *children(pid)):
        pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
        resident += pages * os.sysconf("SC_PAGESIZE")
        files += len(os.listdir(f"/proc/{number}/fd"))
    return resident / 2**20, files


LONG = {
    "chain": [
        *("env=chain", "env.length=24", "intrinsic=[count,rnd]"),
        *("intrinsic.rnd.embedding_dim=8", "intrinsic.rnd.warmup_steps=16"),
        *("trainer.num_steps=16", "learner.num_epochs=1", "checkpoint.every=2000"),
    ],
    "a pool of NetHacks": [
        *("env=nethack/score", "env.backend=pool", "env.num_workers=2", "env.num_envs=4"),
        *("env.max_episode_steps=500", "trainer.num_steps=16", "intrinsic=[]"),
        *("encoder=nethack", "encoder.hidden=16", "encoder.whole_map=false"),
        *("learner.num_epochs=1", "checkpoint.every=512"),
    ],
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("words", LONG.values(), ids=LONG)
def test_a_long_run_neither_grows_nor_leaks(words, soak, tmp_path):
    shared, samples = shared_memory(), []
    often = ["eval_every=50000", "stall_after=60"]
    often += ["eval_episodes=8", "checkpoint.every=20000"] if soak.full else ["eval_episodes=1"]
    process = start(tmp_path, *words, *often, "total_steps=1_000_000_000")
    wait_for_lines(process, tmp_path, 3)
    for _ in soak.times(6, 1800):
        assert process.poll() is None, process.stdout.read()
        samples.append(memory(process.pid))
        if soak.full:
            time.sleep(MINUTES * 60 / soak.repeats)
        else:
            wait_for_lines(process, tmp_path, len(lines(tmp_path)) + 4)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 143, out
    resident, files = zip(*samples[len(samples) // 3 :], strict=True)
    half = len(resident) // 2
    growth = (sum(resident[-half:]) - sum(resident[:half])) / half
    per_minute = growth / (MINUTES * 2 / 3 / 2)
    if soak.full:
        soak.found |= {"mb_per_minute": round(per_minute, 3), "mb": round(resident[-1])}
    wait_for_end_of_group(process.pid)
    wait_until(lambda: shared_memory() <= shared)
    assert max(files) - min(files) <= 2  # one that is being written
    assert per_minute < 1 if soak.full else growth < 30
