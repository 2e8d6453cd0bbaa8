"""A job that Slurm takes from its machine is saved, queued again by submitit, and goes on."""

import os
import signal
import sys

import submitit
from processes import CHAIN, children, finish, logged, module_path, wait_for_lines, wait_until

from firstlight.agents.session.run_directory.status import read_status


class Job:
    """What Hydra's submitit launcher submits: the command, and itself again when its time is up."""

    def __init__(self, *words):
        self.words = words

    def __call__(self):
        sys.argv = ["firstlight-train", *self.words]
        from firstlight.scripts.train import main

        main()

    def checkpoint(self):
        return submitit.helpers.DelayedSubmission(self)


HELD = """
import os, time
from firstlight.envs.worlds.chain import Chain

class Held(Chain):
    "Waits in its twentieth step as long as a file exists."
    steps = 0

    def step(self, action):
        self.steps += 1
        while self.steps == 20 and os.path.exists(os.environ["HELD"]):
            time.sleep(0.01)
        return super().step(action)
"""


def test_a_job_of_submitit_is_requeued_and_goes_on(soak, tmp_path, monkeypatch):
    (tmp_path / "held.py").write_text(HELD)
    held = tmp_path / "held"
    preemptions = soak.times(1, 5)
    total = f"total_steps={64 * 3 * (soak.repeats + 1)}"
    words = [*CHAIN, "env._target_=held.Held", total, "resume=auto"]
    finish(tmp_path / "whole", *words, path=[tmp_path], HELD=str(held))
    monkeypatch.setenv("PYTHONPATH", module_path([tmp_path]))
    monkeypatch.setenv("HELD", str(held))
    held.touch()
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=60)
    job = executor.submit(Job(f"run_dir={tmp_path / 'job'}", *words))
    for count in preemptions:
        wait_for_lines(job._process, tmp_path / "job", 2 * count + 1)
        (task,) = children(job._process.pid)
        os.kill(task, signal.SIGUSR2)  # as submitit has Slurm do
        held.unlink()
        wait_until(lambda task=task: children(job._process.pid) != [task])
        if count + 1 < soak.repeats:
            held.touch()
    job.result()
    assert (job.stderr() + job.stdout()).count(" - Requeued job") == soak.repeats
    assert logged(tmp_path / "job") == logged(tmp_path / "whole")
    assert read_status(tmp_path / "job").status == "finished"
