"""Command line of ``firstlight-bench``: options, help, bad input, and result lines."""

import json

import pytest
from command_line import command

from firstlight.scripts import bench
from firstlight.scripts.benchmarks import options, results


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("learnign", "bonuses"), "did you mean 'learning'?"),
        (("learning", "bonusses"), "did you mean 'bonuses'?"),
        (
            ("learning",),
            "learning needs a table; choose from appo, battery, ",
        ),
        (("learning", "bonuses", "budget=soon"), "budget=soon: expected a time, such as 90m"),
        (("learning", "bonuses", "budget=-3m"), "budget=-3m: expected a time"),
        (("learning", "bonuses", "budget=nan"), "budget=nan: expected a time"),
        (("learning", "bonuses", "only=cuont"), "did you mean 'count'?"),
        (("learning", "bonuses", "demo"), "'demo' is one word too many for learning"),
        (("stages", "round=2"), "stages takes no option 'round'; did you mean 'rounds'?"),
        (("stages", "rounds=0"), "rounds=0: expected a whole number, at least 1"),
        (("throughput", "steps=1e5"), "steps=1e5: expected a whole number, at least 1"),
        (("modules", "only=rmd", "peers=none"), "did you mean 'rnd'?"),
        (("modules", "peers="), "peers=: expected a name"),
        (("report", "rounds=3"), "report takes no option 'rounds'"),
        (("rounds=3",), "give a command"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_writes_nothing(words, part, here):
    done = command(bench.main, *words)
    assert done.status == 2
    (line,) = done.lines()
    assert line.startswith("firstlight: ")
    assert part in line
    assert [path.name for path in here.rglob("*")] == ["docs"]


@pytest.mark.parametrize("words", [(), ("--help",), ("learning", "-h")])
def test_help_names_every_command_and_option(words):
    done = command(bench.main, *words)
    assert done.status == 0
    for name, parsers in options.OPTIONS.items():
        (line,) = [line for line in done.out.splitlines() if f"firstlight-bench {name}" in line]
        assert all(f"[{option}=" in line for option in parsers)


def test_options_are_parsed_by_kind():
    words, given = options.read_options(["learning", "bonuses", "budget=2h", "only=rnd"])
    assert words == ["learning", "bonuses"]
    assert given == {"budget": 7200.0, "only": "rnd"}
    assert options.read_options(["stages", "steps=1_000"])[1] == {"rounds": 3, "steps": 1000}


def test_appended_lines_can_be_read():
    results.append("some", {"row": "α", "value": [1.5, 2]})
    results.append("some", {"row": "β"})
    assert results.read("some") == [{"row": "α", "value": [1.5, 2]}, {"row": "β"}]
    text = (results.RESULTS / "some.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == results.read("some")
