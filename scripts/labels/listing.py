"""Labels on the terminal, as tables."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from firstlight.intrinsic.language.label_listing import (
    LabelEntry,
    LabelFilter,
    count_entries,
    count_labels,
    find_entries,
    kind_of,
)
from firstlight.intrinsic.language.store import Item, LabelStore


def print_labels(store: LabelStore, chosen: LabelFilter, order: str, limit: int) -> None:
    """Print the counts of a store, and the entries of a filter.

    Args:
        store: the labels.
        chosen: which to list.
        order: one of `ORDERS`.
        limit: entries, at most.
    """
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    counts = _table("judge", "prompt", "label", "labels")
    for model, prompt, kind, count in count_labels(store):
        counts.add_row(Text(model), prompt[:8], kind, f"{count:,}")
    console.print(counts)
    entries = find_entries(store, chosen, order=order, limit=limit)
    listed = _table("label", "score", "judge", "person", "text")
    for entry in entries:
        listed.add_row(*cells(entry))
    console.print(listed)
    total = count_entries(store, chosen)
    console.print(f"{len(entries):,} of {total:,} labels; limit=… shows more", soft_wrap=True)


def cells(entry: LabelEntry) -> tuple[str | Text, ...]:
    """Columns of an entry: label that counts, judge's score, judge, person's label, text."""
    label, length = entry.label, len(entry.label.item)
    score = "" if label.score is None else f"{label.score:.2f}"
    person = kind_of(length, entry.correction) if entry.is_corrected else ""
    return (
        kind_of(length, entry.score),
        score,
        Text(label.model),
        person,
        Text(show_item(label.item)),
    )


def show_item(item: Item) -> str:
    """Write a text, or a pair of texts on two lines, without characters that control a terminal."""
    texts = [
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in x) for x in item
    ]
    return texts[0] if len(texts) == 1 else "\n".join(f"{i}. {x}" for i, x in enumerate(texts, 1))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        right = column in ("labels", "score")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table
