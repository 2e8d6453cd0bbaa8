"""Format what the doctor found: a table of reward sources and a line for each defect."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from firstlight.agents.diagnostics.doctor import Evidence
    from firstlight.agents.diagnostics.run_diagnostics import DiagnosticsResult

_WORDS = ("source", "falls with visits", "without it", "verdict")  # columns aligned to the left
_COLUMNS = ("source", "weight", "per step", "share", *_WORDS[1:])


def report(seen: DiagnosticsResult) -> list[str]:
    """Format the result of an examination as lines of text."""
    from firstlight.agents.diagnostics.doctor import shares_of

    shares = list(shares_of(seen.evidence))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in _WORDS else "right", no_wrap=True)
    for name, source in seen.evidence.items():
        mean = sum(share.get(name, 0.0) for share in shares) / max(len(shares), 1)
        defects = [finding.kind for finding in seen.findings if finding.source == name]
        table.add_row(*_row(name, source, mean, defects))
    lines = [f"{seen.steps:,} environment steps in {seen.seconds:.0f} seconds", ""]
    lines += _as_text(table)
    lines += ["", f"first update with every source: {seen.first or 'there was none'}"]
    lines += [f"{f.source} is {f.kind}: {f.sentence}" for f in seen.findings]
    return lines if seen.findings else [*lines, "no defect was found"]


def _row(name: str, seen: Evidence, share: float, defects: Sequence[str]) -> tuple[str, ...]:
    counted = seen.counted
    size = sum(sizes.weighted for sizes in counted) / max(len(counted), 1)
    if not seen.novelty:
        falls = "-"
    elif seen.rank is None:
        falls = "unknown"
    else:
        falls = f"{'no' if 'not novel' in defects else 'yes'} ({seen.rank:+.2f})"
    return (
        name,
        f"{seen.weight:.3g}",
        f"{size:.2g}",
        f"{share:.1%}",
        falls,
        seen.without or "-",
        ", ".join(defects) or "ok",
    )


def _as_text(table: Table) -> list[str]:
    """Lines of a table without colours, as wide as it needs."""
    console = Console(
        file=io.StringIO(), width=1000, color_system=None, markup=False, highlight=False
    )
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]
