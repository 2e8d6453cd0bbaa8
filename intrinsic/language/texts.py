"""Sentences of a rollout's steps: what happened, and the task where the environment gives one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from firstlight.envs.text import TextTable
from firstlight.envs.types import Obs, Rollout

TASK = " (task: {})"
"""What follows an event where the environment has a task of its own for each episode."""


class StepTexts:
    """Numbers the sentences of steps from the side channels `text_id` and `mission_id`.

    A step's sentence is its event, such as "picked up the red key"; with a mission the task follows
    in brackets, because the same event helps in one task and not in another. A step without an
    event has the empty sentence, number 0.

    Args:
        events: the environments' table, which `text_id` and `mission_id` refer to.
        with_mission: append the task; needs the side channel `mission_id`.

    Attributes:
        sentences: table of the sentences.
    """

    def __init__(self, events: TextTable, *, with_mission: bool):
        self.events, self.with_mission = events, with_mission
        self.sentences = TextTable()
        self._known: dict[tuple[int, int], int] = {}

    def ids(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return the sentences of observations [T+1, N] and of true successors [T, N], int64."""
        here = self._of(rollout.info)
        if len(rollout.final_at) == 0:
            return here, here[1:]
        return here, rollout.successors(here, self._of(rollout.final_info))

    def rate(self, ids: Tensor, rate: Callable[[list[str]], Tensor]) -> Tensor:
        """Rate the sentences of steps, each different one once; the empty sentence gets 0.

        Args:
            ids: [T, N] int64, numbers of sentences.
            rate: maps B sentences to ratings [B] float32.

        Returns:
            [T, N] float32.
        """
        different, rows = ids.unique(return_inverse=True)
        ratings = rate([self.sentences.text(i) for i in different.tolist()])
        return torch.where(different == 0, 0.0, ratings)[rows]

    def _of(self, info: Obs) -> Tensor:
        events = info["text_id"].cpu()
        missions = info["mission_id"].cpu() if self.with_mission else torch.zeros_like(events)
        missions = torch.where(events == 0, 0, missions)
        pairs, rows = (
            torch.stack([events, missions], -1).flatten(0, -2).unique(dim=0, return_inverse=True)
        )
        ids = torch.tensor([self._id(*pair) for pair in pairs.tolist()], dtype=torch.int64)
        return ids[rows].view(events.shape)

    def _id(self, event: int, mission: int) -> int:
        if (event, mission) not in self._known:
            text = self.events.text(event)
            if mission:
                text += TASK.format(self.events.text(mission))
            self._known[event, mission] = self.sentences.intern(text)
        return self._known[event, mission]

    def state_dict(self) -> dict[str, Any]:
        """The sentences in the order of their numbers."""
        return self.sentences.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.sentences.load_state_dict(state)
        self._known = {}
