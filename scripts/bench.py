"""Measure: ``firstlight-bench throughput``, ``learning TABLE budget=90m``, ``report``."""

from __future__ import annotations

import sys

USAGE = """firstlight-bench measures, and writes what it measured into docs/results.

  firstlight-bench throughput [rounds=3] [steps=250000] [peers=.venv-peers]
      training steps per second against Stable-Baselines3, alternating
  firstlight-bench learning TABLE [budget=90m] [only=PART_OF_A_NAME]
      run the cells of a learning table that are still missing, one line each
  firstlight-bench report
      draw tables and curves from docs/results into docs/benchmarks.md
"""


def seconds(budget: str) -> float:
    """Seconds in "90m", "2h", "30s" or a plain number of seconds.

    >>> seconds("90m"), seconds("2h"), seconds("45")
    (5400.0, 7200.0, 45.0)
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(budget[-1:])
    return float(budget[:-1]) * unit if unit else float(budget)


def main() -> None:
    """The command."""
    words = [word for word in sys.argv[1:] if "=" not in word]
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if not words or words[0] in ("-h", "--help") or "--help" in words:
        print(USAGE)
    elif words == ["throughput"]:
        from firstlight.scripts.throughput import measure

        measure(
            rounds=int(options.get("rounds", 3)),
            steps=int(options.get("steps", 250_000)),
            peers=options.get("peers", ".venv-peers"),
        )
    elif words[0] == "learning" and len(words) == 2:
        from firstlight.scripts.learning import run_table

        budget = seconds(options.get("budget", "90m"))
        run_table(words[1], budget=budget, only=options.get("only", ""))
    elif words == ["report"]:
        from firstlight.scripts.report import write

        write()
    else:
        print(USAGE, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
