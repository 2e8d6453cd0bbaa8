"""`LabelStore`, the labels of texts in an SQLite file that runs and processes may share."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PERSON = "person"
"""Model of a label that a person gave; it takes precedence over every other."""

Item = tuple[str, ...]
"""What is labelled: one text, or the two texts of a comparison."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS labels (
    item TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    score REAL, latency REAL NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (item, model, prompt)
);
CREATE TABLE IF NOT EXISTS claims (
    item TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    owner TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (item, model, prompt)
);
CREATE INDEX IF NOT EXISTS persons ON labels (item, score) WHERE model = 'person';
"""
_COLUMNS = "item, model, prompt, score, latency, time"
_IMPORTED_AT_ONCE = 10_000  # labels of one transaction


@dataclass(frozen=True, slots=True)
class Label:
    """What a judge said about a text or a pair.

    Args:
        item: the text, or the two texts.
        score: in [0, 1]. Of a text: 1 helpful, 0 not. Of a pair: 0 the first is better, 1 the
            second, 0.5 a tie. None: the judge abstained, so there is nothing to learn.
        model: the judge's name, or `PERSON`.
        prompt: hash of what decides the judge's answers beside the model; "" for a person.
        latency: seconds that the answer took.
        time: seconds since the epoch.
    """

    item: Item
    score: float | None
    model: str
    prompt: str = ""
    latency: float = 0.0
    time: float = 0.0

    def to_json(self) -> str:
        """One line of `LabelStore.write_jsonl`."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, ensure_ascii=False)


