"""Serve a page on this machine to its user alone."""

from __future__ import annotations

import hmac
import json
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

HOST = "127.0.0.1"
_LONGEST = 100_000  # bytes of a request
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class PageServer(ThreadingHTTPServer):
    """Serves a page at an address that other pages and other users cannot guess.

    It listens on 127.0.0.1. A request is answered only if its path begins with a random token, its
    Host is ours (so that no other name leads here), and its Origin, which a browser sends with
    every change, is the page itself.

    Args:
        handler: answers requests.
        port: 0 takes a free one.

    Attributes:
        url: of the page, with the token.
    """

    daemon_threads = True

    def __init__(self, handler: type[PageHandler], port: int = 0):
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOST, port), handler)
        self.hosts = (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")
        self.url = f"http://{self.hosts[0]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that the browser has closed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class RefusedError(Exception):
    """A request that is not answered: status and reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class PageHandler(BaseHTTPRequestHandler):
    """Checks where a request comes from, and answers it by `get` or `post` of a subclass."""

    server: PageServer
    timeout = 30

    def get(self, path: str, query: dict[str, str]) -> None:
        """Answer a GET. RefusedError for a path that does not exist."""
        raise NotImplementedError

    def post(self, path: str, body: bytes) -> None:
        """Answer a POST of JSON. RefusedError for a path that does not exist."""
        raise NotImplementedError

    def send_page(self, html: Path) -> None:
        """Send a page, whose ``NONCE`` is replaced, with rules that let it load nothing else."""
        nonce = secrets.token_urlsafe(16)
        page = html.read_text(encoding="utf-8").replace("NONCE", nonce)
        policy = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
        self.send_data(page.encode(), "text/html; charset=utf-8", policy)

    def send_json(self, value: Any, status: int = 200) -> None:
        """Send a value as JSON."""
        self.send_data(json.dumps(value).encode(), "application/json", status=status)

    def send_data(
        self, data: bytes, kind: str, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        """Send bytes of a media type."""
        self.send_response(status)
        fixed = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Check and answer a GET."""
        self._answer(self.get)

    def do_POST(self) -> None:
        """Check and answer a POST."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the lines would hold the token."""

    def _answer(self, method: Any) -> None:
        try:
            method(*self._checked())
        except RefusedError as error:
            self._read_body()  # a connection that is closed with unread data loses the answer
            self.send_json({"error": str(error)}, error.status)

    def _checked(self) -> tuple[str, dict[str, str]]:
        """Check where a request comes from; return its path below the token, and its query."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts:
            raise RefusedError(403, "the request is for another host")
        if origin != f"http://{host}" and (origin is not None or self.command != "GET"):
            raise RefusedError(403, "the request comes from another page")
        address = urlsplit(self.path)
        token, _, path = address.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise RefusedError(403, "the address has another token than the one printed")
        return path, {key: values[0] for key, values in parse_qs(address.query).items()}

    def _post(self, path: str, query: dict[str, str]) -> None:
        if self.headers.get("Content-Type") != "application/json":
            raise RefusedError(415, "expected JSON")
        body = self._read_body()
        if body is None:
            raise RefusedError(413, f"expected at most {_LONGEST} bytes")
        self.post(path, body)

    def _read_body(self) -> bytes | None:
        """Read the body once; None if its length is unknown or too large, or it was read before."""
        length = self.headers.get("Content-Length", "")
        del self.headers["Content-Length"]
        fits = length.isdecimal() and int(length) <= _LONGEST
        return self.rfile.read(int(length)) if fits else None
