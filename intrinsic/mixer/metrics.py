"""Compute the metrics of every reward source."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from firstlight.intrinsic.mixer.combine import Joint
from firstlight.intrinsic.mixer.rewards import Component
from firstlight.networks import collective

MAX_CORRELATED = 6
"""Largest number of sources for which pairwise correlations are logged; with 7 there are 21."""


@torch.no_grad()
def source_metrics(
    components: Mapping[str, Component],
    contributed: Mapping[str, Tensor],
    valid: Tensor,
    joint: Joint | None = None,
) -> dict[str, float]:
    """Compute ``reward/<source>/{raw,scaled,weighted,share,sparsity,correlation_<other>}``.

    Means over valid rows, of all processes. `share` is of the mean absolute contributions of all
    sources; `sparsity` is the fraction of rows whose raw value is exactly 0. Correlations, those of
    this process, are between scaled values and are logged under the source that comes first; a
    constant has none. Joined sources have equal shares of their bonus; ``correlation_joined``, of
    the source and the bonus, shows which of them decides *where* the bonus is high.

    Args:
        components: of each source.
        contributed: source name to [T, N], see `Rewards`.
        valid: [T, N] bool.
        joint: the bonus of joined sources.
    """
    names, count = list(components), collective.sum(valid.sum()).clamp(min=1)
    if not names:
        return {}
    rows = torch.stack([components[name].scaled[valid] for name in names])  # [S, R]
    raws = torch.stack([components[name].raw[valid] for name in names])
    sizes = torch.stack([contributed[name][valid] for name in names]).abs()
    columns = [
        collective.sum(column) / count
        for column in (raws.sum(1), rows.sum(1), sizes.sum(1), (raws == 0).sum(1))
    ]
    paired = 1 < len(names) <= MAX_CORRELATED
    joined = () if joint is None else joint.names
    if joint is not None:
        rows = torch.cat([rows, joint.bonus[valid][None]])
    known = paired or joint is not None
    correlation = _correlation(rows)[: len(names)] if known else rows.new_zeros(len(names), 0)
    table = torch.cat([torch.stack(columns, 1), correlation], 1).tolist()  # one device sync
    total = sum(line[2] for line in table) or 1.0
    metrics = {}
    for i, (name, line) in enumerate(zip(names, table, strict=True)):
        metrics[f"reward/{name}/raw"] = line[0]
        metrics[f"reward/{name}/scaled"] = line[1]
        metrics[f"reward/{name}/weighted"] = components[name].weight * line[1]
        metrics[f"reward/{name}/share"] = line[2] / total
        metrics[f"reward/{name}/sparsity"] = line[3]
        others = dict(list(zip(names, line[4:], strict=False))[i + 1 :]) if paired else {}
        if name in joined:
            others["joined"] = line[-1]
        for other, value in others.items():
            if value == value:
                metrics[f"reward/{name}/correlation_{other}"] = value
    return metrics


def _correlation(rows: Tensor) -> Tensor:
    """Compute the correlation matrix [S, S] of rows [S, R]; NaN for a constant row."""
    rows = rows.double()
    away = rows - rows.mean(1, keepdim=True)
    length = away.square().sum(1).sqrt()
    rounding = 1e-12 * rows.square().sum(1).sqrt()  # of the mean of a constant
    length = torch.where(length > rounding, length, torch.nan)
    return ((away @ away.T) / (length[:, None] * length)).float()
