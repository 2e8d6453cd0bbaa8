"""`LLMTeacher`, subgoals that a language model writes in the background, read as data only."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from firstlight.envs.minigrid.cells import LAVA, WALL
from firstlight.intrinsic.language.annotation import AnnotationService
from firstlight.intrinsic.language.judges.judge import Judge, digest
from firstlight.intrinsic.language.limits import Limits
from firstlight.intrinsic.language.prompts import Message, Prompt
from firstlight.intrinsic.language.store import Item, LabelStore
from firstlight.intrinsic.subgoals.planner_kernels import MOST, find_path
from firstlight.intrinsic.subgoals.plans import UNKNOWN, Levels, Plans, describe_level
from firstlight.intrinsic.subgoals.teachers import Oracle, Teacher

PROMPTS = Path(__file__).parent / "prompts"
STORE = "subgoals.sqlite"
"""File of the answers in the run directory."""
TOKENS = 128
"""Of an answer for one level, at most."""

Position = tuple[int, int]


class LevelPrompt(Prompt):
    """Shows levels to a language model, and reads the positions that it lists.

    Args:
        path: of a TOML file with the message `system`.
    """

    def __init__(self, path: Path | str = PROMPTS / "levels.toml"):
        system = tomllib.loads(Path(path).read_text(encoding="utf-8"))["system"].strip()
        super().__init__(system, {}, False)

    @property
    def digest(self) -> str:
        """Hash of what decides the answers."""
        return digest(self.system, "levels")

    def messages(self, items: Mapping[str, Item]) -> list[Message]:
        """Build the messages of a request, with the levels as JSON strings."""
        lines = "\n".join(json.dumps({"id": i, "level": item[0]}) for i, item in items.items())
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": f"<data>\n{lines}\n</data>\nList the positions."},
        ]

    def schema(self, ids: Sequence[str]) -> dict[str, Any]:
        """JSON schema of an answer."""
        pair = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
        each = {"type": "array", "items": pair, "maxItems": MOST // 2}
        return {
            "type": "object",
            "properties": dict.fromkeys(ids, each),
            "required": [*ids],
            "additionalProperties": False,
        }

    def parse(self, reply: str, ids: Sequence[str]) -> dict[str, Any]:
        """Read an answer: by id the JSON text of its positions; other values are left out."""
        answer = read_object(reply)
        read = {i: read_positions(answer[i]) for i in ids if i in answer}
        return {i: json.dumps(cells) for i, cells in read.items() if cells is not None}


def read_positions(value: Any) -> list[Position] | None:
    """Read a list of pairs of whole numbers; None for anything else."""
    if not isinstance(value, list) or len(value) > MOST:
        return None
    pairs = [v for v in value if isinstance(v, list) and len(v) == 2]
    if len(pairs) != len(value) or not all(type(n) is int for pair in pairs for n in pair):
        return None
    return [(pair[0], pair[1]) for pair in pairs]


def possible(cells: Sequence[Position], grid: np.ndarray, agent: np.ndarray) -> list[Position]:
    """Remove invalid positions: outside the grid, walls, lava, out of reach, or repeated.

    Args:
        cells: column and row of each.
        grid: [W, H] int16.
        agent: [2] int64.
    """
    W, H = grid.shape
    path, free = np.empty((grid.size, 2), np.int64), np.zeros(grid.shape, np.bool_)
    left: list[Position] = []
    for x, y in cells:
        inside = 0 <= x < W and 0 <= y < H
        if not inside or (x, y) in left or grid[x, y] & 15 in (WALL, LAVA):
            continue
        if find_path(grid, free, agent[0], agent[1], x, y, path):
            left.append((x, y))
    return left


class LLMTeacher(Teacher):
    """Asks a judge's language model for the subgoals of levels, in the background.

    A level that has no answer yet has no subgoals, and is asked about; the agent never waits. The
    answers are in a label store, under the level's text, the model and the hash of the prompt. They
    are read as JSON and never evaluated; impossible positions are dropped (`possible`).

    Args:
        make_judge: makes what asks the model, when a run begins.
        store: file of the answers; default `STORE` in the run directory, else in memory.
        limits: of requests and tokens.
        request_size: levels of one request.
        num_requests: requests at once.
        cached_only: use the store and ask nobody.

    Attributes:
        asked, right, listed: levels answered so far, subgoals that are also the oracle's, and
            subgoals of the oracle's plans.
    """

    def __init__(
        self,
        make_judge: Callable[[], Judge],
        *,
        store: str | None = None,
        limits: Limits | None = None,
        request_size: int = 4,
        num_requests: int = 1,
        cached_only: bool = False,
    ):
        self._make_judge, self._store_path = make_judge, store
        self._options: dict[str, Any] = {
            "limits": limits,
            "batch_size": request_size,
            "num_workers": num_requests,
            "cached_only": cached_only,
        }
        self.service: AnnotationService | None = None
        self._answers: dict[str, list[Position]] = {}
        self._compared: set[str] = set()
        self.asked, self.right, self.listed = 0, 0, 0

    def plan(self, levels: Levels) -> Plans:
        """Plan the levels with an answer; hand the others to the service."""
        self._take()
        plans = Plans.empty(len(levels))
        wanted: dict[Item, int] = {}
        for row in range(len(levels)):
            level = levels.grid[row], levels.agent[row], int(levels.target[row])
            text = describe_level(*level)
            if text in self._answers:
                cells = possible(self._answers[text], level[0], level[1])
                plans.put(row, cells, level[0])
                self._compare(text, cells, levels.take(np.array([row])))
            else:
                plans.length[row] = UNKNOWN
                wanted[(text,)] = 1
        if wanted and self.service is not None:
            self.service.submit(wanted)
        return plans

    def open(self, run_dir: Path | None) -> None:
        """Open the store and start the service."""
        path = self._store_path or (None if run_dir is None else run_dir / STORE)
        self.service = AnnotationService(self._make_judge(), LabelStore(path), **self._options)
        self.service.start()

    def close(self) -> None:
        """End the service."""
        if self.service is not None:
            self.service.close()
            self.service.store.close()
            self.service = None

    def metrics(self) -> dict[str, float]:
        """Return the service's tags, and the share of the oracle's subgoals that were found."""
        found = {"accuracy": self.right / self.listed} if self.listed else {}
        service = {} if self.service is None else self.service.metrics()
        return found | {"levels": float(self.asked)} | {f"llm/{n}": x for n, x in service.items()}

    def _take(self) -> None:
        if self.service is None:
            return
        for item, answer in cast("dict[Item, Any]", self.service.take()).items():
            text = answer if isinstance(answer, str) else "[]"
            self._answers[item[0]] = read_positions(json.loads(text)) or []

    def _compare(self, text: str, cells: Sequence[Position], level: Levels) -> None:
        """Count once for each level how many of the oracle's subgoals the model listed."""
        if text in self._compared:
            return
        self._compared.add(text)
        plan = Oracle(all_doors=False).plan(level)
        right = {(int(x), int(y)) for x, y in plan.cells[0, : plan.length[0]]}
        self.asked, self.listed = self.asked + 1, self.listed + len(right)
        self.right += len(right & {*cells})


def read_object(reply: str) -> dict[str, Any]:
    """Read the JSON object in a reply, from its first brace to its last; empty if there is none."""
    try:
        answer = json.loads(reply[reply.find("{") : reply.rfind("}") + 1])
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
