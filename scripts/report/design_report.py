"""Show a search for reward programs: a table on the terminal, and one page without network."""

from __future__ import annotations

import html
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from firstlight.intrinsic.design.design_search import DesignSearch, TrainedProgram
from firstlight.intrinsic.design.designers.base import TRAINED, ProgramResult
from firstlight.scripts.programs.final_check import WINNER, FinalVerdict
from firstlight.scripts.programs.finalists import Finalist

PAGE = "report.html"
"""Name of the page in the folder of a search."""
_SHOWN = 15  # programs in the table on the terminal
_WIDTH, _HEIGHT, _EDGE = 150, 36, 3  # of a curve, in pixels

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5f6670; --line: #d5d8da; --ground: #fff;
  --curve: #2456c4; --good: #14703f; --bad: #a3312a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e9ea; --soft: #a0a7b0; --line: #363b41;
  --ground: #16181b; --curve: #8ab0ff; --good: #7fd6a3; --bad: #f3a19a; } }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; color: var(--ink);
  background: var(--ground); font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.reason { overflow-wrap: anywhere; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1rem;
  margin: .8rem 0; }
article h3 { font-size: 1rem; margin: 0 0 .3rem; }
.curves { display: flex; flex-wrap: wrap; gap: .8rem; margin: .5rem 0; padding: 0; }
figure { margin: 0; width: 150px; } figcaption { font-size: .75rem; color: var(--soft);
  overflow-wrap: anywhere; }
polyline { fill: none; stroke: var(--curve); stroke-width: 1.5; }
pre { overflow-x: auto; font-size: .85rem; } code { font-size: .85rem; overflow-wrap: anywhere; }
"""


def write_report(
    folder: Path,
    search: DesignSearch,
    finalists: Sequence[Finalist],
    final: FinalVerdict | None,
    command: Sequence[str],
    spent: Mapping[str, float],
) -> None:
    """Print the table of a search, and write its page.

    Args:
        folder: of the search.
        search: as far as it has come.
        finalists: its best programs, trained again; none while they are not.
        final: verdict of the final check; None while there is none.
        command: words that ran it.
        spent: what the designer spent, by name.
    """
    results = _ranked(search.table.results)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_table(results))
    rejected = [result for result in search.table.results if result.verdict != TRAINED]
    counts = {result.verdict: 0 for result in rejected}
    for result in rejected:
        counts[result.verdict] += 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "none rejected"
    console.print(f"{len(search.table.results)} programs in {search.round} rounds: {told}")
    for finalist in finalists if len(finalists) > 1 else ():
        scores = ", ".join(map(_number, finalist.scores))
        told = f"finalist {finalist.result.proposal.hash}: task return {scores}{_failure(finalist)}"
        console.print(told, soft_wrap=True, markup=False)
    text = page(search, finalists, final, command, spent)
    (folder / PAGE).write_text(text, encoding="utf-8")
    console.print(_conclusion(final, folder), soft_wrap=True, markup=False)
    console.print(f"everything: {folder / PAGE}", soft_wrap=True, markup=False)


def page(
    search: DesignSearch,
    finalists: Sequence[Finalist],
    final: FinalVerdict | None,
    command: Sequence[str],
    spent: Mapping[str, float],
) -> str:
    """Return the page as HTML; every text of a program or a model is escaped."""
    results = search.table.results
    trained = [result for result in _ranked(results) if result.verdict == TRAINED]
    rejected = [result for result in results if result.verdict != TRAINED]
    cost = ", ".join(f"{name} {value:g}" for name, value in spent.items())
    parts = [
        "<h1>Search for a reward program</h1>",
        f"<p>{_escape(search.task.goal)}</p>",
        f"<p><code>{_escape(shlex.join(command))}</code></p>",
        f"<p class=soft>{len(results)} programs in {search.round} rounds"
        f"{'; ' + _escape(cost) if cost else ''}.</p>",
        *(_final_part(final) if final is not None else []),
        *(_finalists_part(finalists) if len(finalists) > 1 else []),
        "<h2>Trained programs, the best first</h2>",
        *(_program_part(result, final) for result in trained),
        *([] if trained else ["<p>None.</p>"]),
        "<h2>Rejected</h2>",
        *(_rejected_part(rejected) if rejected else ["<p>None.</p>"]),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Reward programs</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _conclusion(final: FinalVerdict | None, folder: Path) -> str:
    if final is None:
        return "no program has passed the final check yet"
    if not final.accepted:
        return f"no winner: {final.reason}"
    file = folder / WINNER
    return f"winner: {final.reason}; intrinsic=[program] intrinsic.program.file={file}"


def _ranked(results: Sequence[ProgramResult]) -> list[ProgramResult]:
    """One result of each program, the best first, then those without a training."""
    single = {result.proposal.hash: result for result in reversed(results)}
    return sorted(reversed(single.values()), key=lambda result: result.rank, reverse=True)


def _table(results: Sequence[ProgramResult]) -> Table:
    table = Table()
    for name in ("program", "round", "made by", "task return", "in training", "success"):
        table.add_column(name, justify="left" if name in ("program", "made by") else "right")
    table.add_column("components, or why it was rejected", overflow="fold")
    for result in results[:_SHOWN]:
        last = ", ".join(_components(result)) or f"{result.verdict}: {result.reason}"
        numbers = [_number(result.score), _number(result.training_return)]
        table.add_row(
            result.proposal.hash,
            str(result.round),
            result.proposal.how,
            *numbers,
            "" if result.success_rate is None else f"{result.success_rate:.0%}",
            last.replace("[", "\\["),
        )
    return table


def _components(result: ProgramResult) -> list[str]:
    return [name for name in result.curves if " " not in name]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _final_part(final: FinalVerdict) -> list[str]:
    """Table of the final trainings, seed by seed."""
    kind, word = ("good", "Winner") if final.accepted else ("bad", "No winner")
    rows = [
        f"<tr><td class=number>{seed}</td>{_cells(final.own[seed])}{_cells(final.without[seed])}"
        for seed in final.own
    ]
    return [
        "<h2>Final check, on further seeds</h2>",
        f"<p class={kind}>{word}: program {_escape(final.program)}, {_escape(final.reason)}.</p>",
        f"<p class=soft>{final.steps:,} environment steps each; the task's own return of the "
        "frozen policy, in brackets the mean over the training.</p>",
        "<div class=scroll><table><tr><th class=number>seed<th class=number>with the program"
        "<th class=number>without</tr>",
        *rows,
        "</table></div>",
    ]


def _finalists_part(finalists: Sequence[Finalist]) -> list[str]:
    """Table of the finalists' trainings, in the order of their means."""
    rows = [
        f"<tr><td>{finalist.result.proposal.hash}"
        + "".join(f"<td class=number>{_number(score)}" for score in finalist.scores)
        + (
            f"<td class='bad reason'>{_escape(finalist.error)}</tr>"
            if finalist.error
            else f"<td class=number>{_number(finalist.rank[0])}</tr>"
        )
        for finalist in finalists
    ]
    seeds = "<th class=number>further seed" * len(finalists[0].retrained)
    return [
        "<h2>Finalists, trained with further seeds</h2>",
        f"<p class=soft>{finalists[0].result.steps:,} environment steps each; the task's own "
        "return of the frozen policy.</p>",
        "<div class=scroll><table><tr><th>program<th class=number>search",
        f"{seeds}<th class=number>mean</tr>",
        *rows,
        "</table></div>",
    ]


