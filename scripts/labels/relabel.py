"""Ask a judge again for labels that a store has."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from firstlight.intrinsic.language.judges.judge import Judge, JudgeError
from firstlight.intrinsic.language.label_listing import LabelFilter, find_entries
from firstlight.intrinsic.language.limits import CircuitBreaker
from firstlight.intrinsic.language.store import Item, Label, LabelStore
from firstlight.scripts.errors import FAILED, BadInputError, print_line
from firstlight.scripts.labels.judge_options import judge_of


def ask_again(store: LabelStore, chosen: LabelFilter, options: Mapping[str, Any]) -> None:
    """Have a judge label the texts of a filter, also those that it has labelled before.

    Each answer is written at once, in the place of the judge's label for the same prompt.

    Args:
        store: is read and written.
        chosen: which texts.
        options: ``judge``, ``family``, ``goal``, ``url``, ``llm``, ``request_size``; and
            ``source``, the word for the store.

    Raises:
        BadInputError: for options that make no judge.
    """
    entries = find_entries(store, chosen, order="newest")
    items = [*dict.fromkeys(entry.label.item for entry in entries)]
    if not options["judge"]:
        raise BadInputError("relabel needs a judge: give judge=embedding, judge=rule or judge=llm")
    family = options["family"] or family_of_run(Path(options["source"]))
    if not family:
        raise BadInputError("which texts are these? Give family=minigrid, nethack or generic")
    judge = judge_of(options, family, pairs=any(len(item) == 2 for item in items))
    try:
        new = changed = 0
        for start in range(0, len(items), options["request_size"]):
            batch = items[start : start + options["request_size"]]
            for part in ([x for x in batch if len(x) == length] for length in (1, 2)):
                found = _ask(store, judge, part) if part else (0, 0)
                new, changed = new + found[0], changed + found[1]
    finally:
        judge.close()
    print(
        f"{judge.model} labelled {len(items)} texts: {new} for the first time, {changed} otherwise "
        "than before"
    )


def family_of_run(run: Path) -> str:
    """Tell the family of prompts by a run's environment; "" if there is no run.

    Nothing else is taken from the config, which may be another person's: neither the address that
    texts are sent to nor the name of a model.
    """
    if not (run / "config.yaml").is_file():
        return ""
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    target = str(OmegaConf.select(config, "env._target_"))
    return next((name for name in ("minigrid", "nethack") if f".{name}" in target), "generic")


def _ask(store: LabelStore, judge: Judge, items: list[Item]) -> tuple[int, int]:
    """Ask for items of one length and write the labels; count the new and the changed ones."""
    key = (judge.model, judge.prompt)
    began = time.monotonic()
    scores = _answer(judge, items)
    latency = time.monotonic() - began
    before = store.find_of_judge(items, *key)
    store.put([Label(x, s, *key, latency) for x, s in zip(items, scores, strict=True)])
    changed = sum(before.get(x, s) != s for x, s in zip(items, scores, strict=True))
    return len(items) - len(before), changed


def _answer(judge: Judge, items: list[Item]) -> list[float | None]:
    """Ask until there is an answer, or the third failure in a row."""
    breaker = CircuitBreaker()
    while True:
        time.sleep(breaker.wait())
        try:
            return judge.answer(items)
        except JudgeError as error:
            breaker.fail(error.retry_after)
            if error.permanent or breaker.is_open:
                print_line(f"firstlight: {error}; what was answered before is stored")
                sys.exit(FAILED)
