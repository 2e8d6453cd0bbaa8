"""Real signals, real kills and a disk that is really full, against the command itself."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit
import torch

from firstlight.agents.session import checkpoint
from firstlight.agents.session.signals import Signals
from firstlight.agents.session.status import read_status

COMMAND = [sys.executable, "-P", "-m", "firstlight.scripts.train"]
CHAIN = [
    "env=chain",
    "intrinsic=[count]",
    "learner.minibatch_size=64",
    "trainer.num_steps=16",
    "eval_episodes=4",
    "eval_every=null",
    "checkpoint.every=3000",
]
WORKERS = [
    "env=gym",
    "env.id=CartPole-v1",
    "env.num_envs=2",
    "env.asynchronous=true",
    "trainer.num_steps=64",
    "eval_episodes=2",
    "eval_every=null",
]


def start(run_dir, *words, **options):
    """The command in a session of its own, as from a terminal that listens to Ctrl-C."""
    return subprocess.Popen(
        [*COMMAND, f"run_dir={run_dir}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def wait_for_lines(process, run_dir, count=1):
    """Wait until the run has written as many lines."""
    path, deadline = Path(run_dir) / "metrics.jsonl", time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def logged(run_dir):
    return [
        {k: v for k, v in line.items() if k != "time" and not k.startswith("perf/")}
        for line in lines(run_dir)
    ]


def soon(holds, seconds=5.0):
    """Whether `holds()` comes true."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def gone(group):
    """Whether no process of a group is left, soon."""

    def is_gone():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    return soon(is_gone)


