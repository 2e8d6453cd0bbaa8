"""An HTTP server with OpenAI's interface, on a real socket, that answers and fails by a script."""

import json
import re
import socket
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def label(text):
    """What this server thinks of a text: helpful if it holds "good"."""
    return "DAX" if "good" in text else "WUG"


def goals(caption):
    """What this server proposes for a caption: to pick up each key in it."""
    found = re.findall(r"a (\w+ key)", caption)
    return [f"picked up the {name}" for name in dict.fromkeys(found)]


def questions(body):
    """The rows of data in a request: dicts with an id, and a text or two."""
    content = body["messages"][-1]["content"]
    data = content.partition("<data>\n")[2].partition("\n</data>")[0]
    return [json.loads(line) for line in data.splitlines()]


def right_answer(body):
    """The content of a correct reply."""
    rows = questions(body)
    if "first" in rows[0]:
        better = {True: "FIRST", False: "SECOND"}
        return json.dumps({row["id"]: better["good" in row["first"]] for row in rows})
    if "Suggest goals" in body["messages"][-1]["content"]:
        return json.dumps({row["id"]: goals(row["text"]) for row in rows})
    return json.dumps({row["id"]: label(row["text"]) for row in rows})


class Server:
    """Answers correctly, unless the script has an entry for the next request.

    An entry is a function of the handler and the request's body, see below.
    """

    def __init__(self, script=(), port=0):
        self.script, self.bodies, self.keys = deque(script), [], []
        self.content = right_answer  # of a reply, by the body of the request
        self.schemas = True
        self.tokens = None  # of a reply, by its content, where the request asks for them
        self.refuses_logprobs = False
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                with server._lock:
                    server.bodies.append(body)
                    server.keys.append(self.headers.get("Authorization"))
                    act = server.script.popleft() if server.script else None
                if act is not None:
                    act(self, body)
                elif ("response_format" in body and not server.schemas) or (
                    "logprobs" in body and server.refuses_logprobs
                ):
                    status(400)(self, body)
                else:
                    content = server.content(body)
                    with_tokens = "logprobs" in body and server.tokens is not None
                    reply(self, content, server.tokens(content) if with_tokens else None)

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()


def send(handler, code, data, **headers):
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def envelope(content, tokens=None):
    """The JSON of a reply whose message is `content`.

    `tokens` are pairs of a token and a dict of the log-probabilities in its place.
    """
    choice = {"index": 0, "finish_reason": "stop"}
    choice["message"] = {"role": "assistant", "content": content}
    if tokens is not None:
        entries = [
            {
                "token": token,
                "logprob": places.get(token, 0.0),
                "top_logprobs": [{"token": t, "logprob": x} for t, x in places.items()],
            }
            for token, places in tokens
        ]
        choice["logprobs"] = {"content": entries}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return json.dumps({**whole, "choices": [choice], "usage": usage}).encode()


def reply(handler, content, tokens=None):
    send(handler, 200, envelope(content, tokens))


def status(code, **headers):
    """Answer with a status; the body quotes the key, as some servers do."""

    def act(handler, body):
        key = handler.headers.get("Authorization")
        send(handler, code, json.dumps({"error": {"message": f"no: {key}"}}).encode(), **headers)

    return act


def says(content):
    """Answer with this message."""
    return lambda handler, body: reply(handler, content)


def late(seconds):
    """Answer correctly, but late."""

    def act(handler, body):
        time.sleep(seconds)
        reply(handler, right_answer(body))

    return act


def truncated(handler, body):
    """Send half of a body and close."""
    data = envelope(right_answer(body))
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def half_json(handler, body):
    """Send half of the JSON as if it were all."""
    data = envelope(right_answer(body))
    send(handler, 200, data[: len(data) // 2])


def half_closed(handler, body):
    """Close our half of the socket without an answer."""
    handler.connection.shutdown(socket.SHUT_WR)
    handler.close_connection = True


def other_form(handler, body):
    """Answer with JSON that is not OpenAI's."""
    send(handler, 200, b'{"labels": ["DAX"]}')


def other_question(handler, body):
    """Repeat an answer to somebody else's request."""
    reply(handler, json.dumps({"abc123": "DAX", "def456": "DAX"}))
