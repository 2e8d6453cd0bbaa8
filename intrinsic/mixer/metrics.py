"""What is logged of every source, and the line that says one of them drowns the task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.intrinsic.mixer.combine import Joint
from firstlight.intrinsic.mixer.rewards import Part

MAX_CORRELATED = 6
"""Sources up to which each pair's correlation is logged; with seven there were 21 more numbers."""

LIMIT, RECOVERED = 0.9, 0.8
"""Shares of the reward at which a bonus is reported, and below which it may be so again."""

log = logging.getLogger(__name__)


@torch.no_grad()
def source_metrics(
    parts: Mapping[str, Part],
    contributed: Mapping[str, Tensor],
    valid: Tensor,
    joint: Joint | None = None,
) -> dict[str, float]:
    """``reward/<source>/{raw,scaled,weighted,share,sparsity,correlation_<other>}``.

    Means over valid rows. `share` is of the mean absolute contributions of all sources; `sparsity`
    is the share of rows whose raw value is exactly 0. A correlation is between scaled values and
    stands under the source that comes first; a constant has none. Sources that are joined have
    equal shares of their bonus, which is how a product divides; which of them decides *where* it is
    paid is told by ``correlation_joined``, that of the source and the bonus.

    Args:
        parts: of each source.
        contributed: source name to [T, N], see `Rewards`.
        valid: [T, N] bool.
        joint: the bonus of sources that are joined.
    """
    names, count = list(parts), valid.sum().clamp(min=1)
    if not names:
        return {}
    rows = torch.stack([parts[name].scaled[valid] for name in names])  # [S, R]
    raws = torch.stack([parts[name].raw[valid] for name in names])
    sizes = torch.stack([contributed[name][valid] for name in names]).abs()
    columns = [
        raws.sum(1) / count,
        rows.sum(1) / count,
        sizes.sum(1) / count,
        (raws == 0).sum(1) / count,
    ]
    paired = 1 < len(names) <= MAX_CORRELATED
    joined = () if joint is None else joint.names
    if joint is not None:
        rows = torch.cat([rows, joint.bonus[valid][None]])
    known = paired or joint is not None
    correlation = _correlation(rows)[: len(names)] if known else rows.new_zeros(len(names), 0)
    table = torch.cat([torch.stack(columns, 1), correlation], 1).tolist()  # waits once
    total = sum(line[2] for line in table) or 1.0
    metrics = {}
    for i, (name, line) in enumerate(zip(names, table, strict=True)):
        metrics[f"reward/{name}/raw"] = line[0]
        metrics[f"reward/{name}/scaled"] = line[1]
        metrics[f"reward/{name}/weighted"] = parts[name].weight * line[1]
        metrics[f"reward/{name}/share"] = line[2] / total
        metrics[f"reward/{name}/sparsity"] = line[3]
        others = dict(list(zip(names, line[4:], strict=False))[i + 1 :]) if paired else {}
        if name in joined:
            others["joined"] = line[-1]
        for other, value in others.items():
            if value == value:
                metrics[f"reward/{name}/correlation_{other}"] = value
    return metrics


class Alarm(nn.Module):
    """Warns once when a bonus makes more than nine tenths of the reward, and again after recovery.

    Only iterations in which the environment paid anything are judged: before the first light every
    bonus makes all of the reward, and that is what it is for. In one that paid, 0.9 means that of
    every ten units of reward that the learner hears nine come from this source, nine times what the
    task and all the others say together; a gradient to which the task adds a tenth is the bonus'.
    It may be so for a while after the first success, while success is rare, which is why this is a
    line in the log and nothing is changed. Below 0.8 the source has recovered; the gap between the
    two keeps one that hovers from filling the log. Sources that are joined are judged as one.

    Args:
        names: of all sources.

    Attributes:
        loud: [S] bool, by the order of the names: what was warned of and has not recovered.
    """

    loud: Tensor

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = list(names)
        self.register_buffer("loud", torch.zeros(len(self.names), dtype=torch.bool))

    def forward(self, metrics: Mapping[str, float], joined: Sequence[str] = ()) -> None:
        """Judge what `source_metrics` returned, of which these sources were `joined`."""
        if not (task := metrics.get("reward/reward/share")):
            return
        share = {name: metrics.get(f"reward/{name}/share") for name in self.names}
        single = [[name] for name in self.names if name not in joined and name != "reward"]
        loud = dict(zip(self.names, self.loud.tolist(), strict=True))
        for group in [*single, list(joined)]:
            counted = [own for name in group if (own := share[name]) is not None]
            if not counted:
                continue
            if sum(counted) > LIMIT and not any(loud[name] for name in group):
                loud |= dict.fromkeys(group, True)
                _warn(group, sum(counted), task)
            elif sum(counted) < RECOVERED:
                loud |= dict.fromkeys(group, False)
        self.loud = torch.tensor(list(loud.values()), device=self.loud.device)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(prefix + "loud")
        if saved is None or saved.shape != self.loud.shape:  # once it was not saved
            state_dict[prefix + "loud"] = torch.zeros_like(self.loud)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _warn(group: Sequence[str], share: float, task: float) -> None:
    names = " and ".join(map(repr, group))
    several = len(group) > 1
    log.warning(
        "reward %s %.1f%% of all reward, the task %.1f%%: unless the task is being learnt all the "
        "same, lower mixer.terms.%s.weight or hold %s with a budget (ShareCap, EpisodeCap)",
        f"sources {names} together make" if several else f"source {names} makes",
        *(100 * share, 100 * task, group[0]),
        "one of them" if several else "the source",
    )


def _correlation(rows: Tensor) -> Tensor:
    """[S, S] of rows [S, R]; NaN with a constant."""
    rows = rows.double()
    away = rows - rows.mean(1, keepdim=True)
    length = away.square().sum(1).sqrt()
    rounding = 1e-12 * rows.square().sum(1).sqrt()  # of the mean of a constant
    length = torch.where(length > rounding, length, torch.nan)
    return ((away @ away.T) / (length[:, None] * length)).float()