def shared_memory():
    """What Python and torch left there; other programs use it too, for a while."""
    ours = ("pym-", "psm_", "torch_")
    return {name for name in os.listdir("/dev/shm") if name.startswith(ours)}


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(soak, tmp_path):
    total = f"total_steps={60_000 if soak.full else 20_000}"
    subprocess.run([*COMMAND, f"run_dir={tmp_path / 'whole'}", total, *CHAIN], check=True)
    killed, stood, kills = tmp_path / "killed", 0, 0
    dice = random.Random(1)
    for _ in soak.times(3, 20):
        process = start(killed, total, *CHAIN, "resume=auto")
        written = len(lines(killed)) if (killed / "metrics.jsonl").exists() else 0
        wait_for_lines(process, killed, written + 1)
        time.sleep(dice.uniform(0, 0.4))
        kills += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        newest = checkpoint.newest(killed / "checkpoints")
        if newest is not None:
            state = checkpoint.load(newest)
            assert state["steps"] >= stood
            stood = state["steps"]
    done = subprocess.run(
        [*COMMAND, f"run_dir={killed}", total, *CHAIN, "resume=auto"], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert logged(killed) == logged(tmp_path / "whole")
    soak.found["kills_of_a_living_run"] = kills


def save_for_ever(folder, step, pipe):
    state = {"weights": torch.arange(500_000), "steps": step}
    for number in range(step, step + 1000):
        pipe.send(number)
        checkpoint.save(folder, {**state, "steps": number}, number)
        pipe.send(-number)


def test_a_kill_inside_a_save_leaves_the_save_before_it(soak, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["firstlight.agents.session.checkpoint"])
    dice, finished, inside = random.Random(2), 1, 0
    checkpoint.save(tmp_path, {"weights": torch.arange(500_000), "steps": 1}, 1)
    for _ in soak.times(50, 200):
        here, there = context.Pipe()
        child = context.Process(target=save_for_ever, args=(tmp_path, finished + 1, there))
        child.start()
        told = 0
        for _ in range(dice.randint(1, 3)):  # the kill falls into the first, second or third
            while told <= 0:
                told = here.recv()
            begun, told = told, 0
        time.sleep(dice.uniform(0, 0.012))
        child.kill()
        child.join()
        there.close()
        while here.poll():
            try:
                told = here.recv()
            except EOFError:
                break
        finished = max(finished, -told if told < 0 else (told or begun) - 1)
        inside += told >= 0
        state = checkpoint.load(checkpoint.newest(tmp_path))
        assert state["steps"] in (finished, finished + 1)
        assert torch.equal(state["weights"], torch.arange(500_000))
        finished = state["steps"]
        here.close()
    assert inside >= soak.repeats / 3
    soak.found["inside_a_save"] = inside


@pytest.mark.parametrize(
    ("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_at_any_moment_saves_and_leaves_nothing_behind(soak, name, status, tmp_path):
    dice, shared, slowest = random.Random(name), shared_memory(), 0.0
    for i in soak.times(3, 20):
        run_dir = tmp_path / str(i)
        process = start(run_dir, *WORKERS, "total_steps=100_000_000")
        wait_for_lines(process, run_dir)
        time.sleep(dice.uniform(0, 0.7))
        sent = time.monotonic()
        os.killpg(process.pid, signal.Signals[name])  # as a terminal does: to the workers as well
        out, _ = process.communicate(timeout=30)
        slowest = max(slowest, time.monotonic() - sent)
        assert process.returncode == status, out
        assert gone(process.pid), out
        told = read_status(run_dir)
        assert told.status == "interrupted"
        assert told.resume == "replay"
        saved = checkpoint.load(checkpoint.newest(run_dir / "checkpoints"))
        assert saved["steps"] == told.step == lines(run_dir)[-1]["step"]
    assert soon(lambda: shared_memory() <= shared)
    soak.found["slowest_seconds"] = round(slowest, 2)


def test_a_signal_before_the_first_iteration_leaves_nothing_behind(soak, tmp_path):
    dice = random.Random(4)
    for i in soak.times(4, 20):
        process = start(tmp_path / str(i), *WORKERS, "total_steps=100_000_000")
        time.sleep(dice.uniform(0.1, 4.0))
        os.killpg(process.pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        assert process.returncode in (143, -signal.SIGTERM), out  # before or after Python listens
        assert gone(process.pid), out


def test_a_signal_when_nobody_reads_the_output_any_more_saves_too(tmp_path):
    process = start(tmp_path, *WORKERS, "total_steps=100_000_000")
    wait_for_lines(process, tmp_path)
    process.stdout.close()  # as when Ctrl-C ends the `tee` behind it as well
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert gone(process.pid)
    assert read_status(tmp_path).status == "interrupted"
    assert read_status(tmp_path).error == "SIGINT"
    assert checkpoint.newest(tmp_path / "checkpoints") is not None


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["env._target_=worlds.Broken"], 1, "RuntimeError: the hundredth step"),
        (["encoder=grid"], 2, "firstlight: "),
        (["env._target_=worlds.make", "learner.lr=oops"], 2, "firstlight: "),
    ],
    ids=["in a step", "in the encoder", "in the learner"],
)
def test_an_error_ends_the_workers_too(words, status, said, tmp_path):
    (tmp_path / "worlds.py").write_text(BROKEN)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    target = ["env._target_=worlds.make"]
    process = start(tmp_path / "run", *WORKERS, *target, *words, "total_steps=9999", env=path)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == status, out
    assert said in out
    assert gone(process.pid), out


BROKEN = """
import functools
from firstlight.envs.vector.gym import GymVec
from gymnasium.envs.classic_control import CartPoleEnv

class World(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 100 and self.breaks:
            raise RuntimeError("the hundredth step")
        return super().step(action)

class Sound(World):
    breaks = False

class Unsound(World):
    breaks = True

def make(id, num_envs, **options):
    return GymVec([Sound] * num_envs, asynchronous=True)

def Broken(id, num_envs, **options):
    return GymVec([Sound] + [Unsound] * (num_envs - 1), asynchronous=True)
"""


def test_workers_do_not_outlive_a_run_that_was_killed(tmp_path):
    shared = shared_memory()
    process = start(tmp_path, *WORKERS, "total_steps=100_000_000")
    wait_for_lines(process, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    assert gone(process.pid)
    assert soon(lambda: shared_memory() <= shared)


SLOW = """
import time, gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Slow(CartPoleEnv):
    "Takes a minute for its hundredth step."
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 100:
            stuck_here()
        return super().step(action)

def stuck_here():
    time.sleep(60)
"""


def slow(run_dir, tmp_path, *words):
    (tmp_path / "slow_world.py").write_text(SLOW)
    words = ("env=custom", "env._target_=slow_world.Slow", "env.num_envs=1", *words)
    options = ("trainer.num_steps=64", "eval_episodes=1", "eval_every=null", "total_steps=5000")
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    return start(run_dir, *words, *options, env=path)


def test_a_second_signal_does_not_wait(tmp_path):
    process = slow(tmp_path / "run", tmp_path)
    wait_for_lines(process, tmp_path / "run")
    time.sleep(0.5)  # now it is in its long step
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # the iteration at hand is not over
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 143, out
    assert "SIGINT: saving after this iteration" in out
    assert read_status(tmp_path / "run").status == "interrupted"
    assert checkpoint.newest(tmp_path / "run" / "checkpoints") is None


def test_a_stage_that_stalls_shows_where_and_goes_on(tmp_path):
    process = slow(tmp_path / "run", tmp_path, "stall_after=1")
    wait_for_lines(process, tmp_path / "run")
    time.sleep(2.5)
    assert process.poll() is None
    process.kill()
    out, _ = process.communicate()
    assert "Timeout (0:00:01)!" in out
    assert out.count("in stuck_here") >= 2  # again and again, as long as it lasts
    assert "in collect" in out


def test_a_warning_of_slurm_saves_and_ends(tmp_path):
    process = start(tmp_path, *CHAIN, "total_steps=100_000_000")
    wait_for_lines(process, tmp_path)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGUSR1, out
    assert read_status(tmp_path).status == "interrupted"
    assert checkpoint.newest(tmp_path / "checkpoints") is not None


def test_a_warning_does_not_hide_that_the_end_was_asked_for():
    with pytest.raises(SystemExit) as ended, Signals() as signals:  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert signals.received == signal.SIGTERM
        signals.obey()
    assert ended.value.code == 143


def test_whoever_listened_before_is_told_after_the_save():
    told = []
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: told.append(signum))
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGUSR2)
            assert (signals.received, told) == (signal.SIGUSR2, [])
            signals.obey()
            assert (signals.received, told) == (None, [signal.SIGUSR2])
            signal.raise_signal(signal.SIGUSR2)  # and once more, as for a job that was requeued
            assert (signals.received, told) == (signal.SIGUSR2, [signal.SIGUSR2])
        signal.raise_signal(signal.SIGUSR2)
        assert told == [signal.SIGUSR2] * 2
    finally:
        signal.signal(signal.SIGUSR2, before)


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


