"""Start the processes of a run, with the variables that torchrun sets."""

import json
import socket
from pathlib import Path

from processes import fork

HERE = (Path(__file__).parent,)


def start_ranks(call, *argv, size=2, path=HERE):
    """Call "module:function" in `size` processes, ranks of one run, on this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    sizes = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    return [
        fork(call, *argv, path=path, RANK=str(rank), LOCAL_RANK=str(rank), **sizes, **env)
        for rank in range(size)
    ]


def finish_ranks(processes, status=0):
    """Wait for the end of all; their outputs by rank."""
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), outputs
    return outputs


def results(call, *argv, size=2, path=HERE):
    """Call a function in every rank; the JSON of the last line that each prints."""
    outputs = finish_ranks(start_ranks(call, *argv, size=size, path=path))
    return [json.loads(output.splitlines()[-1]) for output in outputs]
