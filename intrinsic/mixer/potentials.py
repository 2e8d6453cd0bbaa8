"""Transforms that look along an episode, so that what they pay adds up to next to nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.segments import following, known, previous
from firstlight.intrinsic.state import GrowingBuffers


class Potential(GrowingBuffers):
    """``gamma * Phi(s') - Phi(s)`` with the source's rating as Phi (Ng et al. 1999).

    Over an episode this adds up to nothing that a policy could change, so the best policy stays
    the best: the source says *where* to look and never *whether* to stay. The rating of step t is
    that of the state which it led to, ``Phi(s_{t+1})``; ``Phi(s_t)`` is the rating of the step
    before, in an earlier rollout if need be, and 0 for the state that opens an episode, since no
    step led there. Phi is 0 at a termination, whatever the source says of it, and kept at a
    truncation, after which the value of the last state counts too. Ratings that drift from
    iteration to iteration do no harm (Devlin & Kudenko 2012): each enters once with plus and once
    with minus. What does harm is another discount than that of the stream, or a clip, a budget or a
    fast change of weight afterwards.

    Args:
        gamma: discount of the *stream* that the source ends in; `RewardMixer` refuses one that
            no stream has.
        episodic: False for a stream that looks past ends of episodes; the state after every end is
            then one that opens an episode.

    Attributes:
        last: [E] the last rating of each environment by its id, or 0.
    """

    last: Tensor

    def __init__(self, *, gamma: float, episodic: bool = True):
        super().__init__()
        self.gamma, self.episodic = gamma, episodic
        self.register_buffer("last", torch.zeros(0))

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """`raw` [T, N], of what each step led to, to scaled [T, N]; stores nothing."""
        over = rollout.terminated if self.episodic else rollout.terminated | rollout.truncated
        after = torch.where(over, 0.0, self.gamma * raw)
        return torch.where(rollout.valid, after - self._previous(raw, rollout)[:-1], 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Count `raw` [T, N]."""
        last = self._previous(raw, rollout)[-1]
        self.last = known(self.last, rollout.env_ids)
        self.last[rollout.env_ids] = last

    def _previous(self, raw: Tensor, rollout: Rollout) -> Tensor:
        carry = known(self.last, rollout.env_ids)[rollout.env_ids]
        return previous(raw, rollout, carry)


class Delta(GrowingBuffers):
    """``r_t - r_{t+1}``, and ``r_t`` alone where the episode terminates (arXiv 2410.15115).

    What is left of an episode then adds up to ``r_t``, however long it is: going round in circles
    of good steps earns nothing. (The published order of the subtraction is known from reviews of
    the paper only.) The next rating of a rollout's last row is not known yet, so there it is taken
    to be the same, and what is missing is paid with the next valid row: sums over episodes stay
    exact. Of a truncated episode it never becomes known; the last row pays 0 and the value of the
    last state stands for the rest. For episodic streams.

    Attributes:
        last: [E] last rating of each environment, or 0.
        owing: [E] bool, whether there is one; if its episode goes on, part of it is to be paid.
    """

    last: Tensor
    owing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(0))
        self.register_buffer("owing", torch.zeros(0, dtype=torch.bool))

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """`raw` [T, N] to scaled [T, N]; stores nothing."""
        after, is_followed = following(raw, rollout)
        same = rollout.truncated | ~is_followed
        paid = raw - torch.where(rollout.terminated, 0.0, torch.where(same, raw, after))
        last, owing = self._carried(rollout)
        no_row = torch.zeros_like(rollout.valid)  # so that only earlier rollouts are before
        owed = previous(no_row, rollout, owing)[:-1]
        return torch.where(rollout.valid, paid + torch.where(owed, last - raw, 0.0), 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Count `raw` [T, N]."""
        last, owing = self._carried(rollout)
        a_row = torch.ones_like(rollout.valid)
        self.last = known(self.last, rollout.env_ids)
        self.last[rollout.env_ids] = previous(raw, rollout, last)[-1]
        self.owing = known(self.owing, rollout.env_ids)
        self.owing[rollout.env_ids] = previous(a_row, rollout, owing)[-1]

    def _carried(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Last rating and whether it is owing, each [N]."""
        ids = rollout.env_ids
        return known(self.last, ids)[ids], known(self.owing, ids)[ids]
