"""``firstlight-train … doctor=true``: try every reward source for a minute and name what is wrong.

Nothing is left behind: neither a run directory nor a checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import say

if TYPE_CHECKING:
    from firstlight.agents.diagnostics.doctor import Evidence
    from firstlight.agents.diagnostics.run_diagnostics import DiagnosticsResult

_COLUMNS = ("source", "weight", "paid a step", "share", "falls with visits", "without it", "is")


def doctor(cfg: DictConfig) -> int:
    """Examine what `cfg` configures and print what was found.

    Args:
        cfg: of a training run, checked.

    Returns:
        How many defects were named.
    """
    import torch

    from firstlight.agents.diagnostics.run_diagnostics import run_diagnostics
    from firstlight.scripts.build import build, make_vec

    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    nowhere = {"run_dir": None, "resume": None, "checkpoint": {"every": None, "barrier": False}}
    with ExitStack() as ends:
        vec = make_vec(cfg.env)
        ends.callback(vec.close)
        run = build(OmegaConf.merge(cfg, nowhere), vec)  # type: ignore[arg-type]
        names = ", ".join(run.modules) or "no module"
        say(f"doctor: trying {names}, for about {cfg.doctor_seconds:g} seconds")
        seen = run_diagnostics(run, total_steps=cfg.total_steps, seconds=cfg.doctor_seconds)
    for line in report(seen):
        say(line, sys.stdout)
    return len(seen.findings)


def report(seen: DiagnosticsResult) -> list[str]:
    """Lines of text: a table with one for each source, and a sentence for each defect."""
    from firstlight.agents.diagnostics.doctor import shares_of

    shares = list(shares_of(seen.evidence))
    defects = {name: [f.kind for f in seen.findings if f.source == name] for name in seen.evidence}
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for name, source in seen.evidence.items():
        mean = sum(share.get(name, 0.0) for share in shares) / max(len(shares), 1)
        rows.append(_row(name, source, mean, defects[name]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{seen.steps:,} environment steps in {seen.seconds:.0f} seconds", ""]
    lines += [_line(row, widths) for row in rows]
    lines += ["", f"first update with every source: {seen.first or 'there was none'}"]
    lines += [f"{f.source} is {f.kind}: {f.sentence}" for f in seen.findings]
    return lines if seen.findings else [*lines, "no defect was found"]


def _row(name: str, seen: Evidence, share: float, defects: Sequence[str]) -> tuple[str, ...]:
    counted = seen.counted
    paid = sum(sizes.weighted for sizes in counted) / max(len(counted), 1)
    if not seen.novelty:
        falls = "-"
    elif seen.rank is None:
        falls = "no telling"
    else:
        falls = f"{'no' if 'not novel' in defects else 'yes'} ({seen.rank:+.2f})"
    return (
        name,
        f"{seen.weight:.3g}",
        f"{paid:.2g}",
        f"{share:.1%}",
        falls,
        seen.without or "-",
        ", ".join(defects) or "well",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    padded = [
        cell.rjust(width) if 1 <= i <= 3 else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()
