"""A process that starts the embedded language model, for `fork`, and never ends by itself."""

import signal

from firstlight.intrinsic.language.local_server import LocalServer


def start_server():
    """Print the server's process id and URL, and wait."""
    server = LocalServer()
    print(server._process.pid, server.url, flush=True)
    signal.pause()
