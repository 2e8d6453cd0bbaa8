"""Warn when a bonus dominates the environment's reward."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.networks import collective

LIMIT, RECOVERED = 0.9, 0.8
"""Share of the reward above which a bonus is reported, and below which it may be reported again."""

log = logging.getLogger(__name__)


class DominanceMonitor(nn.Module):
    """Warns once when a bonus exceeds 90 % of all reward, and again only after it fell below 80 %.

    Only iterations with some reward from the environment count: in a sparse task, until the first
    success every bonus makes up all of the reward, as intended. At 0.9 the bonus contributes nine
    times as much as the task and all other sources together, so the gradient is mostly the bonus'.
    That may be right for a while after the first success, while successes are rare, so the monitor
    only logs and changes nothing. The gap between the two limits avoids repeated warnings for a
    share close to 0.9. Joined sources are judged as one.

    Args:
        names: of all sources.

    Attributes:
        loud: [S] bool, in the order of `names`: reported and not recovered since.
    """

    loud: Tensor

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = list(names)
        self.register_buffer("loud", torch.zeros(len(self.names), dtype=torch.bool))

    def forward(self, metrics: Mapping[str, float], joined: Sequence[str] = ()) -> None:
        """Check the result of `source_metrics`; `joined` names the sources that are joined."""
        if not (task := metrics.get("reward/reward/share")):
            return
        share = {name: metrics.get(f"reward/{name}/share") for name in self.names}
        single = [[name] for name in self.names if name not in joined and name != "reward"]
        loud = dict(zip(self.names, self.loud.tolist(), strict=True))
        for group in [*single, list(joined)]:
            shares = [value for name in group if (value := share[name]) is not None]
            if not shares:
                continue
            if sum(shares) > LIMIT and not any(loud[name] for name in group):
                loud |= dict.fromkeys(group, True)
                if collective.rank() == 0:
                    _warn(group, sum(shares), task)
            elif sum(shares) < RECOVERED:
                loud |= dict.fromkeys(group, False)
        self.loud = torch.tensor(list(loud.values()), device=self.loud.device)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(prefix + "loud")
        if saved is None or saved.shape != self.loud.shape:  # early checkpoints do not have it
            state_dict[prefix + "loud"] = torch.zeros_like(self.loud)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _warn(group: Sequence[str], share: float, task: float) -> None:
    names = " and ".join(map(repr, group))
    several = len(group) > 1
    log.warning(
        "reward %s %.1f%% of all reward, the task %.1f%%: unless the task is being learnt all the "
        "same, lower mixer.terms.%s.weight or limit %s with a budget (ShareCap, EpisodeCap)",
        f"sources {names} together make" if several else f"source {names} makes",
        *(100 * share, 100 * task, group[0]),
        "one of them" if several else "the source",
    )
