"""An endpoint with OpenAI's interface that answers by a rule after a while, in its own process.

``python -m firstlight.scripts.benchmarks.slow_endpoint SECONDS`` prints its address. It ends when
its standard input is closed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Answer a request for labels: a text that holds "pick", "open" or "kill" is helpful."""
    content = body["messages"][-1]["content"]
    lines = content.partition("<data>\n")[2].partition("\n</data>")[0].splitlines()
    rows = [json.loads(line) for line in lines]
    words = ("pick", "open", "kill")
    labels = {row["id"]: "DAX" if any(w in row["text"] for w in words) else "WUG" for row in rows}
    message = {"role": "assistant", "content": json.dumps(labels)}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 500, "completion_tokens": 100, "total_tokens": 600}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "slow"}
    return {**whole, "choices": [choice], "usage": usage}


def serve(seconds: float) -> None:
    """Serve until standard input is closed; each answer takes `seconds`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(seconds)
            data = json.dumps(answer(body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{http.server_port}/v1", flush=True)
    sys.stdin.read()


@contextmanager
def started(seconds: float) -> Iterator[str]:
    """Start such an endpoint for the time of the block; its address."""
    command = [sys.executable, "-P", "-m", __name__, str(seconds)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    serve(float(sys.argv[1]))
