"""Find, count and page through the labels of a store, with persons' corrections beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from firstlight.intrinsic.language.store import PERSON, Label, LabelStore, to_label

KINDS = ("helpful", "unhelpful", "first", "tie", "second", "unclear")
"""Labels in words: two of a text, three of a pair, and of either that it does not tell."""

ORDERS = {
    "newest": "l.time DESC, l.item",
    "doubtful": "(p.item IS NOT NULL), (l.score IS NOT NULL), abs(l.score - 0.5), l.item",
}
"""Orders of entries: the last label first, or what a person should look at first."""


def _kind(score: str) -> str:
    """SQL for the kind of a label, by the expression of its score."""
    return (
        f"CASE WHEN {score} IS NULL THEN 'unclear' WHEN json_array_length(l.item) = 1 THEN "
        f"CASE WHEN {score} > 0.5 THEN 'helpful' ELSE 'unhelpful' END "
        f"WHEN {score} < 0.5 THEN 'first' WHEN {score} > 0.5 THEN 'second' ELSE 'tie' END"
    )


_FROM = """
FROM labels l LEFT JOIN labels p ON p.item = l.item AND p.model = 'person' AND p.prompt = ''
WHERE (l.model != 'person'
       OR NOT EXISTS (SELECT 1 FROM labels o WHERE o.item = l.item AND o.model != 'person'))
"""
_COUNTS = "CASE WHEN p.item IS NULL THEN l.score ELSE p.score END"  # the score that counts
_COLUMNS = "l.item, l.model, l.prompt, l.score, l.latency, l.time, p.item IS NOT NULL, p.score"


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """A label, and whether a person's counts in its place.

    Args:
        label: a judge's; a person's, if no judge has labelled the item.
        is_corrected: whether there is a person's.
        correction: the person's score.
    """

    label: Label
    is_corrected: bool
    correction: float | None

    @property
    def score(self) -> float | None:
        """The score that counts."""
        return self.correction if self.is_corrected else self.label.score


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """Which labels to list; "" is any.

    Args:
        text: part of a text, upper or lower case.
        label: one of `KINDS`; a person's label counts first.
        model: the judge's name; `PERSON` for all that a person corrected.
        prompt: beginning of the prompt's hash.
    """

    text: str = ""
    label: str = ""
    model: str = ""
    prompt: str = ""

    def where(self) -> tuple[str, list[str]]:
        """Conditions in SQL, to follow others, and the values of their placeholders."""
        parts, values = [], []
        if self.text:
            packed = json.dumps(self.text, ensure_ascii=False)[1:-1]
            parts.append("l.item LIKE ? ESCAPE '\\'")
            values.append(f"%{_escape(packed)}%")
        if self.label:
            parts.append(f"{_kind(_COUNTS)} = ?")
            values.append(self.label)
        if self.model == PERSON:
            parts.append("p.item IS NOT NULL")
        elif self.model:
            parts.append("l.model = ?")
            values.append(self.model)
        if self.prompt:
            parts.append("l.prompt LIKE ? ESCAPE '\\'")
            values.append(f"{_escape(self.prompt)}%")
        return "".join(f" AND {part}" for part in parts), values


def find_entries(
    store: LabelStore,
    chosen: LabelFilter,
    *,
    order: str = "newest",
    limit: int = -1,
    offset: int = 0,
) -> list[LabelEntry]:
    """Return the entries of a filter, from `offset` on and at most `limit`; -1 is all.

    An item has an entry for each judge and prompt.
    """
    where, values = chosen.where()
    query = f"SELECT {_COLUMNS} {_FROM} {where} ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?"
    rows = store.rows(query, [*values, limit, offset])
    return [LabelEntry(to_label(row[:6]), bool(row[6]), row[7]) for row in rows]


def count_entries(store: LabelStore, chosen: LabelFilter) -> int:
    """Count the entries of a filter."""
    where, values = chosen.where()
    return store.rows(f"SELECT count(*) {_FROM} {where}", values)[0][0]


def count_labels(store: LabelStore) -> list[tuple[str, str, str, int]]:
    """Count labels by judge, prompt and kind; a person is a judge of their own."""
    kind = _kind("l.score")
    query = f"SELECT l.model, l.prompt, {kind} AS kind, count(*) FROM labels l"
    rows = store.rows(f"{query} GROUP BY l.model, l.prompt, kind ORDER BY 1, 2, 3")
    return [(model, prompt, name, count) for model, prompt, name, count in rows]


def kind_of(item_length: int, score: float | None) -> str:
    """Say a label in words, one of `KINDS`.

    >>> kind_of(1, 0.9), kind_of(2, 0.0), kind_of(2, None)
    ('helpful', 'first', 'unclear')
    """
    if score is None:
        return "unclear"
    if item_length == 1:
        return "helpful" if score > 0.5 else "unhelpful"
    return "tie" if score == 0.5 else ("second" if score > 0.5 else "first")


def score_of(kind: str) -> float | None:
    """Return the score of a label in words; the inverse of `kind_of`."""
    scores = {"helpful": 1.0, "unhelpful": 0.0, "first": 0.0, "tie": 0.5, "second": 1.0}
    return scores.get(kind)


def _escape(text: str) -> str:
    """Escape for LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
