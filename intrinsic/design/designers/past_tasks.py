"""Tasks of the past with their reward programs, and which of them are like a new one."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Embed = Callable[[Sequence[str]], np.ndarray]
"""Maps B texts to embeddings [B, E] of length 1."""


@dataclass(frozen=True)
class PastTask:
    """A task with a program that worked.

    Args:
        goal: a sentence.
        source: of the program.
    """

    goal: str
    source: str


def read_past_tasks(path: str | Path) -> list[PastTask]:
    """Read tasks from a file with a JSON object in each line: "goal" and "source".

    Raises:
        ValueError: if it cannot be read, or a line is no such object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        return [PastTask(str(row["goal"]), str(row["source"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'cannot read past tasks from {path}: expected {{"goal": …, "source": …}} in each '
            f"line ({type(error).__name__}: {error})"
        ) from error


def nearest_tasks(
    goal: str, tasks: Sequence[PastTask], number: int, embed: Embed | None = None
) -> list[PastTask]:
    """Choose the past tasks whose goals are most similar to a goal, the most similar first.

    Args:
        goal: a sentence.
        tasks: of the past; of equally similar ones the earlier comes first.
        number: k, at most.
        embed: embeddings of texts; default counts of words, of which those in many goals count
            less (TF-IDF).
    """
    if not tasks or number < 1:
        return []
    texts = [goal, *(task.goal for task in tasks)]
    vectors = np.asarray((embed or _count_words)(texts))
    likeness = vectors[1:] @ vectors[0]
    order = np.argsort(-likeness, kind="stable")[:number]
    return [tasks[i] for i in order]


def _count_words(texts: Sequence[str]) -> np.ndarray:
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    words = sorted(set().union(*counts))
    goals = {word: sum(word in count for count in counts) for word in words}
    table = np.array(
        [
            [count[word] * (1 + math.log((1 + len(texts)) / (1 + goals[word]))) for word in words]
            for count in counts
        ],
        float,
    ).reshape(len(texts), len(words))
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
