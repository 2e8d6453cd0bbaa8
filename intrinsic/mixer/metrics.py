"""What is logged of every source, and the line that says one of them drowns the task."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

MAX_CORRELATED = 6
"""Sources up to which each pair's correlation is logged; with seven there were 21 more numbers."""

LIMIT, RECOVERED = 0.9, 0.8
"""Shares of the reward at which a bonus is reported, and below which it may be so again."""

log = logging.getLogger(__name__)


@torch.no_grad()
def source_metrics(
    raw: Mapping[str, Tensor],
    scaled: Mapping[str, Tensor],
    weight: Mapping[str, float],
    valid: Tensor,
) -> dict[str, float]:
    """``reward/<source>/{raw,scaled,weighted,share,sparsity,correlation_<other>}``.

    Means over valid rows. `share` is of the mean absolute weighted values of all sources;
    `sparsity` is the share of rows whose raw value is exactly 0. A correlation is between scaled
    values and stands under the source that comes first; a constant has none.

    Args:
        raw: source name to [T, N], 0 on rows that are not valid.
        scaled: likewise.
        weight: of each source.
        valid: [T, N] bool.
    """
    names, count = list(raw), valid.sum().clamp(min=1)
    if not names:
        return {}
    rows = torch.stack([scaled[name][valid] for name in names])  # [S, R]
    raws = torch.stack([raw[name][valid] for name in names])
    columns = [
        raws.sum(1) / count,
        rows.sum(1) / count,
        rows.abs().sum(1) / count,
        (raws == 0).sum(1) / count,
    ]
    several = 1 < len(names) <= MAX_CORRELATED
    correlation = _correlation(rows) if several else rows.new_zeros(len(names), 0)
    table = torch.cat([torch.stack(columns, 1), correlation], 1).tolist()  # waits once
    size = [abs(weight[name]) * line[2] for name, line in zip(names, table, strict=True)]
    total = sum(size) or 1.0
    metrics = {}
    for i, (name, line) in enumerate(zip(names, table, strict=True)):
        metrics[f"reward/{name}/raw"] = line[0]
        metrics[f"reward/{name}/scaled"] = line[1]
        metrics[f"reward/{name}/weighted"] = weight[name] * line[1]
        metrics[f"reward/{name}/share"] = size[i] / total
        metrics[f"reward/{name}/sparsity"] = line[3]
        for other, value in list(zip(names, line[4:], strict=False))[i + 1 :]:
            if value == value:
                metrics[f"reward/{name}/correlation_{other}"] = value
    return metrics


class Alarm:
    """Warns once when a bonus makes more than nine tenths of the reward, and again after recovery.

    Only iterations in which the environment paid anything are judged: before the first light every
    bonus makes all of the reward, and that is what it is for. In one that paid, 0.9 means that of
    every ten units of reward that the learner hears nine come from this source, nine times what the
    task and all the others say together; a gradient to which the task adds a tenth is the bonus'.
    It may be so for a while after the first success, while success is rare, which is why this is a
    line in the log and nothing is changed. Below 0.8 the source has recovered; the gap between the
    two keeps one that hovers from filling the log. Not saved: a resumed run may say it once more.
    """

    def __init__(self) -> None:
        self.loud: set[str] = set()

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Judge what `source_metrics` returned."""
        if not metrics.get("reward/reward/share"):
            return
        for tag, share in metrics.items():
            _, name, what = tag.split("/", 2)
            if what != "share" or name == "reward":
                continue
            if share > LIMIT and name not in self.loud:
                self.loud.add(name)
                log.warning(
                    "reward source %r makes %.1f%% of all reward, the task %.1f%%: unless the task "
                    "is being learnt all the same, lower mixer.terms.%s.weight or hold the source "
                    "with a budget (ShareCap, EpisodeCap)",
                    *(name, 100 * share, 100 * metrics["reward/reward/share"], name),
                )
            elif share < RECOVERED:
                self.loud.discard(name)


def _correlation(rows: Tensor) -> Tensor:
    """[S, S] of rows [S, R]; NaN with a constant."""
    rows = rows.double()
    away = rows - rows.mean(1, keepdim=True)
    length = away.square().sum(1).sqrt()
    rounding = 1e-12 * rows.square().sum(1).sqrt()  # of the mean of a constant
    length = torch.where(length > rounding, length, torch.nan)
    return ((away @ away.T) / (length[:, None] * length)).float()
