"""Captions of MiniGrid steps: what the agent did to an object, as the id of a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import BOX, DOOR, GOAL, LAVA, LOCKED, OPEN, VIEW, name_of
from firstlight.envs.text import TextBytes, TextTable
from firstlight.envs.types import Obs, Snapshot, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import VecWrapper

_HAND, _FRONT = (VIEW // 2, VIEW - 1), (VIEW // 2, VIEW - 2)
_PICKUP, _DROP, _TOGGLE = 3, 4, 5
_LAST = "text.id"
_IDS = spaces.Box(0, np.iinfo(np.int64).max, (), np.int64)


@dataclass(frozen=True, slots=True)
class Event:
    """One step of one environment, as the agent observed it.

    Args:
        before: [7, 7, 3] uint8, view before the action.
        action: number of the action in MiniGrid.
        after: [7, 7, 3] uint8, view after it.
        reward: of the step.
    """

    before: np.ndarray
    action: int
    after: np.ndarray
    reward: float


Caption = Callable[[Event], str]
"""Sentence for an event; "" if there is nothing to describe."""


def describe(event: Event) -> str:
    """Describe what the agent did to an object: picked up, dropped, opened, unlocked, closed.

    Only two cells of the view are read, the one that shows the carried object and the one ahead, so
    that the sentence holds nothing that the policy cannot observe.
    """
    hand, front = event.before[_HAND], event.before[_FRONT]
    now_hand, now_front = event.after[_HAND], event.after[_FRONT]
    if event.action == _PICKUP and now_hand[0] != hand[0]:
        return f"picked up the {name_of(now_hand)}"
    if event.action == _DROP and now_hand[0] != hand[0]:
        return f"dropped the {name_of(hand)}"
    if event.action == _TOGGLE and front[0] == BOX and now_front[0] != BOX:
        return f"opened the {name_of(front)}"
    if event.action == _TOGGLE and front[0] == DOOR and now_front[2] != front[2]:
        verb = "unlocked" if front[2] == LOCKED else "opened" if now_front[2] == OPEN else "closed"
        return f"{verb} the {name_of(front)}"
    if event.action == 2 and front[0] == GOAL:
        return "reached the goal"
    if event.action == 2 and front[0] == LAVA:
        return "fell into the lava"
    return ""


class Captions(VecWrapper):
    """Wrapper that adds ids of sentences as side channels: the last event, and the mission.

    `text_id` describes what the last action did (0 where there is nothing to describe, and for an
    episode's first observation), `mission_id` is the task's sentence. The sentences are in
    `text_table`, which is saved with the environments' state and as persistent state.

    Args:
        vec: with the view as `image`, and `mission` [96] uint8 in its observation or side channels,
            from where it is removed, unless it is a text of the observation.
        caption: describes an event; default `describe`.
        texts: table to add to; default that of `vec`, or a new one.

    Raises:
        ValueError: if `image` is not MiniGrid's view.
    """

    text_table: TextTable

    def __init__(self, vec: VecEnv, *, caption: Caption = describe, texts: TextTable | None = None):
        shape = vec.obs_space["image"].shape
        if shape != (VIEW, VIEW, 3):
            raise ValueError(
                f"image has shape {shape}, but captions need MiniGrid's view [7, 7, 3]"
            )
        super().__init__(vec)
        self.caption = caption
        self.text_table = texts or vec.text_table or TextTable()
        known = vec.obs_space.spaces
        self._observed = isinstance(known.get("mission"), TextBytes)
        self.obs_space = spaces.Dict(known if self._observed else _without_mission(known))
        ids = {"text_id": _IDS, "mission_id": _IDS}
        self.info_space = spaces.Dict(_without_mission(vec.info_space.spaces) | ids)
        self._missions: dict[bytes, int] = {}
        self._image = torch.zeros(0)
        self._text_id = torch.zeros(self.num_envs, dtype=torch.int64)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment."""
        obs, info = self._vec.reset(seed)
        self._image, self._text_id = obs["image"], torch.zeros(self.num_envs, dtype=torch.int64)
        return self._with_ids(obs, info, self._text_id)

    def share_texts(self, table: TextTable) -> None:
        """Take text ids from another table, here and inside."""
        super().share_texts(table)
        self.text_table, self._missions = table, {}

    def snapshots(self) -> list[Snapshot]:
        """Current state of each environment and its last caption, for `restore`."""
        return [
            dataclasses.replace(inner, arrays={**(inner.arrays or {}), _LAST: last.clone()})
            for inner, last in zip(self._vec.snapshots(), self._text_id, strict=True)
        ]

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to snapshots."""
        inner, last = [], []
        for snapshot in snapshots:
            arrays = dict(snapshot.arrays or {})
            last.append(int(arrays.pop(_LAST, 0)))
            inner.append(dataclasses.replace(snapshot, arrays=arrays or None))
        obs, info, restarted = self._vec.restore(env_ids, inner)
        text_id = torch.where(restarted, 0, torch.tensor(last, dtype=torch.int64))
        self._image, self._text_id = self._image.clone(), self._text_id.clone()
        self._image[env_ids], self._text_id[env_ids] = obs["image"], text_id
        return *self._with_ids(obs, info, text_id), restarted

    def state_dict(self) -> dict[str, Any]:
        """State of the wrapped environments, the sentences and the last captions."""
        texts = self.text_table.state_dict()
        return {"vec": self._vec.state_dict(), "texts": texts, "text_id": self._text_id.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        self.text_table.load_state_dict(state["texts"])
        self._missions = {}
        obs, info, restarted = self._vec.load_state_dict(state["vec"])
        self._image, self._text_id = obs["image"], torch.where(restarted, 0, state["text_id"])
        return *self._with_ids(obs, info, self._text_id), restarted

    def persistent_state(self) -> dict[str, Any]:
        """Sentences: reward modules may have learnt from their ids."""
        return {**super().persistent_state(), "texts": self.text_table.state_dict()}

    def load_persistent_state(self, state: dict[str, Any]) -> None:
        """Load what `persistent_state` returned."""
        super().load_persistent_state(state)
        self.text_table.load_state_dict(state["texts"])
        self._missions = {}

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        after = step.obs["image"].numpy()
        if len(step.final_ids):
            after = after.copy()
            after[step.final_ids.numpy()] = step.final_obs["image"].numpy()
        happened = torch.from_numpy(self._captions(action.numpy(), after, step))
        self._image, self._text_id = step.obs["image"], torch.where(step.is_first, 0, happened)
        obs, info = self._with_ids(step.obs, step.info, self._text_id)
        last = happened[step.final_ids]
        final_obs, final_info = self._with_ids(step.final_obs, step.final_info, last)
        return dataclasses.replace(
            step, obs=obs, info=info, final_obs=final_obs, final_info=final_info
        )

    def _captions(self, action: np.ndarray, after: np.ndarray, step: Step) -> np.ndarray:
        """Id of the event in each environment, [N] int64."""
        before, ids = self._image.numpy(), np.zeros(self.num_envs, np.int64)
        rows = step.valid.numpy()
        if self.caption is describe:
            rows = rows & _may_have_event(before, action, after)
        for n in np.flatnonzero(rows).tolist():
            event = Event(before[n], int(action[n]), after[n], float(step.reward[n]))
            ids[n] = self.text_table.intern(self.caption(event))
        return ids

    def _with_ids(self, obs: Obs, info: Obs, text_id: Tensor) -> tuple[Obs, Obs]:
        missions = (obs if "mission" in obs else info)["mission"].numpy()
        rows = [row.tobytes() for row in np.ascontiguousarray(missions)]
        for row in {*rows} - self._missions.keys():
            sentence = row.rstrip(b"\0").decode(errors="replace")
            self._missions[row] = self.text_table.intern(sentence)
        mission_id = torch.tensor([self._missions[row] for row in rows], dtype=torch.int64)
        info = _without_mission(info) | {"text_id": text_id, "mission_id": mission_id}
        return (obs if self._observed else _without_mission(obs)), info


def _may_have_event(before: np.ndarray, action: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where `describe` may return a sentence, [N] bool."""
    changed = (before[:, *_HAND] != after[:, *_HAND]).any(-1)
    changed |= (before[:, *_FRONT] != after[:, *_FRONT]).any(-1)
    front = before[:, *_FRONT, 0]
    stepped = (action == 2) & ((front == GOAL) | (front == LAVA))
    return stepped | (changed & (action >= _PICKUP))


def _without_mission(fields: Any) -> dict[str, Any]:
    return {name: field for name, field in fields.items() if name != "mission"}
