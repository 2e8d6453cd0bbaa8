"""Server that forks a process for each command after importing torch and firstlight.

Run as a script by `processes`; the first argument is the file descriptor of a socket. Each message
is JSON with `call` ("module:function"), `argv`, `env` and `path`, and comes with two file
descriptors: for the output of the process, and for its exit status.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys

import torch
from hydra.core.plugins import Plugins

from firstlight.intrinsic.memory import hash_rows

PRELOADED = (
    *("torch._dynamo", "torch.utils.tensorboard"),  # optimisers import dynamo, slowly
    *("firstlight.scripts.train", "firstlight.scripts.build", "firstlight.agents"),
    *("firstlight.envs.worlds.chain", "firstlight.envs.vector.gym"),
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


def preload():
    """Import and compile what every run needs before its first iteration."""
    for module in PRELOADED:
        importlib.import_module(module)
    Plugins.instance()  # looks through all installed packages
    hash_rows([torch.zeros(1)], 1)  # numba loads its compiler for the first compiled function
    gc.freeze()  # else every process collects and copies all this at its end, for two seconds


if __name__ == "__main__":
    preload()
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))()
