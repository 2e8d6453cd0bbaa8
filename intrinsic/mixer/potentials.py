"""Transforms that look along an episode: potential-based shaping, and differences of ratings."""

from __future__ import annotations

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.segments import following, previous
from firstlight.intrinsic.mixer.terms import Transform
from firstlight.intrinsic.state import GrowingBuffers, read_rows, write_rows


class Potential(GrowingBuffers, Transform):
    """``gamma * Phi(s') - Phi(s)`` with the source's rating as Phi (Ng et al. 1999).

    The sum over an episode does not depend on the policy, so the best policy stays the best: the
    source guides exploration without rewarding a state in itself. The rating of step t is that of
    the state it led to, ``Phi(s_{t+1})``; ``Phi(s_t)`` is the rating of the step before, in an
    earlier rollout if need be, and 0 for the first state of an episode, to which no step led. Phi
    is 0 at a termination, whatever the rating, and kept at a truncation, where the last state is
    bootstrapped too. Ratings may change between iterations (Devlin & Kudenko 2012): each enters
    once with plus and once with minus. The best policy does change with a discount other than that
    of the stream, or with a clip, a budget or a fast change of weight afterwards.

    Args:
        gamma: discount of the *stream* of the source; `RewardMixer` rejects any other.
        episodic: False for a stream whose returns continue past episode ends; every first state
            then follows an end at which Phi is 0.

    Attributes:
        last: [E] last rating of each environment by its id, or 0.
    """

    last: Tensor

    def __init__(self, *, gamma: float, episodic: bool = True):
        super().__init__()
        self.gamma, self.episodic = gamma, episodic
        self.register_buffer("last", torch.zeros(0))

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N], ratings of what each step led to; store nothing."""
        over = rollout.terminated if self.episodic else rollout.terminated | rollout.truncated
        after = torch.where(over, 0.0, self.gamma * raw)
        return torch.where(rollout.valid, after - self._previous(raw, rollout)[:-1], 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Store the last rating of each environment."""
        self.last = write_rows(self.last, rollout.env_ids, self._previous(raw, rollout)[-1])

    def _previous(self, raw: Tensor, rollout: Rollout) -> Tensor:
        return previous(raw, rollout, read_rows(self.last, rollout.env_ids))


class Delta(GrowingBuffers, Transform):
    """``r_t - r_{t+1}``, and ``r_t`` alone where the episode terminates (arXiv 2410.15115).

    From any step t the rest of an episode then adds up to ``r_t``, whatever its length: repeating
    good steps earns nothing. (The published order of the subtraction is known from reviews of the
    paper only.) The next rating of a rollout's last row is not known yet; it is assumed to be equal
    and corrected at the next valid row, so sums over episodes stay exact. After a truncation it
    never becomes known; the last row gets 0 and the value of the last state stands for the rest.
    For episodic streams.

    Attributes:
        last: [E] last rating of each environment, or 0.
        owing: [E] bool, whether there is a last rating to correct, if its episode continues.
    """

    last: Tensor
    owing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(0))
        self.register_buffer("owing", torch.zeros(0, dtype=torch.bool))

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N] to scaled [T, N]; store nothing."""
        after, is_followed = following(raw, rollout)
        same = rollout.truncated | ~is_followed
        difference = raw - torch.where(rollout.terminated, 0.0, torch.where(same, raw, after))
        last, owing = self._carried(rollout)
        no_row = torch.zeros_like(rollout.valid)  # so that only earlier rollouts are before
        owed = previous(no_row, rollout, owing)[:-1]
        return torch.where(rollout.valid, difference + torch.where(owed, last - raw, 0.0), 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Store the last rating of each environment."""
        last, owing = self._carried(rollout)
        a_row = torch.ones_like(rollout.valid)
        ids = rollout.env_ids
        self.last = write_rows(self.last, ids, previous(raw, rollout, last)[-1])
        self.owing = write_rows(self.owing, ids, previous(a_row, rollout, owing)[-1])

    def _carried(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Last rating and whether it is owing, each [N]."""
        ids = rollout.env_ids
        return read_rows(self.last, ids), read_rows(self.owing, ids)
