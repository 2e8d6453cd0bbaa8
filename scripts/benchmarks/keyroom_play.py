"""A guided player of MiniHack's KeyRoom, which makes recordings with enough keys and doors."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.types import Obs

MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0), (1, -1), (1, 1), (-1, 1), (-1, -1))  # column, row
PICK_UP, APPLY = 8, 9
_WALKABLE = b".(>@<#"


class GuidedPlayer:
    """Goes to the key, takes it, goes to the door and opens it; sometimes acts at random.

    Needs the observations `chars` and `blstats`, and the side channel `keys_held`.

    Args:
        guided: probability of a guided action.
        seed: of the random ones.
    """

    def __init__(self, *, guided: float = 0.7, seed: int = 0):
        self.guided, self._rng = guided, np.random.default_rng(seed)
        self._keys: dict[int, tuple[int, int]] = {}

    def act(self, obs: Obs, info: Obs, is_first: Tensor) -> Tensor:
        """Choose an action for each environment: [N] int64."""
        chosen = []
        for n in range(len(is_first)):
            chars = obs["chars"][n].numpy()
            here = int(obs["blstats"][n, 0]), int(obs["blstats"][n, 1])
            if is_first[n]:
                self._keys.pop(n, None)
            if len(found := np.argwhere(chars == ord("("))):
                self._keys[n] = int(found[0][1]), int(found[0][0])
            action = self._guide(chars, here, n, int(info["keys_held"][n]) > 0)
            if action is None or self._rng.random() > self.guided:
                action = int(self._rng.integers(10))
            chosen.append(action)
        return torch.tensor(chosen)

    def _guide(
        self, chars: np.ndarray, here: tuple[int, int], n: int, holds_key: bool
    ) -> int | None:
        doors = [(int(x), int(y)) for y, x in np.argwhere(chars == ord("+"))]
        if holds_key:
            beside = [(x - dx, y - dy) for x, y in doors for dx, dy in MOVES[:4]]
            return APPLY if here in beside else _step(chars, here, beside)
        if n not in self._keys:
            return None
        return PICK_UP if here == self._keys[n] else _step(chars, here, [self._keys[n]])


def _step(chars: np.ndarray, here: tuple[int, int], ends: list[tuple[int, int]]) -> int | None:
    """First move of a shortest way over floor to one of `ends`; None if there is none."""
    came: dict[tuple[int, int], int | None] = {here: None}
    queue = deque([here])
    while queue:
        x, y = queue.popleft()
        if (x, y) in ends:
            return came[x, y]
        for action, (dx, dy) in enumerate(MOVES):
            after = x + dx, y + dy
            inside = 0 <= after[0] < chars.shape[1] and 0 <= after[1] < chars.shape[0]
            if inside and after not in came and chars[after[1], after[0]] in _WALKABLE:
                came[after] = action if came[x, y] is None else came[x, y]
                queue.append(after)
    return None