def _failure(finalist: Finalist) -> str:
    return f"; failed: {finalist.error}" if finalist.error else ""


def _cells(trained: TrainedProgram) -> str:
    if trained.error:
        return f"<td class='bad reason'>{_escape(trained.error)}</td>"
    return f"<td class=number>{_number(trained.score)} ({_number(trained.training_return)})</td>"


def _program_part(result: ProgramResult, final: FinalVerdict | None) -> str:
    proposal = result.proposal
    is_final = final is not None and final.program == proposal.hash
    facts = [f"round {result.round}", proposal.how]
    facts += [f"parent {proposal.parent}"] if proposal.parent else []
    facts += [proposal.model] if proposal.model else []
    success = "" if result.success_rate is None else f", success {result.success_rate:.0%}"
    curves = "".join(_curve(name, values) for name, values in result.curves.items())
    return (
        f"<article><h3>{proposal.hash}{' (final check)' if is_final else ''}: task return "
        f"{_number(result.score)}{success}</h3>"
        f"<p class=soft>{_escape(', '.join(facts))}; {result.steps:,} steps; mean return over the "
        f"training {_number(result.training_return)}</p>"
        f"<div class=curves>{curves}</div>"
        f"<details{' open' if is_final else ''}><summary>source</summary>"
        f"<pre>{_escape(proposal.source)}</pre></details></article>"
    )


def _curve(name: str, values: Sequence[float]) -> str:
    """A small curve with its lowest and highest value."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (_WIDTH - 2 * _EDGE) / max(1, len(values) - 1)
    points = " ".join(
        f"{_EDGE + i * step:.1f},{_HEIGHT - _EDGE - (v - low) / span * (_HEIGHT - 2 * _EDGE):.1f}"
        for i, v in enumerate(values)
    )
    label = f"{_escape(name)}: {low:.3g} to {high:.3g}"
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}">'
        f'<polyline points="{points}"/></svg><figcaption>{label}</figcaption></figure>'
    )


def _rejected_part(rejected: Sequence[ProgramResult]) -> list[str]:
    rows = [
        f"<tr><td>{result.proposal.hash}<td class=number>{result.round}"
        f"<td>{_escape(result.verdict)}<td class=reason>{_escape(result.reason)}"
        f"<details><summary>source</summary><pre>{_escape(result.proposal.source)}</pre></details>"
        "</tr>"
        for result in rejected
    ]
    head = "<tr><th>program<th class=number>round<th>verdict<th>why</tr>"
    return ["<div class=scroll><table>", head, *rows, "</table></div>"]
