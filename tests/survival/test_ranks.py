"""Runs of several processes that end by a signal or lose a process, and how they go on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import CHAIN, ENDLESS, children, finish, lines, wait_for_lines, wait_until
from ranks import finish_ranks, start_ranks

from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.status import read_status

TRAIN = "firstlight.scripts.train:main"
N, T = 4, 16  # of `CHAIN`, in each process
RND = (  # networks that learn beside the policy
    *("intrinsic=[count,rnd]", "intrinsic.rnd.hidden=8", "intrinsic.rnd.embedding_dim=8"),
    "checkpoint.every=null",
)


def train(run_dir, *words, size=2):
    """Start a run in `size` processes."""
    return start_ranks(TRAIN, f"run_dir={run_dir}", *CHAIN, *RND, *words, size=size)


def newest(run_dir):
    """State of the newest checkpoint."""
    return checkpoint.load(checkpoint.newest(run_dir / "checkpoints"))


@pytest.mark.parametrize(
    "words",
    [
        ("learner=ppo", f"total_steps={10 * 2 * N * T}"),
        ("learner=appo", "stop_at=-1", ENDLESS),  # a callback of rank 0 ends it
    ],
    ids=["ppo", "appo"],
)
def test_rank_0_alone_writes_and_steps_are_those_of_both(words, tmp_path):
    first, second = finish_ranks(train(tmp_path, *words))
    steps = [line["step"] for line in lines(tmp_path)]
    assert len(steps) >= 10
    assert steps == [2 * N * T * i for i in range(1, len(steps) + 1)]
    assert len([*tmp_path.glob("events.*")]) == 1
    assert "2 processes" in first
    assert second == ""
    found = read_status(tmp_path)
    assert (found.status, found.resume) == ("finished", "dropped")
    assert newest(tmp_path)["processes"] == 2


def test_a_process_that_is_killed_ends_the_others_with_a_checkpoint(tmp_path):
    first, second = train(tmp_path, ENDLESS)
    wait_for_lines(first, tmp_path, 3)
    second.kill()
    out, _ = first.communicate()
    assert first.returncode == 1, out
    assert "CollectiveError: another process of the run has ended" in out
    assert read_status(tmp_path).status == "failed"
    saved = newest(tmp_path)["steps"]
    assert 0 < saved <= lines(tmp_path)[-1]["step"]

    total = lines(tmp_path)[-1]["step"] + 4 * N * T
    finish_ranks(train(tmp_path, f"total_steps={total}", "resume=auto"))
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == [*range(2 * N * T, total + 1, 2 * N * T)]  # none twice, none missing
    assert lines(tmp_path)[-1]["rollout/dropped"] == 2 * N


def test_a_signal_to_one_process_ends_all_after_the_same_iteration(tmp_path):
    processes = train(tmp_path, ENDLESS)
    wait_for_lines(processes[0], tmp_path, 3)
    processes[1].send_signal(signal.SIGTERM)
    finish_ranks(processes, status=143)
    found = read_status(tmp_path)
    assert (found.status, found.error) == ("interrupted", "SIGTERM")
    assert newest(tmp_path)["steps"] == found.step == lines(tmp_path)[-1]["step"]

    total = found.step + 4 * N * T  # by one process, whose iterations are half as large
    finish(tmp_path, *CHAIN, *RND, f"total_steps={total}", "resume=auto")
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps[-4:] == [total - (3 - i) * N * T for i in range(4)]
    assert lines(tmp_path)[-1]["rollout/dropped"] == 2 * N


def is_worker(pid):
    """Whether a process runs the command, and not torchrun or a helper of its own."""
    path = Path(f"/proc/{pid}/cmdline")
    words = path.read_bytes().split(b"\0") if path.exists() else []
    return b"-u" in words[:2] and any(word.endswith(b"firstlight-train") for word in words)


def test_bad_input_ends_all_processes_and_writes_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("of another run")
    first, second = train(tmp_path, ENDLESS)
    out, _ = first.communicate()
    assert first.returncode == 2
    assert "already holds a run" in out
    second.communicate()
    assert second.returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_torchrun_starts_the_command_and_passes_a_signal_on(soak, tmp_path):
    """In a soak it also starts all processes again after the death of each of them."""
    folder = Path(sys.executable).parent
    process = subprocess.Popen(
        [
            *(folder / "torchrun", "--standalone", "--nproc-per-node=2", "--max-restarts=9"),
            *(folder / "firstlight-train", f"run_dir={tmp_path}", "resume=auto"),
            *(*CHAIN, *RND, "checkpoint.every=640", ENDLESS),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    for i in soak.times(0, 6):
        wait_for_lines(process, tmp_path, len(lines(tmp_path)) + 20)
        workers = [pid for pid in children(process.pid) if is_worker(pid)]
        assert len(workers) == 2
        os.kill(workers[i % 2], signal.SIGKILL)
        wait_until(lambda workers=workers: not any(map(is_worker, workers)))
    wait_for_lines(process, tmp_path, len(lines(tmp_path)) + 2)
    process.terminate()
    out, _ = process.communicate()
    assert process.returncode != 0
    found = read_status(tmp_path)
    assert (found.status, found.error) == ("interrupted", "SIGTERM"), out
    assert newest(tmp_path)["steps"] == found.step == lines(tmp_path)[-1]["step"]
    assert found.step % (2 * N * T) == 0
