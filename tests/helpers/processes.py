"""Start training commands in new processes, and wait for their output and files."""

import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-P", "-m", "firstlight.scripts.train"]
CHAIN = [  # iterations of a few milliseconds
    *("env=chain", "env.num_envs=4", "trainer.num_steps=16", "intrinsic=[count]"),
    *("learner.minibatch_size=64", "learner.num_epochs=1"),
    *("eval_episodes=4", "eval_every=null", "checkpoint.every=640"),
]
WORKERS = [  # environments in processes of their own
    *("env=gym", "env.id=CartPole-v1", "env.num_envs=2", "env.asynchronous=true"),
    *("trainer.num_steps=64", "learner.num_epochs=1", "eval_episodes=2", "eval_every=null"),
]
ENDLESS = "total_steps=100_000_000"
LIMIT = 120
"""Timeout in seconds of everything that tests wait for."""


class Forked:
    """Process of the fork server, with a part of the interface of `subprocess.Popen`."""

    def __init__(self, pid, output, status):
        self.pid, self.returncode = pid, None
        self.stdout, self._status = os.fdopen(output, errors="replace"), status

    def poll(self):
        """Exit status, negative after a signal; None while the process runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = int(os.read(self._status, 16))
            os.close(self._status)
        return self.returncode

    def wait(self):
        wait_until(lambda: self.poll() is not None)
        return self.returncode

    def communicate(self):
        """Wait for the end. Returns the output since the last read, and None."""
        out = self.stdout.read()
        self.wait()
        return out, None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


@functools.cache
def fork_server():
    """Start the fork server, which ends with this process. Returns its socket and process."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    script = Path(__file__).with_name("fork_server.py")
    server = subprocess.Popen(
        [sys.executable, script, str(there.fileno())],
        pass_fds=[there.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    there.close()
    return here, server


def fork(call, *argv, path=(), **env):
    """Call "module:function" in a forked process with the given argv, path and environment."""
    (output, output_there), (status, status_there) = os.pipe(), os.pipe()
    message = {
        "call": call,
        "argv": [call, *map(str, argv)],
        "env": {**os.environ, **env, "PYTHONPATH": module_path(path)},
        "path": list(map(str, path)),
    }
    server, _ = fork_server()
    socket.send_fds(server, [json.dumps(message).encode()], [output_there, status_there])
    os.close(output_there)
    os.close(status_there)
    return Forked(int(server.recv(16)), output, status)


def start(run_dir, *words, path=(), **env):
    """Start a training run that receives Ctrl-C as from a terminal.

    Args:
        run_dir: run directory.
        *words: of the command line.
        path: folders of further modules.
        **env: environment variables.
    """
    return fork("firstlight.scripts.train:main", f"run_dir={run_dir}", *words, path=path, **env)


def start_cold(run_dir, *words):
    """As `start`, in a new Python interpreter."""
    return subprocess.Popen(
        [*COMMAND, f"run_dir={run_dir}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(run_dir, *words, status=0, **options):
    """Start a training run and wait for its end. Returns its output."""
    process = start(run_dir, *words, **options)
    out, _ = process.communicate()
    assert process.returncode == status, out
    return out


def module_path(folders):
    return os.pathsep.join([*map(str, folders), *sys.path])


def wait_until(holds):
    """Wait until `holds()` is true."""
    deadline = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true after {LIMIT} seconds")
        time.sleep(0.01)


def wait_for_lines(process, run_dir, count=1):
    """Wait until the metrics of a run have `count` lines."""
    path = Path(run_dir) / "metrics.jsonl"

    def there():
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return True
        assert process.poll() is None, process.stdout.read()
        return False

    wait_until(there)


def wait_for_end_of_group(group):
    """Wait until all processes of a process group have ended."""

    def is_gone():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(is_gone)


def wait_for_output(process, text, times=1):
    """Read the output of a process until `text` occurred `times` times. Returns the output."""
    read = ""
    for line in process.stdout:
        read += line
        if read.count(text) >= times:
            return read
    raise AssertionError(f"{text!r} is missing in {read}")


def shared_memory():
    """Names of shared memory files of Python and torch."""
    ours = ("pym-", "psm_", "torch_")
    return {name for name in os.listdir("/dev/shm") if name.startswith(ours)}


def children(pid):
    """All descendants of a process."""
    try:
        found = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []
    return [*found, *(n for child in found for n in children(child))]


def has_ended(pid):
    """Whether a process has ended, and perhaps waits for its parent to notice."""
    path = Path(f"/proc/{pid}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def handles(pid, number):
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def lines(run_dir):
    """Lines of metrics.jsonl."""
    path = Path(run_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def logged(run_dir):
    """Lines of metrics.jsonl, without what depends on the speed of the machine."""
    return [
        {k: v for k, v in line.items() if k != "time" and not k.startswith("perf/")}
        for line in lines(run_dir)
    ]
