"""`EliteTable`, the results of a search for reward programs in a file of JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

from firstlight.intrinsic.design.designers.base import ProgramResult


class EliteTable:
    """Results of all proposals, in order; a line of JSON each.

    A line is written at once, and a last line without its end, left by a process that was killed,
    is removed when the file is read. A proposal of a round is recorded once.

    Args:
        path: of the file, made with the first result.

    Raises:
        ValueError: if another line is no result.
    """

    def __init__(self, path: Path):
        self.path = path
        self.results = self._read()
        self._known = {(result.round, result.proposal.hash) for result in self.results}

    def append(self, result: ProgramResult) -> None:
        """Add a result, unless its round has one of the same program."""
        key = (result.round, result.proposal.hash)
        if key in self._known:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(result.to_json()).encode() + b"\n")
        self.results.append(result)
        self._known.add(key)

    def find(self, program: str, round: int | None = None) -> ProgramResult | None:
        """Return the first result of the program with this hash, of any round by default."""
        fits = (r for r in self.results if r.proposal.hash == program and round in (None, r.round))
        return next(fits, None)

    def _read(self) -> list[ProgramResult]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        results = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                results.append(ProgramResult.from_json(json.loads(line)))
            except (ValueError, TypeError, LookupError) as error:
                raise ValueError(f"{self.path}, line {number}: no result: {error}") from error
        return results
