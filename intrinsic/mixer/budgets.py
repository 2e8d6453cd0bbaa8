"""Caps on what one source may contribute, to an episode or to the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.segments import known, mean, sums
from firstlight.intrinsic.state import GrowingBuffers


class EpisodeCap(GrowingBuffers):
    """At most `cap` of absolute bonus per episode of each environment; then nothing more.

    With a cap (times the term's weight) below the task's reward for success, no amount of farming
    beats succeeding: the form of Clip & Delta's lesson (arXiv 2410.15115) that can be held for any
    source. The row that reaches the cap is paid in part.

    Args:
        cap: in the unit of the transformed source.

    Attributes:
        asked: [E] float64, what each environment's open episode has asked for so far.
    """

    relative = False
    asked: Tensor

    def __init__(self, *, cap: float):
        super().__init__()
        if cap < 0:
            raise ValueError(f"cap={cap}: a budget is at least 0")
        self.cap = cap
        self.register_buffer("asked", torch.zeros(0, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None = None) -> Tensor:
        """`scaled` [T, N] to budgeted [T, N]; stores nothing."""
        left = (self.cap - self._sums(scaled, rollout)[:-1]).clamp(min=0).to(scaled.dtype)
        return torch.minimum(torch.maximum(scaled, -left), left)

    @torch.no_grad()
    def update(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None = None) -> None:
        """Count `scaled` [T, N] as asked for."""
        asked = self._sums(scaled, rollout)[-1]
        self.asked = known(self.asked, rollout.env_ids)
        self.asked[rollout.env_ids] = asked

    def _sums(self, scaled: Tensor, rollout: Rollout) -> Tensor:
        carry = known(self.asked, rollout.env_ids)[rollout.env_ids]
        return sums(scaled.abs(), rollout, carry)


class ShareCap(nn.Module):
    """At most `share` of all reward, by mean absolute weighted value within an iteration.

    If the source asks for more, the whole rollout of it is scaled down by one factor, so a bonus
    that explodes is caught in the iteration in which it does, and keeps its shape. What is compared
    with is what the sources *without* a share of their own contribute. Where those are silent, as a
    sparse task is most of the time, it is their mean over the iterations in which they were not;
    and as long as they never spoke, there is nothing to drown and nothing is held back, unless
    `floor` says what they are worth at least. Of a source that a combine joins with others, what is
    held is their bonus.

    Args:
        share: in (0, 1).
        floor: the others count as contributing this much per step at least, in units of this
            source (their weighted contribution over this term's weight), or of the bonus.

    Attributes:
        heard: [] float64, iterations in which the others contributed.
        size: [] float64, their mean contribution in those.
    """

    relative = True
    heard: Tensor
    size: Tensor

    def __init__(self, *, share: float, floor: float = 0.0):
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f"share={share}: it lies between 0 and 1")
        self.share, self.floor = share, floor
        self.register_buffer("heard", torch.zeros((), dtype=torch.float64))
        self.register_buffer("size", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def forward(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None) -> Tensor:
        """`scaled` [T, N] to budgeted [T, N]; `rest` [], see `Budget`. Stores nothing."""
        assert rest is not None, "a relative budget is told what the rest contributes"
        others = torch.where(rest > 0, rest.double(), self.size).clamp(min=self.floor)
        allowed = self.share / (1 - self.share) * others
        asked = mean(scaled.abs().double(), rollout)
        factor = torch.where((others > 0) & (asked > allowed), allowed / asked, 1.0)
        return scaled * factor.to(scaled.dtype)

    @torch.no_grad()
    def update(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None) -> None:
        """Count the others' contribution `rest` [], if there was any."""
        assert rest is not None, "a relative budget is told what the rest contributes"
        spoke = (rest > 0).double()
        self.heard = self.heard + spoke
        self.size = self.size + spoke * (rest - self.size) / self.heard.clamp(min=1)
