"""Budgets: limits on what one source may contribute, per episode or as a share of all reward."""

from __future__ import annotations

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.segments import mean, sums
from firstlight.intrinsic.mixer.terms import Budget
from firstlight.intrinsic.state import GrowingBuffers, read_rows, write_rows


class EpisodeCap(GrowingBuffers, Budget):
    """Limits the absolute bonus of an episode to `cap`; after that the bonus is 0.

    With a cap (times the term's weight) below the task's reward for success, collecting the bonus
    repeatedly never beats success: an enforceable form of the lesson of Clip & Delta (arXiv
    2410.15115), for any source. The row that reaches the cap gets the remainder.

    Args:
        cap: in units of the transformed source.

    Attributes:
        asked: [E] float64, absolute bonus before the cap in each environment's running episode.
    """

    asked: Tensor

    def __init__(self, *, cap: float):
        super().__init__()
        if cap < 0:
            raise ValueError(f"cap is {cap}, expected at least 0")
        self.cap = cap
        self.register_buffer("asked", torch.zeros(0, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None = None) -> Tensor:
        """Limit `scaled` [T, N]; store nothing."""
        left = (self.cap - self._sums(scaled, rollout)[:-1]).clamp(min=0).to(scaled.dtype)
        return torch.minimum(torch.maximum(scaled, -left), left)

    @torch.no_grad()
    def update(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None = None) -> None:
        """Add `scaled` [T, N] to the sums of the running episodes."""
        total = self._sums(scaled, rollout)[-1]
        self.asked = write_rows(self.asked, rollout.env_ids, total)

    def _sums(self, scaled: Tensor, rollout: Rollout) -> Tensor:
        return sums(scaled.abs(), rollout, read_rows(self.asked, rollout.env_ids))


class ShareCap(Budget):
    """Limits a source to `share` of all reward, by mean absolute weighted value per iteration.

    If the source exceeds its share, its whole rollout is scaled by one factor, so a bonus that
    explodes is limited in that same iteration and keeps its shape. It is compared with the sources
    *without* a relative budget. Where those contribute nothing, as in most rollouts of a sparse
    task, their mean over earlier iterations in which they contributed is used; until they have
    contributed once, nothing is limited, unless `floor` gives a minimum. If a combine joins the
    source with others, the joint bonus is limited.

    Args:
        share: in (0, 1).
        floor: minimum assumed contribution of the others per step, in units of this source (their
            weighted contribution divided by this term's weight), or of the joint bonus.

    Attributes:
        heard: [] float64, number of iterations in which the others contributed.
        size: [] float64, their mean contribution in those iterations.
    """

    relative = True
    heard: Tensor
    size: Tensor

    def __init__(self, *, share: float, floor: float = 0.0):
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f"share is {share}, expected between 0 and 1")
        self.share, self.floor = share, floor
        self.register_buffer("heard", torch.zeros((), dtype=torch.float64))
        self.register_buffer("size", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def forward(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None = None) -> Tensor:
        """Limit `scaled` [T, N] given `rest` [], see `Budget.forward`; store nothing."""
        assert rest is not None, "a relative budget needs the contribution of the other sources"
        others = torch.where(rest > 0, rest.double(), self.size).clamp(min=self.floor)
        allowed = self.share / (1 - self.share) * others
        size = mean(scaled.abs().double(), rollout)
        factor = torch.where((others > 0) & (size > allowed), allowed / size, 1.0)
        return scaled * factor.to(scaled.dtype)

    @torch.no_grad()
    def update(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None = None) -> None:
        """Add the others' contribution `rest` [] to the running mean, if it is above 0."""
        assert rest is not None, "a relative budget needs the contribution of the other sources"
        contributed = (rest > 0).double()
        self.heard = self.heard + contributed
        self.size = self.size + contributed * (rest - self.size) / self.heard.clamp(min=1)