NAPS = """
import os, time
from firstlight.envs.worlds.chain import Chain

class Naps(Chain):
    "Takes its time, if it is told to."

    def step(self, action):
        time.sleep(float(os.environ.get("NAP", 0)))
        return super().step(action)
"""


def test_a_job_of_submitit_is_requeued_and_goes_on(tmp_path, monkeypatch):
    (tmp_path / "naps.py").write_text(NAPS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    words = [*CHAIN, "env._target_=naps.Naps", "total_steps=4800", "resume=auto"]
    subprocess.run([*COMMAND, f"run_dir={tmp_path / 'whole'}", *words], check=True)
    monkeypatch.setenv("NAP", "0.03")  # 300 steps take nine seconds and more
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=60)
    job = executor.submit(Job(f"run_dir={tmp_path / 'job'}", *words))
    for count in (1, 4):  # lines; it is preempted twice
        wait_for_lines(job._process, tmp_path / "job", count)
        (task,) = children(job._process.pid)
        os.kill(task, signal.SIGUSR2)  # as submitit has Slurm do
        while children(job._process.pid) == [task]:
            time.sleep(0.05)
    job.result()
    assert (job.stderr() + job.stdout()).count(" - Requeued job") == 2
    assert logged(tmp_path / "job") == logged(tmp_path / "whole")
    assert read_status(tmp_path / "job").status == "finished"


def test_out_of_memory_ends_with_75(tmp_path):
    (tmp_path / "scarce.py").write_text(SCARCE)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = ["learner._target_=scarce.Scarce", "total_steps=20_000", "eval_every=null"]
    process = start(tmp_path / "run", *CHAIN, *words, env=path)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert "OutOfMemoryError: a stand-in for a full GPU" in out
    assert read_status(tmp_path / "run").status == "failed"
    saved = checkpoint.load(checkpoint.newest(tmp_path / "run" / "checkpoints"))
    assert saved["steps"] == read_status(tmp_path / "run").step


SCARCE = """
import torch
from firstlight.agents import PPO

class Scarce(PPO):
    "A GPU that is full from the fourth update on."
    updates = 0

    def update(self, *args):
        self.updates += 1
        return super().update(*args)

    def _loss(self, *args, **options):
        if self.updates > 3:
            raise torch.OutOfMemoryError("a stand-in for a full GPU")
        return super()._loss(*args, **options)
"""


