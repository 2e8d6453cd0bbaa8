"""Map of the cells that a MiniGrid agent has seen in an episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.map_kernels import BUCKETS, REACH, SIDE, VIEW, blank, draw, observe
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import MemoryWrapper

CHANNELS = ("new_cells", "new_changes", "new_place")
_SHOWN = {
    "carrying": spaces.MultiDiscrete([16, 8]),
    "visits": spaces.Discrete(BUCKETS),
    "visited": spaces.MultiBinary(4),
}
_GRIDS = ("cells", "visits", "places")
_NUMBERS = ("pose", "hand", "ahead", "counts")
_PREFIX = "map."


class MapMemory(MemoryWrapper):
    """Wrapper that keeps, for each agent, a map of the cells seen in the episode.

    The map is built from observations and actions alone: each step the view (7 x 7 cells) is
    written into it. The agent's pose follows from its actions: turns change the heading, and
    `forward` moves if the cell ahead can be walked on in MiniGrid (empty, floor, goal, lava, an
    open door). That is exact where only the agent moves objects, which holds in all of MiniGrid but
    Dynamic-Obstacles: a ball that moves in front of the agent shifts the map.

    The map reaches 63 cells from the start along either axis, so a grid of up to 64 x 64 fits
    wherever the episode begins. Cells beyond are not stored: they are never shown, and never new.

    Each step has three side channels: `new_cells`, how many cells the view showed for the first
    time in the episode; `new_changes`, how many changes of a known cell (a closed red door to an
    open one, a key to nothing) happened for the first time in it; `new_place`, whether the agent is
    on its cell with the carried object for the first time. All are 0 for an episode's first
    observation. The agent's own cell, where the view shows the carried object, is neither new nor
    a change.

    With `show` the observation becomes:

    - `image` [size, size, 3] uint8: the map around the agent, with its heading to the top
      ([x, y] with y = 0 in front, as in MiniGrid's view). The agent is in the middle cell, which
      shows the object below it; 0 is a cell not seen yet.
    - `carrying` [2]: object and colour carried, in MiniGrid's codes; (1, 0) is nothing.
    - `visits`: number of the episode's observations made from this cell, this one included, as a
      bucket: 1, 2, 3 to 4, 5 to 8, 9 to 16, 17 to 32, more.
    - `visited` [4]: whether the agent was ahead, to the right, behind, to the left before.

    Other fields do not change.

    Args:
        vec: with fields `image` [7, 7, 3] uint8 and `direction`, and MiniGrid's actions.
        size: cells along a side of the shown map, odd.
        show: whether the policy sees the map; else only the side channels are added.

    Raises:
        ValueError: if `vec` lacks these fields or actions or has a map already, or `size` is even.
    """

    prefix, saved_as, what = _PREFIX, "maps", "a map memory"

    def __init__(self, vec: VecEnv, *, size: int = 15, show: bool = True):
        check_view(vec.obs_space)
        actions = vec.act_space
        if not isinstance(actions, spaces.Discrete) or actions.start or not 3 <= actions.n <= 7:
            raise ValueError(f"a map memory needs MiniGrid's actions, Discrete(7), not {actions}")
        if taken := [*filter(vec.info_space.spaces.__contains__, CHANNELS)]:
            raise ValueError(
                f"the environment has {taken[0]!r} already: MapMemory wraps it once only"
            )
        if size < 1 or size % 2 == 0:
            raise ValueError(
                f"size is {size}, expected an odd number, so that the agent is in the middle"
            )
        super().__init__(vec)
        self.size, self.show = size, show
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        shown = {"image": image, **_SHOWN} if show else {}
        self.obs_space = spaces.Dict({**vec.obs_space.spaces, **shown})
        seen = VIEW * VIEW - 1
        channels = zip(CHANNELS, (seen + 1, seen + 1, 2), strict=True)
        counts = {name: spaces.Discrete(n) for name, n in channels}
        self.info_space = spaces.Dict({**vec.info_space.spaces, **counts})
        self._memory = blank(self.num_envs)
        self._all = torch.arange(self.num_envs)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, with empty maps."""
        obs, info = self._vec.reset(seed)
        return self._begun(self._all, obs, info, torch.ones(self.num_envs, dtype=torch.bool))

    def pose(self) -> np.ndarray:
        """Pose of each agent as tracked from its actions: x, y and heading, [N, 3] int64.

        x grows to the east and y to the south, as in MiniGrid, from (0, 0) where the episode began.
        Headings are MiniGrid's: 0 east, 1 south, 2 west, 3 north.
        """
        return self._memory.pose - (REACH, REACH, 0)

    def chart(self, env_id: int = 0) -> np.ndarray:
        """Whole map of one agent in MiniGrid's code, north up: [127, 127, 3] uint8.

        Axis 0 is x and axis 1 is y, with the start of the episode in the middle, at [63, 63].
        """
        cells = self._memory.cells[env_id]
        return np.stack([cells >> 5 & 15, cells >> 2 & 7, cells & 3], -1).astype(np.uint8)

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        ids, yes = step.final_ids, torch.ones(len(step.final_ids), dtype=torch.bool)
        final = step.final_obs, step.final_info
        if len(ids):  # the last observation, before `is_first` clears the map
            self._observe(ids, final[0], action[ids], ~yes, yes)
        final_obs, final_info = self._with_memory(ids, *final)
        self._observe(self._all, step.obs, action, step.is_first, step.valid)
        obs, info = self._with_memory(self._all, step.obs, step.info)
        return dataclasses.replace(
            step, obs=obs, info=info, final_obs=final_obs, final_info=final_info
        )

    def _begun(self, env_ids: Tensor, obs: Obs, info: Obs, opens: Tensor) -> tuple[Obs, Obs]:
        """Begin maps where `opens` [M]. Returns obs and info of `env_ids` [M] with the memory."""
        self._observe(env_ids, obs, torch.zeros_like(env_ids), opens, torch.zeros_like(opens))
        return self._with_memory(env_ids, obs, info)

    def _observe(
        self, env_ids: Tensor, obs: Obs, action: Tensor, opens: Tensor, valid: Tensor
    ) -> None:
        fields = (env_ids, obs["image"], obs["direction"], action, opens, valid)
        stray = observe(self._memory, *(np.ascontiguousarray(field.numpy()) for field in fields))
        if stray >= 0:
            raise RuntimeError(
                f"environment {stray} has a heading that does not follow from its actions: a map "
                "memory needs MiniGrid's own actions, not replaced by a wrapper inside"
            )

    def _with_memory(self, env_ids: Tensor, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        """Add the memory to observations and side channels, each [M, ...]."""
        M, ids = len(env_ids), env_ids.numpy()
        counts = torch.from_numpy(self._memory.counts[ids]).unbind(1)
        info = {**info, **dict(zip(CHANNELS, counts, strict=True))}
        if not self.show:
            return obs, info
        drawn = {
            "image": np.empty((M, self.size, self.size, 3), np.uint8),
            "carrying": np.empty((M, 2), np.int64),
            "visits": np.empty(M, np.int64),
            "visited": np.empty((M, 4), np.int8),
        }
        if M:
            draw(self._memory, ids, *drawn.values())
        return {**obs, **{name: torch.from_numpy(array) for name, array in drawn.items()}}, info

    def _save_memory(self, n: int) -> dict[str, Tensor]:
        """Memory of one environment, without the empty margins of its map."""
        far = int(self._memory.extent[n])
        window = slice(REACH - far, REACH + far + 1)
        arrays = {name: getattr(self._memory, name)[n, window, window] for name in _GRIDS}
        arrays |= {name: getattr(self._memory, name)[n] for name in _NUMBERS}
        bits = np.unpackbits(self._memory.changes[n], bitorder="little")
        arrays["changes"] = np.flatnonzero(bits)
        return {_PREFIX + name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}

    def _load_memories(
        self,
        env_ids: Tensor,
        memories: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        restarted: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        """Load the memories of environments that were not restarted."""
        self._begun(env_ids, obs, info, restarted)
        memory = self._memory
        for n, arrays, gone in zip(env_ids.tolist(), memories, restarted.tolist(), strict=True):
            if gone:
                continue
            own = {name.removeprefix(_PREFIX): array.numpy() for name, array in arrays.items()}
            margin = (SIDE - len(own["cells"])) // 2
            for name in _GRIDS:
                getattr(memory, name)[n] = np.pad(own[name], margin)
            for name in _NUMBERS:
                getattr(memory, name)[n] = own[name]
            memory.extent[n] = REACH - margin
            bits = np.zeros(8 * memory.changes.shape[1], bool)
            bits[own["changes"]] = True
            memory.changes[n] = np.packbits(bits, bitorder="little")
        return *self._with_memory(env_ids, obs, info), restarted


def has_map(obs_space: spaces.Dict, info_space: spaces.Dict | None = None) -> bool:
    """Whether these fields are those of a `MapMemory`."""
    channels = info_space is not None and set(CHANNELS) <= set(info_space.spaces)
    return channels or set(_SHOWN) <= set(obs_space.spaces)


def check_view(obs_space: spaces.Dict) -> None:
    """Raise ValueError unless the observations are those of MiniGrid."""
    image, direction = (obs_space.spaces.get(name) for name in ("image", "direction"))
    is_box = isinstance(image, spaces.Box) and isinstance(direction, spaces.Discrete)
    if not is_box or (image.shape, image.dtype) != ((VIEW, VIEW, 3), np.uint8):  # type: ignore[union-attr]
        have = ", ".join(f"{name} {space}" for name, space in obs_space.spaces.items())
        raise ValueError(
            "a map memory needs MiniGrid's view, `image` [7, 7, 3] uint8 and `direction`; "
            f"the environment has {have}"
        )
