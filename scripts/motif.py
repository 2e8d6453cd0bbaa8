"""Learn a reward from preferences over captions: ``firstlight-motif collect FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.scripts.benchmarks.options import (
    Parser,
    nonempty,
    parse_options,
    positive_integer,
    positive_number,
    switch,
    whole_number,
)
from firstlight.scripts.errors import BadInputError, report_errors, suggestion

USAGE = """firstlight-motif learns a reward from preferences over captions, before training.

  firstlight-motif collect FOLDER env=ENV [steps=100000] [status=true] [seed=0]
  firstlight-motif collect FOLDER run=RUN [which=newest|best] [steps=100000] …
      play with random actions, or with the policy of a run, and keep the captions of its steps;
      with status=true, on NetHack, a judge also sees depth, gold, health and hunger.
      Several of these add up.
  firstlight-motif annotate FOLDER [pairs=10000] [judge=embedding|rule|llm] [goal=GOAL] [url=URL]
                   [llm=NAME] [family=FAMILY] [store=FILE] [seed=0] [request_size=8]
                   [num_requests=N] [max_calls=N] [max_tokens=N] [calls_per_minute=N]
      have a judge compare pairs of captions; by default 8 requests at once to a URL, else 1
  firstlight-motif train FOLDER [epochs=10] [batch_size=64] [lr=0.001] [width=32] [length=128]
                   [hidden=128] [seed=0]
      fit the reward model, and write FOLDER/reward.safetensors
  firstlight-train env=ENV intrinsic=[motif] intrinsic.motif.file=FOLDER/reward.safetensors
      use it

Each command goes on where it was interrupted when it is given again; a pair that has a label is
never asked again. FOLDER holds captions.sqlite and labels.sqlite, whose labels firstlight-annotate
shows and corrects. docs/llm_feedback.md has more.
"""

OPTIONS: dict[str, dict[str, Parser]] = {
    "collect": {
        "steps": positive_integer,
        "run": nonempty,
        "which": nonempty,
        "allow": nonempty,
        "status": switch,
        "seed": whole_number,
    },
    "annotate": {
        "pairs": positive_integer,
        **dict.fromkeys(("judge", "family", "goal", "url", "llm", "store"), nonempty),
        "seed": whole_number,
        "request_size": positive_integer,
        "num_requests": positive_integer,
        "max_calls": positive_integer,
        "max_tokens": positive_integer,
        "calls_per_minute": positive_number,
    },
    "train": {
        "epochs": positive_integer,
        "batch_size": positive_integer,
        "lr": positive_number,
        "width": positive_integer,
        "length": positive_integer,
        "hidden": positive_integer,
        "seed": whole_number,
    },
}
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("run", "family", "url", "llm", "store", "allow"), ""),
    **dict.fromkeys(("num_requests", "max_calls", "max_tokens", "calls_per_minute")),
    "which": "newest",
    "steps": 100_000,
    "status": False,
    "seed": 0,
    "pairs": 10_000,
    "judge": "embedding",
    "goal": "default",
    "request_size": 8,
    "epochs": 10,
    "batch_size": 64,
    "lr": 1e-3,
    "width": 32,
    "length": 128,
    "hidden": 128,
}


def run(command: str, folder: Path, options: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Run one of the commands.

    Args:
        command: "collect", "annotate" or "train".
        folder: of all files.
        options: of the command.
        overrides: of ``conf/train.yaml``, for "collect".
    """
    if command == "collect":
        from firstlight.scripts.labels.collect import collect

        collect(folder, options, overrides)
    elif command == "annotate":
        from firstlight.scripts.labels.preferences import annotate

        annotate(folder, options)
    else:
        from firstlight.scripts.labels.fit_motif import fit

        fit(folder, options)


@report_errors
def main() -> None:
    """Run one command, or print the usage."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    words = [word for word in arguments if "=" not in word]
    command = words[0] if words else ""
    if command not in OPTIONS:
        what = f"{command!r} is no command" if command else "give a command"
        raise BadInputError(f"{what} of firstlight-motif{suggestion(command, OPTIONS)}")
    if len(words) != 2:
        given = " ".join(words[1:]) or "none"
        raise BadInputError(f"firstlight-motif {command} takes one folder, and got {given}")
    overrides: list[str] = []
    if command == "collect":  # the others describe the environment
        own = OPTIONS[command]
        overrides = [w for w in arguments if "=" in w and w.split("=", 1)[0] not in own]
        arguments = [word for word in arguments if word not in overrides]
    options = parse_options(arguments, f"firstlight-motif {command}", OPTIONS[command], DEFAULTS)
    run(command, Path(words[1]), options, overrides)


if __name__ == "__main__":
    main()
