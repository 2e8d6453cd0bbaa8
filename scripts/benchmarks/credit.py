"""Measure who recognises transitions that achieve a subgoal, in MiniHack's KeyRoom (CALM).

``python -m firstlight.scripts.benchmarks.credit windows=50`` builds balanced windows and prints a
row for each trivial baseline. ``llm=local`` also asks the embedded model, ``llm=NAME url=URL`` any
other; ``observation=crop|tty|none``, ``role=``, ``legend=``, ``remark=`` and ``length=``
(transitions in a window) are variants. ``save=FILE`` writes the windows as JSON lines.

The truth is computed from keys held and closed doors, never from what the judge reads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from firstlight.envs.nethack.minihack import make
from firstlight.intrinsic.subgoals.transitions import (
    MINIHACK_ACTIONS,
    crop,
    describe_transition,
)
from firstlight.intrinsic.subgoals.verdicts import KEYROOM, TransitionPrompt
from firstlight.scripts.benchmarks.keyroom_play import GuidedPlayer

NONE = "none"
CLASSES = (*KEYROOM, NONE)


@dataclass(frozen=True)
class Window:
    """One or more transitions in a row.

    Args:
        text: what a judge reads.
        truth: which subgoals the last transition achieves, in the order of `KEYROOM`.
        kind: one of `CLASSES`.
        message: the message after the last action.
    """

    text: str
    truth: tuple[bool, ...]
    kind: str
    message: str


def build(
    number: int, *, observation: str = "crop", length: int = 1, seed: int = 0
) -> list[Window]:
    """Play until there are `number` windows of each class; the rest is left out.

    Args:
        number: windows of each class.
        observation: "crop", 9 x 9 characters; "tty", the whole terminal without message and action;
            "none", message and action alone.
        length: transitions of a window.
        seed: of the levels and the player.
    """
    keys = ["chars", "blstats", "message", *(["tty_chars"] if observation == "tty" else [])]
    vec = make("keyroom_s5", num_envs=8, keys=keys)
    player, rng = GuidedPlayer(seed=seed), np.random.default_rng(seed)
    obs, info = vec.reset(seed)
    first = torch.ones(8, dtype=torch.bool)
    found: dict[str, list[Window]] = {kind: [] for kind in CLASSES}
    before: list[list[str]] = [[] for _ in range(8)]
    while min(map(len, found.values())) < number:
        action = player.act(obs, info, first)
        step = vec.step(action)
        for n in range(8):
            if step.is_first[n] or not step.valid[n]:
                before[n] = []
                continue
            truth = (
                bool(step.info["keys_held"][n] > info["keys_held"][n]),
                bool(step.info["closed_doors"][n] < info["closed_doors"][n]),
            )
            message = bytes(step.obs["message"][n].numpy()).rstrip(b"\0").decode("latin-1")
            screens = [screen(part, n, observation) for part in (obs, step.obs)]
            text = describe_transition(MINIHACK_ACTIONS[int(action[n])], message, screens)
            if observation == "tty":
                text = "\n".join(["Before:", screens[0], "After:", screens[1]])
            if observation == "none":
                text = describe_transition(MINIHACK_ACTIONS[int(action[n])], message)
            before[n].append(text)
            kind = KEYROOM[truth.index(True)] if any(truth) else NONE
            rare = kind != NONE or rng.random() < 0.05  # spread over the whole recording
            if rare and len(before[n]) >= length and len(found[kind]) < number:
                shown = "\n\n".join(before[n][-length:])
                found[kind].append(Window(shown, truth, kind, message))
        obs, info, first = step.obs, step.info, step.is_first
    vec.close()
    return [window for kind in CLASSES for window in found[kind]]


def screen(obs: dict[str, torch.Tensor], n: int, observation: str) -> str:
    """Characters around the hero, or of the whole terminal, as lines."""
    if observation == "none":
        return ""
    if observation == "tty":
        rows = obs["tty_chars"][n].numpy()
        return "\n".join(bytes(row).decode("latin-1").rstrip() for row in rows)
    one = obs["chars"][n : n + 1], obs["blstats"][n : n + 1]
    rows = crop(*one, empty=ord(" "))[0].numpy()
    return "\n".join(" ".join(map(chr, row)) for row in rows)


def scores(answers: Sequence[Sequence[bool] | None], windows: Sequence[Window]) -> dict[str, float]:
    """Score detection of any subgoal, whichever; no answer counts as "none".

    Returns:
        accuracy, precision, recall, f1, the four counts, the share of windows whose subgoals are
        all right (`exact`), and that of windows without an answer.
    """
    said = [answer is not None and any(answer) for answer in answers]
    true = [any(window.truth) for window in windows]
    pairs = [*zip(said, true, strict=True)]
    tp, fp = pairs.count((True, True)), pairs.count((True, False))
    fn, tn = pairs.count((False, True)), pairs.count((False, False))
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    both = zip(answers, windows, strict=True)
    exact = [tuple(a) == w.truth for a, w in both if a is not None]
    return {
        "accuracy": (tp + tn) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
        "exact": sum(exact) / len(windows),
        "no_answer": sum(answer is None for answer in answers) / len(windows),
    }


def baselines(seed: int = 0) -> dict[str, Callable[[Window], tuple[bool, bool]]]:
    """Judges that need no model: always, never, at random, and one word of the message."""
    rng = np.random.default_rng(seed)

    def by_word(window: Window) -> tuple[bool, bool]:
        words = window.message.lower()
        return "key" in words, "door" in words

    return {
        "always": lambda _: (True, True),
        "never": lambda _: (False, False),
        "random": lambda _: (bool(rng.random() < 1 / 3), bool(rng.random() < 1 / 3)),
        "word in the message": by_word,
    }


def main(words: Sequence[str]) -> None:
    """Print a row for each judge."""
    options = dict(word.split("=", 1) for word in words)
    observation, length = options.get("observation", "crop"), int(options.get("length", 1))
    number = int(options.get("windows", 50))
    windows = build(number, observation=observation, length=length)
    print(f"{len(windows)} windows, {number} of each of {', '.join(CLASSES)}")
    if "save" in options:
        lines = [json.dumps(asdict(window)) + "\n" for window in windows]
        Path(options["save"]).write_text("".join(lines), encoding="utf-8")
    for name, judge in baselines().items():
        print(row(name, scores([judge(window) for window in windows], windows)))
    if "llm" in options:
        from firstlight.intrinsic.subgoals.json_judge import JsonJudge

        variants = {name: options.get(name, "none") for name in ("role", "legend", "remark")}
        asked = JsonJudge(
            model=None if options["llm"] == "local" else options["llm"],
            url=options.get("url"),
            prompt=TransitionPrompt(KEYROOM, **variants),
        )
        answers: list[list[bool] | None] = []
        for start in range(0, len(windows), 4):
            texts = [window.text for window in windows[start : start + 4]]
            answers += [json.loads(x) if isinstance(x, str) else None for x in asked.rate(texts)]
        asked.close()
        print(row(f"{asked.model}, {observation}, {variants}", scores(answers, windows)))


def row(name: str, found: dict[str, float]) -> str:
    """A line of the table."""
    return f"{name}: " + "  ".join(f"{key} {value:.3g}" for key, value in found.items())


if __name__ == "__main__":
    main(sys.argv[1:])
