"""`CaptionCounts`, the captions of recorded play and how often each occurred."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_SCHEMA = """
CREATE TABLE IF NOT EXISTS captions (
    id INTEGER PRIMARY KEY, sentence TEXT NOT NULL, status TEXT NOT NULL, count INTEGER NOT NULL,
    UNIQUE (sentence, status)
);
CREATE TABLE IF NOT EXISTS sources (name TEXT PRIMARY KEY, steps INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Caption(NamedTuple):
    """What a judge is shown of a step.

    Args:
        sentence: of the step; a reward model reads this and no more.
        status: of the player at that moment, such as "HP 12 of 14"; "" for none.
    """

    sentence: str
    status: str = ""

    @property
    def text(self) -> str:
        """Both, as one text."""
        return f"{self.sentence} [{self.status}]" if self.status else self.sentence


class CaptionCounts:
    """Captions in an SQLite file; each is kept once, with its number of steps.

    Counts and the progress of the recording are written together, so a recording that was killed
    goes on where it stood and counts nothing twice.

    Args:
        path: of the file, made if missing.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA)

    def add(self, source: str, steps: int, counts: Mapping[Caption, int]) -> None:
        """Add counts, and that `source` has played `steps` more steps, both or neither."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany(
            "INSERT INTO captions (sentence, status, count) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            [(*caption, count) for caption, count in counts.items()],
        )
        self._database.execute(
            "INSERT INTO sources VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET steps = steps + excluded.steps",
            (source, steps),
        )
        self._database.execute("COMMIT")

    def steps(self, source: str) -> int:
        """Return the steps that `source` has played so far."""
        row = self._database.execute("SELECT steps FROM sources WHERE name = ?", (source,))
        return (row.fetchone() or (0,))[0]

    def read(self) -> tuple[list[Caption], np.ndarray]:
        """Return the captions in the order in which they were met, and their counts [C] int64."""
        rows = self._database.execute(
            "SELECT sentence, status, count FROM captions ORDER BY id"
        ).fetchall()
        return [Caption(*row[:2]) for row in rows], np.array([row[2] for row in rows], np.int64)

    def note(self, **facts: Any) -> None:
        """Keep facts about the captions, values of JSON, by their names."""
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def fact(self, name: str) -> Any:
        """Return a fact that was kept; None if there is none of that name."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()