def test_tensorboard_is_shown_to_this_machine_only():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    recipe = makefile.partition("\ntensorboard:")[2].partition("\n\n")[0]
    assert recipe.count("bin/tensorboard") + recipe.count("$(BIN)/tensorboard") == 1
    assert "--host 127.0.0.1" in recipe
    assert "--bind_all" not in recipe


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MB."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_stops_the_logs_and_not_the_training(tiny_disk):
    run_dir = tiny_disk / "run"
    words = [*CHAIN, "checkpoint.every=6000"]
    process = start(run_dir, *words, "total_steps=100_000_000")
    wait_for_lines(process, run_dir)
    while checkpoint.newest(run_dir / "checkpoints") is None:
        time.sleep(0.05)
    ballast = tiny_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:  # now somebody else takes the rest
        try:
            while file.write(b"0" * 4096) == 4096:
                pass
        except OSError:
            pass
    stood, step = checkpoint.newest(run_dir / "checkpoints"), lines(run_dir)[-1]["step"]
    wanted = {"no checkpoint at step", "metrics are being dropped"}
    for said in process.stdout:
        wanted = {words for words in wanted if words not in said}
        if not wanted:
            break
    assert process.poll() is None
    assert not wanted
    assert len(lines(run_dir)) > 0  # every line is whole
    loaded = checkpoint.load(checkpoint.newest(run_dir / "checkpoints"))
    assert loaded["steps"] >= checkpoint.step_of(stood)
    ballast.unlink()
    deadline = time.monotonic() + 20
    while lines(run_dir)[-1].get("perf/dropped_logs", 0) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert lines(run_dir)[-1]["step"] > step
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143, out
    assert checkpoint.load(checkpoint.newest(run_dir / "checkpoints"))["steps"] > step


def test_a_run_whose_last_checkpoint_has_no_room_fails_and_keeps_the_one_before(tiny_disk):
    run_dir = tiny_disk / "run"
    subprocess.run([*COMMAND, f"run_dir={run_dir}", *CHAIN, "total_steps=4000"], check=True)
    stood = checkpoint.newest(run_dir / "checkpoints")
    (tiny_disk / "ballast").write_bytes(b"")
    with (tiny_disk / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 512) == 512:
                pass
        except OSError:
            pass
    with (tiny_disk / "ballast").open("ab", buffering=0) as file:
        file.truncate(file.tell() - 8192)  # room for metrics.jsonl to be rewritten, no more
    done = subprocess.run(
        [*COMMAND, f"run_dir={run_dir}", *CHAIN, "total_steps=6000", "resume=auto"],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert "No space left on device" in done.stdout + done.stderr
    assert checkpoint.newest(run_dir / "checkpoints") == stood
    assert checkpoint.load(stood)["steps"] == checkpoint.step_of(stood)


def children(pid):
    """All that came of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(n) for n in path.read_text().split()] if path.exists() else []
    return [*found, *(n for child in found for n in children(child))]


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
    ],
    "a pool of NetHacks": [
        *("env=nethack/score", "env.backend=pool", "env.num_workers=2", "env.num_envs=4"),
        *("env.max_episode_steps=500", "encoder=nethack", "trainer.num_steps=32", "intrinsic=[]"),
    ],
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("words", LONG.values(), ids=LONG)
def test_a_long_run_neither_grows_nor_leaks(words, soak, tmp_path):
    shared, samples = shared_memory(), []
    often = ["checkpoint.every=20000", "eval_every=50000", "eval_episodes=8", "stall_after=60"]
    process = start(tmp_path, *words, *often, "total_steps=1_000_000_000")
    wait_for_lines(process, tmp_path, 3)
    minutes = 30.0 if soak.full else 0.15
    for _ in soak.times(9, 1800):
        assert process.poll() is None, process.stdout.read()
        samples.append(memory(process.pid))
        time.sleep(minutes * 60 / soak.repeats)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143, out
    resident, files = zip(*samples[len(samples) // 3 :], strict=True)
    half = len(resident) // 2
    growth = (sum(resident[-half:]) - sum(resident[:half])) / half
    per_minute = growth / (minutes * 2 / 3 / 2)
    soak.found |= {"mb_per_minute": round(per_minute, 3), "mb": round(resident[-1])}
    assert gone(process.pid)
    assert soon(lambda: shared_memory() <= shared)
    assert max(files) - min(files) <= 2  # one that is being written
    assert per_minute < 1 if soak.full else growth < 30
