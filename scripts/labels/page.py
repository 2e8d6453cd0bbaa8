"""A page on this machine to look at labels and correct them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from firstlight.scripts.page_server import PageHandler, PageServer, RefusedError

HTML = Path(__file__).with_name("page.html")
SHOWN = 50
"""Entries of one answer; the page asks for more."""


class LabelServer(PageServer):
    """Serves the page of a label store.

    Args:
        store: is read and written.
        port: 0 takes a free one.
    """

    def __init__(self, store: LabelStore, port: int = 0):
        self.store = store
        super().__init__(_Handler, port)


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


class _Handler(PageHandler):
    server: LabelServer

    def get(self, path: str, query: dict[str, str]) -> None:
        if path == "":
            self.send_page(HTML)
        elif path == "labels":
            with _store_errors():
                self.send_json(_labels(self.server.store, query))
        else:
            raise RefusedError(404, "there is no such page")

    def post(self, path: str, body: bytes) -> None:
        if path != "correct":
            raise RefusedError(404, "there is no such page")
        with _store_errors():
            item, label = _correction(self.server.store, body)
            if label is None:
                self.server.store.withdraw(item)
            else:
                self.server.store.correct(item, score_of(label))
            self.send_json({"counts": _counts(self.server.store)})


@contextmanager
def _store_errors() -> Iterator[None]:
    """Answer that the store cannot be used if it fails."""
    try:
        yield
    except sqlite3.Error as error:
        raise RefusedError(500, f"the store cannot be used: {error}") from error


def _labels(store: LabelStore, query: dict[str, str]) -> dict[str, Any]:
    """Entries of a filter from an offset on, their number, and the counts of the store."""
    order, offset = query.get("order", "newest"), query.get("offset", "0")
    label = query.get("label", "")
    if order not in ORDERS or not offset.isdecimal() or label not in ("", *KINDS):
        raise RefusedError(400, "order, offset or label is unknown")
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
        raise RefusedError(400, "expected an item and a label") from None
    kinds = {1: KINDS[:2], 2: KINDS[2:5]}.get(len(item), ())
    if label is not None and label not in (*kinds, "unclear"):
        raise RefusedError(400, "there is no such label of this item")
    if not all(isinstance(text, str) for text in item) or not store.has(item):
        raise RefusedError(404, "the store does not have this item")
    return item, label