class LabelStore:
    """Labels in an SQLite file with a write-ahead log; several processes may use it at once.

    A label is kept under its item, the judge's model and the hash of its prompt, so another prompt
    asks again. What was written survives the death of the process. An item is asked for by one
    process at a time: `claim` gives it to the first, for a limited time. The claim of a process
    that has died on this machine is void at once.

    The file must be on a disk of this machine: SQLite's log does not work over a network.

    Args:
        path: of the file, made if missing; None keeps the labels in memory.

    >>> store = LabelStore()
    >>> store.put([Label(("picked up the key",), 1.0, "rule")])
    >>> store.find([("picked up the key",), ("dropped it",)], "rule", "")
    {('picked up the key',): 1.0}
    """

    def __init__(self, path: Path | str | None = None):
        self.path = None if path is None else Path(path)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        self._lock = threading.RLock()
        self._database = sqlite3.connect(
            ":memory:" if self.path is None else self.path,
            timeout=30.0,
            isolation_level=None,  # transactions are written out below
            check_same_thread=False,
        )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one write transaction; roll it back if the block fails."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def find(self, items: Iterable[Item], model: str, prompt: str) -> dict[Item, float | None]:
        """Return the scores that are known, a person's first; None where the judge abstained."""
        return self._find(items, ((PERSON, ""), (model, prompt)))

    def find_of_judge(
        self, items: Iterable[Item], model: str, prompt: str
    ) -> dict[Item, float | None]:
        """Return the scores of one judge that are known, whatever a person said."""
        return self._find(items, ((model, prompt),))

    def _find(
        self, items: Iterable[Item], keys: Sequence[tuple[str, str]]
    ) -> dict[Item, float | None]:
        """Return the score under the first of the keys that has one."""
        found: dict[Item, float | None] = {}
        query = "SELECT score FROM labels WHERE item = ? AND model = ? AND prompt = ?"
        with self._lock:
            for item in items:
                for key in keys:
                    row = self._database.execute(query, (_pack(item), *key)).fetchone()
                    if row is not None:
                        found[item] = row[0]
                        break
        return found

    def claim(
        self, items: Sequence[Item], model: str, prompt: str, seconds: float = 120.0
    ) -> list[Item]:
        """Return the items that this store may now ask the judge for.

        Left out are those that have a label, and those that another store claimed and whose time
        has not run out. A claim ends with `put` or `release`.
        """
        now, mine = time.time(), []
        with self._transaction() as database:
            known = self.find(items, model, prompt)
            for item in dict.fromkeys(items):
                if item in known:
                    continue
                key = (_pack(item), model, prompt)
                row = database.execute(
                    "SELECT owner, until FROM claims WHERE item = ? AND model = ? AND prompt = ?",
                    key,
                ).fetchone()
                if row is not None and row[1] > now and self._is_of_another(row[0]):
                    continue
                database.execute(
                    "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)",
                    (*key, self._owner, now + seconds),
                )
                mine.append(item)
        return mine

    def _is_of_another(self, owner: str) -> bool:
        """Whether a claim's owner is another store, and not of a process that has died."""
        host, _, rest = owner.partition(":")
        process = rest.partition(":")[0]
        if owner == self._owner or host != socket.gethostname() or not process.isdecimal():
            return owner != self._owner
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is another user's
            return True
        return True

    def release(self, items: Iterable[Item], model: str, prompt: str) -> None:
        """Give claims of this store back, so that another process may ask."""
        rows = [(_pack(item), model, prompt, self._owner) for item in items]
        with self._transaction() as database:
            database.executemany(
                "DELETE FROM claims WHERE item = ? AND model = ? AND prompt = ? AND owner = ?", rows
            )

    def put(self, labels: Iterable[Label]) -> None:
        """Write labels and end their claims; a label with the same key is replaced."""
        rows = [
            (_pack(x.item), x.model, x.prompt, x.score, x.latency, x.time or time.time())
            for x in labels
        ]
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?)", rows)
            database.executemany(
                "DELETE FROM claims WHERE item = ? AND model = ? AND prompt = ?",
                [row[:3] for row in rows],
            )

    def correct(self, item: Item, score: float | None) -> None:
        """Write the label of a person, which takes precedence; None: the text does not tell."""
        self.put([Label(item, score, PERSON)])

    def withdraw(self, item: Item) -> None:
        """Delete a person's label, so that a judge's counts again."""
        with self._transaction() as database:
            database.execute(
                "DELETE FROM labels WHERE item = ? AND model = ?", (_pack(item), PERSON)
            )

    def has(self, item: Item) -> bool:
        """Whether anybody has labelled an item."""
        return bool(self.rows("SELECT 1 FROM labels WHERE item = ? LIMIT 1", [_pack(item)]))

    def corrections(self) -> dict[Item, float | None]:
        """Scores that persons gave; quick, whatever the number of other labels."""
        with self._lock:
            rows = self._database.execute(
                "SELECT item, score FROM labels WHERE model = 'person'"
            ).fetchall()
        return {_unpack(item): score for item, score in rows}

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of an SQL query that changes nothing."""
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def forget(self, items: Iterable[Item]) -> None:
        """Delete the judges' labels of these items, so that they are asked again."""
        with self._transaction() as database:
            database.executemany(
                "DELETE FROM labels WHERE item = ? AND model != ?",
                [(_pack(item), PERSON) for item in items],
            )

    def labels(self) -> Iterator[Label]:
        """All labels, the oldest first; those of a file are read as they are needed."""
        query = f"SELECT {_COLUMNS} FROM labels ORDER BY time, item"
        if self.path is None:
            yield from map(to_label, self.rows(query))
            return
        with closing(sqlite3.connect(self.path, timeout=30.0)) as reader:
            yield from map(to_label, reader.execute(query))

    def write_jsonl(self, path: Path | str) -> int:
        """Export all labels, one JSON object a line; returns their number."""
        count = 0
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for label in self.labels():
                file.write(label.to_json() + "\n")
                count += 1
        return count

    def read_jsonl(self, path: Path | str) -> int:
        """Import what `write_jsonl` wrote; returns the number of labels.

        Raises:
            ValueError: for a line that is no label; then nothing is imported.
        """
        count = sum(1 for _ in _read(path))
        labels = _read(path)
        while part := list(itertools.islice(labels, _IMPORTED_AT_ONCE)):
            self.put(part)
        return count

    def close(self) -> None:
        """Close the file. Claims that are left end with their time."""
        with self._lock:
            self._database.close()


def to_label(row: Sequence[Any]) -> Label:
    """Make the label of a row: item, model, prompt, score, latency, time."""
    item, model, prompt, score, latency, when = row
    return Label(_unpack(item), score, model, prompt, latency, when)


def _pack(item: Item) -> str:
    return json.dumps(item, ensure_ascii=False)


def _unpack(text: str) -> Item:
    return tuple(json.loads(text))


def _read(path: Path | str) -> Iterator[Label]:
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            yield _parse(line, number)


def _parse(line: str, number: int) -> Label:
    try:
        fields: dict[str, Any] = json.loads(line)
        label = Label(**{**fields, "item": tuple(fields["item"])})
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"line {number} is no label: {error}") from error
    good = label.score is None or (isinstance(label.score, int | float) and 0 <= label.score <= 1)
    texts = len(label.item) in (1, 2) and all(isinstance(text, str) for text in label.item)
    if not good or not texts:
        raise ValueError(f"line {number} is no label: item {label.item}, score {label.score}")
    return label
