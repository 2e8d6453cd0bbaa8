"""Processes that write into a label store, for `fork`; each prints numbers."""

import sys
import time
from pathlib import Path

from firstlight.intrinsic.language.store import Label, LabelStore


def ask():
    """Claim and answer 300 texts once the file `argv[2]` exists; print how many were asked."""
    store = LabelStore(sys.argv[1])
    items = [(f"text {i}",) for i in range(300)]
    while not Path(sys.argv[2]).exists():
        time.sleep(0.001)
    asked = 0
    for start in range(0, 300, 10):
        for item in store.claim(items[start : start + 10], "judge", "p"):
            store.put([Label(item, 1.0, "judge", "p")])
            asked += 1
    print(asked)


def write():
    """Claim a text for `argv[2]` seconds, then store labels for ever, and print their numbers."""
    store = LabelStore(sys.argv[1])
    store.claim([("never answered",)], "judge", "p", seconds=float(sys.argv[2]))
    for i in range(1_000_000):
        store.put([Label((f"text {i}",), 1.0, "judge", "p")])
        print(i, flush=True)
