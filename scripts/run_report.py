"""Write a page about a run: ``firstlight-report run=runs/NAME``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from firstlight.scripts.errors import BadInputError, report_errors, suggestion

USAGE = """firstlight-report writes one HTML page about a run, or about several.

  firstlight-report run=DIR [run=DIR ...] [out=FILE]

  run   a run directory; several may be given, also as run=DIR,DIR. Runs that differ only in their
        seed are drawn as one line, the median, with a band, the range
  out   the file; default report.html in the directory of the first run

The page has the curves, the share of each reward, where each was given (of runs with
heat_maps=true), an episode with its rewards (after firstlight-evaluate run=DIR video=true
rewards=true), the configuration and the command. It needs no server and loads nothing.
"""


def read_words(words: Sequence[str]) -> tuple[list[Path], Path]:
    """Read the command line. Returns the run directories, each once, and the file to write.

    Raises:
        BadInputError: for an unknown option, or without a run.
    """
    runs: list[Path] = []
    out = None
    for word in words:
        key, _, value = word.partition("=")
        if key not in ("run", "out") or not value:
            hint = suggestion(key, ["run", "out"])
            raise BadInputError(f"firstlight-report takes run=DIR and out=FILE, not {word!r}{hint}")
        if key == "out":
            out = Path(value)
        else:
            runs += [Path(part) for part in value.split(",") if part]
    if not runs:
        raise BadInputError("run has no value: give run=..., the directory of a run")
    return list(dict.fromkeys(runs)), out or runs[0] / "report.html"


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Write the page of some runs.

    Raises:
        BadInputError: if a directory holds no run, or the file cannot be written.
    """
    from firstlight.envs.files import replacing
    from firstlight.scripts.report.run_data import grouped, read_run
    from firstlight.scripts.report.run_page import run_page

    text = run_page(grouped([read_run(path) for path in runs]))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"out={out}: {error.strerror}") from error


@report_errors
def main() -> None:
    """Write the page, or print the usage."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(USAGE, end="")
        return
    runs, out = read_words(words)
    write_report(runs, out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
