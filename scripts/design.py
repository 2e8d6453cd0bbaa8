"""Search for a reward program: ``firstlight-design env=ENV task="…" designer=template``."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from firstlight.scripts.benchmarks.options import (
    Parser,
    nonempty,
    parse_options,
    positive_integer,
    positive_number,
    seconds,
    switch,
    whole_number,
)
from firstlight.scripts.errors import CONF, FAILED, BadInputError, report_errors

USAGE = """firstlight-design searches for a reward program with which an agent solves its task.

  firstlight-design env=ENV task="WHAT THE AGENT IS TO ACHIEVE" [designer=template] [budget=2h]

Each program is checked, run on recorded steps in a sandbox, and trained with for a short time.
What counts is the task's own return alone. The best ones are trained again with further seeds, and
the best of these with others, beside trainings without a program.

  designer     {designers}; or the import path of your own.
               template needs no language model
  designer.KEY option of the designer, such as designer.samples=8 designer.rounds=4
  budget       no further training is started after this time; the default is no limit
  jobs         trainings at a time; default 1
  steps        environment steps of a training in the search; default 300000
  final_steps  of the trainings at the end; default three times as many
  seeds        number of trainings at the end, with a program and without; default 5
  finalists    programs of the search that are trained again, to choose the best; default 3
  finalist_seeds  further seeds of each of them; default 2
  probe_steps  steps of random play that programs are tried on; default 2048
  seed         of the search; default 0
  notes        what a language model should know about fields and actions
  remark       what you say about the last round, for designers that take it
  dir          of everything that is written; default runs/design/ENV-DESIGNER-sSEED
  dry_run      true: show what a language model would be asked, and its cost
  allow_unsandboxed   true: also where the kernel cannot confine programs

Language models: llm=NAME url=URL (an endpoint with OpenAI's interface; the key is in
OPENAI_API_KEY), or none of the two for a small local one; temperature=1.0 answer_tokens=2048
max_calls max_tokens calls_per_minute max_cost input_price output_price; answers=FILE takes recorded
answers, a JSON string in each line.

All other words are those of firstlight-train, such as env.num_envs=16 learner.lr=0.001.

The same command continues: nothing is asked or trained twice. At the end, DIR holds winner.py for
intrinsic=[program] intrinsic.program.file=DIR/winner.py, the results elites.jsonl, and report.html.
docs/reward_programs.md has more.
"""

OPTIONS: dict[str, Parser] = {
    **dict.fromkeys(("task", "designer", "dir", "notes", "remark"), nonempty),
    **dict.fromkeys(("llm", "url", "answers"), nonempty),
    **dict.fromkeys(("jobs", "steps", "final_steps", "seeds", "probe_steps"), positive_integer),
    **dict.fromkeys(("finalists", "finalist_seeds"), positive_integer),
    **dict.fromkeys(("max_calls", "max_tokens", "answer_tokens"), positive_integer),
    **dict.fromkeys(("temperature", "calls_per_minute"), positive_number),
    **dict.fromkeys(("max_cost", "input_price", "output_price"), positive_number),
    **dict.fromkeys(("dry_run", "allow_unsandboxed"), switch),
    "budget": seconds,
    "seed": whole_number,
}
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("task", "dir", "notes", "remark", "llm", "url", "answers"), ""),
    **dict.fromkeys(("max_calls", "max_tokens", "calls_per_minute")),
    **dict.fromkeys(("max_cost", "input_price", "output_price", "final_steps")),
    **{"designer": "template", "budget": math.inf, "jobs": 1, "steps": 300_000, "seeds": 5},
    **{"finalists": 3, "finalist_seeds": 2},
    **{"probe_steps": 2048, "seed": 0, "temperature": 1.0, "answer_tokens": 2048},
    **{"dry_run": False, "allow_unsandboxed": False},
}


def designer_names() -> list[str]:
    """Names of the files in ``conf/designer``."""
    return sorted(path.stem for path in (CONF / "designer").glob("*.yaml"))


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Split a command line into options of this command, of the designer, and of trainings.

    >>> split_words(["task=x", "designer.rounds=2", "env=chain"])
    (['task=x'], {'rounds': '2'}, ['env=chain'])

    Raises:
        BadInputError: for a word that is no option.
    """
    own, of_designer, rest = [], {}, []
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise BadInputError(f"firstlight-design takes KEY=VALUE, and got {word!r}")
        if key in OPTIONS:
            own.append(word)
        elif key.startswith("designer."):
            of_designer[key.removeprefix("designer.")] = value
        else:
            rest.append(word)
    return own, of_designer, rest


@report_errors
def main() -> None:
    """Run one search, or print the usage."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE.format(designers=", ".join(designer_names())))
        return
    own, of_designer, overrides = split_words(arguments)
    options = parse_options(own, "firstlight-design", OPTIONS, DEFAULTS)
    if not options["task"]:
        raise BadInputError('firstlight-design needs a task: give task="what the agent is to do"')
    from firstlight.scripts.programs.session import design

    if not design(options, of_designer, overrides):
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
