"""Correct labels in the terminal, one text after the other."""

from __future__ import annotations

from firstlight.intrinsic.language.label_listing import (
    LabelEntry,
    LabelFilter,
    find_entries,
    kind_of,
    score_of,
)
from firstlight.intrinsic.language.store import Item, LabelStore
from firstlight.scripts.labels.listing import show_item

KEYS = {
    1: {"h": "helpful", "n": "unhelpful", "u": "unclear"},
    2: {"1": "first", "2": "second", "t": "tie", "u": "unclear"},
}
"""Keys of a text and of a pair, and the labels that they give."""
_MORE = "[s]kip [b]ack [q]uit"


def correct_in_terminal(store: LabelStore, chosen: LabelFilter) -> None:
    """Ask a person for the labels of a filter's texts; what was answered is stored at once.

    Those without a person's label come first, of these those that the judge abstained on, then the
    most doubtful ones.

    Args:
        store: is read and written.
        chosen: which texts to ask for.
    """
    entries = _of_each_item(find_entries(store, chosen, order="doubtful"))
    if not entries:
        print("no label fits the filter")
        return
    at = given = 0
    while at < len(entries):
        entry = entries[at]
        item = entry.label.item
        keys = KEYS[len(item)]
        print(f"\n{at + 1} of {len(entries)}   {_known(entry)}\n{show_item(item)}")
        names = " ".join(f"[{key}]{name.removeprefix(key)}" for key, name in keys.items())
        answer = _read(f"{names}   {_MORE}: ")
        if answer == "q":
            break
        if answer == "b":
            at = max(0, at - 1)
        elif answer == "s" or answer == "":
            at += 1
        elif answer in keys:
            store.correct(item, score_of(keys[answer]))
            given += 1
            at += 1
        else:
            print(f"{answer!r} is no answer here")
    print(f"\n{given} labels given")


def _of_each_item(entries: list[LabelEntry]) -> list[LabelEntry]:
    """Keep the first entry of each item: several judges may have labelled it."""
    first: dict[Item, LabelEntry] = {}
    for entry in entries:
        first.setdefault(entry.label.item, entry)
    return list(first.values())


def _known(entry: LabelEntry) -> str:
    length, label = len(entry.label.item), entry.label
    said = f"{label.model}: {kind_of(length, label.score)}"
    if label.score is not None:
        said += f" ({label.score:.2f})"
    return said + (f", person: {kind_of(length, entry.correction)}" if entry.is_corrected else "")


def _read(question: str) -> str:
    """Read an answer; the end of the input is to quit."""
    try:
        return input(question).strip().lower()
    except EOFError:
        return "q"
