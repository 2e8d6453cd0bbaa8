"""Server that forks a process for each command after importing and warming up what it needs.

Run as a script by `processes`; the first argument is the file descriptor of a socket. Each message
is JSON with `call` ("module:function"), `argv`, `env` and `path`, and comes with two file
descriptors: for the output of the process, and for its exit status.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
from pathlib import Path

import hydra
import shortcuts  # noqa: F401

from firstlight.scripts.train import train

HERE = Path(__file__).parent
WARM_UP = (
    *("env=chain", "env.num_envs=2", "trainer.num_steps=8", "intrinsic=[count]", "device=cpu"),
    *("learner.minibatch_size=16", "learner.num_epochs=1", "eval_episodes=1", "num_threads=1"),
)


def serve(control):
    """Fork for each message until the socket closes. Returns in each child: message and output."""
    selector, running = selectors.DefaultSelector(), {}
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not control:
                pid, status = running.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(status, str(code).encode())
                os.close(status)
                continue
            message, descriptors, *_ = socket.recv_fds(control, 1 << 20, 2)
            if not message:
                sys.exit()
            output, status = descriptors
            load(json.loads(message)["call"])
            pid = os.fork()
            if pid == 0:
                os.close(status)
                for handle, (_, other) in running.items():
                    os.close(handle)
                    os.close(other)
                selector.close()
                control.close()
                return json.loads(message), output
            os.close(output)
            control.send(str(pid).encode())
            handle = os.pidfd_open(pid)
            running[handle] = pid, status
            selector.register(handle, selectors.EVENT_READ)


def load(call):
    """Import the module of a function, if it is ours, so that only the first process waits."""
    module = call.partition(":")[0]
    if module.startswith("firstlight.") or (HERE / f"{module}.py").exists():
        importlib.import_module(module)


def become(message, output):
    """Set up a forked process as requested. Returns the function to call."""
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    os.environ.clear()
    os.environ.update(message["env"])
    sys.path[:0] = message["path"]
    sys.argv = message["argv"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as under a terminal
    module, _, name = message["call"].partition(":")
    return getattr(importlib.import_module(module), name)


def warm_up():
    """Train for a moment: this imports and compiles what every run needs."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        hydra.initialize_config_module("firstlight.conf", version_base="1.3"),
    ):
        train(hydra.compose("train", [*WARM_UP, "total_steps=32", f"run_dir={folder}/run"]))
    gc.freeze()  # else every process collects and copies all this at its end, for two seconds


if __name__ == "__main__":
    warm_up()
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))()
