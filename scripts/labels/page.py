"""A page on this machine to look at labels and correct them."""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from firstlight.intrinsic.language.label_listing import (
    KINDS,
    ORDERS,
    LabelEntry,
    LabelFilter,
    count_entries,
    count_labels,
    find_entries,
    kind_of,
    score_of,
)
from firstlight.intrinsic.language.store import Item, LabelStore
from firstlight.scripts.errors import BadInputError

HTML = Path(__file__).with_name("page.html")
HOST = "127.0.0.1"
SHOWN = 50
"""Entries of one answer; the page asks for more."""
_LONGEST = 100_000  # bytes of a request
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class LabelServer(ThreadingHTTPServer):
    """Serves the page at an address that other pages and other users cannot guess.

    It listens on 127.0.0.1. A request is answered only if its path begins with a random token, its
    Host is ours (so that no other name leads here), and its Origin, which a browser sends with
    every change, is the page itself.

    Args:
        store: is read and written.
        port: 0 takes a free one.

    Attributes:
        url: of the page, with the token.
    """

    daemon_threads = True

    def __init__(self, store: LabelStore, port: int = 0):
        self.store, self.token = store, secrets.token_urlsafe(24)
        super().__init__((HOST, port), _Handler)
        self.hosts = (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")
        self.url = f"http://{self.hosts[0]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that the browser has closed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(store: LabelStore, port: int = 0) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        BadInputError: if the port is taken.
    """
    try:
        server = LabelServer(store, port)
    except (OSError, OverflowError) as error:
        raise BadInputError(f"port={port} cannot be used: {error}") from error
    print(f"open {server.url}\nCtrl-C ends", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


class _RefusedError(Exception):
    """A request that is not answered: status and reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    timeout = 30

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the lines would hold the token."""

    def _answer(self, method: Any) -> None:
        try:
            method(*self._checked())
        except _RefusedError as error:
            self._read_body()  # a connection that is closed with unread data loses the answer
            self._send_json({"error": str(error)}, error.status)
        except sqlite3.Error as error:
            self._send_json({"error": f"the store cannot be used: {error}"}, 500)

    def _checked(self) -> tuple[str, dict[str, str]]:
        """Check where a request comes from; return its path below the token, and its query."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts:
            raise _RefusedError(403, "the request is for another host")
        if origin != f"http://{host}" and (origin is not None or self.command != "GET"):
            raise _RefusedError(403, "the request comes from another page")
        address = urlsplit(self.path)
        token, _, path = address.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise _RefusedError(403, "the address has another token than the one printed")
        return path, {key: values[0] for key, values in parse_qs(address.query).items()}

    def _get(self, path: str, query: dict[str, str]) -> None:
        if path == "":
            self._send_page()
        elif path == "labels":
            self._send_json(_labels(self.server.store, query))
        else:
            raise _RefusedError(404, "there is no such page")

    def _post(self, path: str, query: dict[str, str]) -> None:
        if path != "correct":
            raise _RefusedError(404, "there is no such page")
        if self.headers.get("Content-Type") != "application/json":
            raise _RefusedError(415, "expected JSON")
        body = self._read_body()
        if body is None:
            raise _RefusedError(413, f"expected at most {_LONGEST} bytes")
        item, label = _correction(self.server.store, body)
        if label is None:
            self.server.store.withdraw(item)
        else:
            self.server.store.correct(item, score_of(label))
        self._send_json({"counts": _counts(self.server.store)})

    def _read_body(self) -> bytes | None:
        """Read the body once; None if its length is unknown or too large, or it was read before."""
        length = self.headers.get("Content-Length", "")
        del self.headers["Content-Length"]
        fits = length.isdecimal() and int(length) <= _LONGEST
        return self.rfile.read(int(length)) if fits else None

    def _send_page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        page = HTML.read_text(encoding="utf-8").replace("NONCE", nonce)
        policy = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
        self._send(page.encode(), "text/html; charset=utf-8", policy)

    def _send_json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", status=status)

    def _send(
        self, data: bytes, kind: str, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
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


def _labels(store: LabelStore, query: dict[str, str]) -> dict[str, Any]:
    """Entries of a filter from an offset on, their number, and the counts of the store."""
    order, offset = query.get("order", "newest"), query.get("offset", "0")
    label = query.get("label", "")
    if order not in ORDERS or not offset.isdecimal() or label not in ("", *KINDS):
        raise _RefusedError(400, "order, offset or label is unknown")
    chosen = LabelFilter(text=query.get("text", ""), label=label, model=query.get("model", ""))
    entries = find_entries(store, chosen, order=order, limit=SHOWN, offset=int(offset))
    return {
        "name": "" if store.path is None else "/".join(store.path.absolute().parts[-2:]),
        "total": count_entries(store, chosen),
        "entries": [_as_json(entry) for entry in entries],
        "counts": _counts(store),
    }


def _as_json(entry: LabelEntry) -> dict[str, Any]:
    label, length = entry.label, len(entry.label.item)
    return {
        "item": label.item,
        "judge": label.model,
        "prompt": label.prompt,
        "score": label.score,
        "label": kind_of(length, label.score),
        "person": kind_of(length, entry.correction) if entry.is_corrected else None,
    }


def _counts(store: LabelStore) -> list[dict[str, Any]]:
    names = ("judge", "prompt", "label", "count")
    return [dict(zip(names, row, strict=True)) for row in count_labels(store)]


def _correction(store: LabelStore, body: bytes) -> tuple[Item, str | None]:
    """Read an item of the store and a label in words; None to take a person's label back."""
    try:
        fields = json.loads(body)
        item, label = tuple(fields["item"]), fields["label"]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise _RefusedError(400, "expected an item and a label") from None
    kinds = {1: KINDS[:2], 2: KINDS[2:5]}.get(len(item), ())
    if label is not None and label not in (*kinds, "unclear"):
        raise _RefusedError(400, "there is no such label of this item")
    if not all(isinstance(text, str) for text in item) or not store.has(item):
        raise _RefusedError(404, "the store does not have this item")
    return item, label
