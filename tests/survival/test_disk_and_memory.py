"""A disk that is really full, and a GPU that seems to be."""

import signal
import subprocess

import pytest
from processes import CHAIN, ENDLESS, finish, lines, start, wait_for_lines, wait_until

from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.status import read_status


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path, block):
    """Write a file, `block` bytes at a time, until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * block) == block:
                pass
        except OSError:
            pass


def test_a_full_disk_stops_the_logs_and_not_the_training(tiny_disk):
    run_dir, ballast = tiny_disk / "run", tiny_disk / "ballast"
    process = start(run_dir, *CHAIN, "checkpoint.every=1280", ENDLESS)
    wait_for_lines(process, run_dir)
    wait_until(lambda: checkpoint.newest(run_dir / "checkpoints") is not None)
    fill(ballast, 4096)
    saved, step = checkpoint.newest(run_dir / "checkpoints"), lines(run_dir)[-1]["step"]
    missing = {"no checkpoint at step", "metrics are being dropped"}
    for line in process.stdout:
        missing = {words for words in missing if words not in line}
        if not missing:
            break
    assert process.poll() is None
    assert not missing
    assert len(lines(run_dir)) > 0  # every line is whole
    loaded = checkpoint.load(checkpoint.newest(run_dir / "checkpoints"))
    assert loaded["steps"] >= checkpoint.step_of(saved)
    ballast.unlink()
    wait_until(lambda: lines(run_dir)[-1].get("perf/dropped_logs", 0) >= 1)
    assert lines(run_dir)[-1]["step"] > step
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 143, out
    assert checkpoint.load(checkpoint.newest(run_dir / "checkpoints"))["steps"] > step


def test_a_run_without_room_for_its_last_checkpoint_fails_and_keeps_the_one_before(tiny_disk):
    run_dir, ballast = tiny_disk / "run", tiny_disk / "ballast"
    finish(run_dir, *CHAIN, "total_steps=640")
    saved = checkpoint.newest(run_dir / "checkpoints")
    ballast.touch()
    fill(ballast, 512)
    with ballast.open("ab", buffering=0) as file:
        file.truncate(file.tell() - 12288)  # room for metrics.jsonl to be rewritten, no more
    process = start(run_dir, *CHAIN, "total_steps=1280", "resume=auto")
    out, _ = process.communicate()
    assert process.returncode in (1, 2)
    assert "No space left on device" in out
    assert checkpoint.newest(run_dir / "checkpoints") == saved
    assert checkpoint.load(saved)["steps"] == checkpoint.step_of(saved)


SCARCE = """
import torch
from firstlight.agents import PPO

class Scarce(PPO):
    "Runs out of memory from the fourth update on."
    updates = 0

    def update(self, *args):
        self.updates += 1
        return super().update(*args)

    def _add_gradients(self, *args, **options):
        if self.updates > 3:
            raise torch.OutOfMemoryError("a stand-in for a full GPU")
        return super()._add_gradients(*args, **options)
"""


def test_out_of_memory_saves_and_ends_with_75(tmp_path):
    (tmp_path / "scarce.py").write_text(SCARCE)
    run_dir = tmp_path / "run"
    words = ["learner._target_=scarce.Scarce", ENDLESS]
    out = finish(run_dir, *CHAIN, *words, path=[tmp_path], status=75)
    assert "OutOfMemoryError: a stand-in for a full GPU" in out
    assert read_status(run_dir).status == "failed"
    saved = checkpoint.load(checkpoint.newest(run_dir / "checkpoints"))
    assert saved["steps"] == read_status(run_dir).step
