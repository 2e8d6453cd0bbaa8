"""`Corrections`, labels that persons give while a run goes on."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Mapping

from firstlight.intrinsic.language.store import Item, LabelStore

log = logging.getLogger(__name__)

_SECONDS = 1.0  # between two looks
_CLOSE_SECONDS = 2.0  # to wait for a look under way, which another process may hold up


class Corrections:
    """Reads persons' labels from a store once a second, in a thread of its own.

    A run asks the store for an item once. What a person says about the item later, on the page of
    ``firstlight-annotate`` for example, reaches the run by this way.

    Args:
        store: of the run.
        seconds: between two looks; default 1.
    """

    def __init__(self, store: LabelStore, seconds: float | None = None):
        self.store, self.seconds = store, _SECONDS if seconds is None else seconds
        self._found: dict[Item, float | None] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="corrections", daemon=True)

    def start(self) -> None:
        """Read what there is, and start the thread."""
        self._found = self.store.corrections()
        self._thread.start()

    def of(self, *known: Mapping[Item, float | None]) -> dict[Item, float | None]:
        """Return persons' scores of the items in any of the mappings. Never waits."""
        found = self._found  # the thread replaces it and never changes it
        return {x: score for x, score in found.items() if any(x in items for items in known)}

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def _watch(self) -> None:
        failed = False
        while not self._closing.wait(self.seconds):
            try:
                self._found = self.store.corrections()
            except sqlite3.Error as error:  # the next look may succeed
                if not failed and not self._closing.is_set():
                    log.warning("persons' labels cannot be read: %s", error)
                failed = True
