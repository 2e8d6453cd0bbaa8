"""Wrapper that shows the last observations of an episode together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.action_spaces import MASK
from firstlight.envs.fields import is_symbolic, picture_axes
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import MemoryWrapper

_PREFIX = "frames."


class FrameStack(MemoryWrapper):
    """Wrapper that stacks the last `count` observations of an episode, the oldest first.

    Pictures get an axis of frames in front of theirs, which encoders read as channels: [H, W, C]
    becomes [count, H, W, C], whichever axis holds the channels. The same layout as that of
    Gymnasium's `FrameStackObservation`, so `Agent.act` takes what that returns. Pictures that are
    stacked already, [S, C, H, W], and all other fields are concatenated along their first axis;
    a Discrete field becomes a MultiDiscrete one. Reward modules see the stacked fields too.

    At the first observation of an episode all frames are that observation; no stack holds frames of
    two episodes. The last observation of an episode, also one that autoreset hides in `final_obs`,
    stands on the true frames before it.

    Args:
        vec: the wrapped environments.
        count: number of observations, at least 2.
        keys: fields to stack; default all pictures and arrays of floats.

    Raises:
        ValueError: for a field that is missing, a mask of actions, MiniGrid's symbolic grid (which
            would not be known as one any more; view="map" or a recurrent core remember more), or
            one whose stack would be taken for something else; if no field is chosen; if `vec` is
            a FrameStack.

    >>> from firstlight.envs.worlds.chain import Chain
    >>> FrameStack(Chain(4, length=3), 2, keys=["obs"]).obs_space["obs"].shape
    (8,)
    """

    prefix, saved_as, what = _PREFIX, "frames", "a frame stack"

    def __init__(self, vec: VecEnv, count: int, keys: Sequence[str] | None = None):
        super().__init__(vec)
        if isinstance(vec, FrameStack):
            raise ValueError("these environments are stacked already: name all keys at once")
        if count < 2:
            raise ValueError(f"count is {count}, expected at least 2 frames")
        known = vec.obs_space
        if missing := [name for name in keys or () if name not in known.spaces]:
            raise ValueError(f"there is no observation {missing[0]!r}; there are {[*known]}")
        chosen = [n for n in known if _is_default(known, n)] if keys is None else [*keys]
        if not chosen:
            raise ValueError(
                f"none of the observations {[*known]} is a picture or an array of floats: name the "
                "keys to stack"
            )
        self.count, self.keys = count, tuple(chosen)
        stacked = {name: _stack_space(known, name, count) for name in chosen}
        self.obs_space = spaces.Dict({**known.spaces, **stacked})
        self._frames: Obs = {}  # each [N, count, *field]; replaced at each step, never changed
        self._adds_axis = {
            n: len(stacked[n].shape or ()) > len(known[n].shape or ()) for n in chosen
        }

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, with stacks of its first observation."""
        obs, info = self._vec.reset(seed)
        self._frames = {name: self._repeat(obs[name]) for name in self.keys}
        return self._shown(obs, self._frames), info

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        final, frames = {}, {}
        for name in self.keys:
            before, field = self._frames[name][:, 1:], step.obs[name]
            final[name] = torch.cat([before[step.final_ids], step.final_obs[name][:, None]], 1)
            frames[name] = torch.cat([before, field[:, None]], 1)
            frames[name][step.is_first] = field[step.is_first][:, None]
        self._frames = frames
        return dataclasses.replace(
            step,
            obs=self._shown(step.obs, frames),
            final_obs=self._shown(step.final_obs, final),
        )

    def _repeat(self, field: Tensor) -> Tensor:
        """Stack `count` copies of [M, *field] as [M, count, *field]."""
        return field[:, None].repeat_interleave(self.count, 1)

    def _shown(self, obs: Obs, frames: Obs) -> Obs:
        """Replace fields of `obs` by stacks, each [M, count, *field], in the shape of its space."""
        shaped = {n: f if self._adds_axis[n] else f.flatten(1, 2) for n, f in frames.items()}
        return {**obs, **shaped}

    def _save_memory(self, n: int) -> dict[str, Tensor]:
        """Frames of one environment before its current observation."""
        return {_PREFIX + name: field[n, :-1].clone() for name, field in self._frames.items()}

    def _load_memories(
        self,
        env_ids: Tensor,
        memories: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        restarted: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        """Load the frames before `obs`; where `restarted`, all are `obs`."""
        loaded, frames = {}, {}
        for name in self.keys:
            loaded[name] = own = self._repeat(obs[name])
            for row, (memory, gone) in enumerate(zip(memories, restarted.tolist(), strict=True)):
                if not gone:
                    own[row, :-1] = memory[_PREFIX + name]
            everyone = self._frames.get(name)
            if everyone is None:  # before any reset
                everyone = own.new_zeros((self.num_envs, *own.shape[1:]))
            frames[name] = everyone.index_copy(0, env_ids, own)
        self._frames = frames
        return self._shown(obs, loaded), info, restarted


def _is_default(obs_space: spaces.Dict, name: str) -> bool:
    """Whether a field is stacked where no keys are given."""
    space = obs_space[name]
    floats = isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"
    picture = picture_axes(space) is not None and not is_symbolic(obs_space, name)
    return name != MASK and (picture or floats)


def _stack_space(obs_space: spaces.Dict, name: str, count: int) -> spaces.Space:
    """Space of `count` values of a field.

    Raises:
        ValueError: see `FrameStack`.
    """
    space = obs_space[name]
    if name == MASK or is_symbolic(obs_space, name):
        kind = "a mask of actions" if name == MASK else "MiniGrid's symbolic grid"
        raise ValueError(f"the observation {name!r} is {kind}, of which there is no stack")
    axes, shape = picture_axes(space), space.shape or ()
    adds_axis = not shape or (axes is not None and len(shape) < 4)

    def join(array: np.ndarray) -> np.ndarray:
        return np.stack([array] * count) if adds_axis else np.concatenate([array] * count)

    stacked: spaces.Space
    if isinstance(space, spaces.Box):
        box = spaces.Box(join(space.low), join(space.high), dtype=space.dtype)  # type: ignore[arg-type]
        box.bounded_below, box.bounded_above = join(space.bounded_below), join(space.bounded_above)
        stacked = box
    elif isinstance(space, spaces.Discrete):
        stacked = spaces.MultiDiscrete([int(space.n)] * count, start=[int(space.start)] * count)
    elif isinstance(space, spaces.MultiDiscrete):
        nvec, start = join(space.nvec), join(space.start)
        stacked = spaces.MultiDiscrete(nvec, dtype=space.dtype, start=start)  # type: ignore[arg-type]
    elif isinstance(space, spaces.MultiBinary):
        stacked = spaces.MultiBinary(join(np.empty(space.shape)).shape)
    else:
        raise ValueError(f"the observation {name!r} is {space}, of which there is no stack")
    found = picture_axes(stacked)
    sides = None if axes is None else tuple(side + adds_axis for side in axes[1])
    if (None if found is None else found[1]) != sides:
        raise ValueError(
            f"{count} frames of the observation {name!r} have the shape {stacked.shape}, in which "
            f"encoders {'see' if axes is None else 'do not find'} a picture: use fewer frames"
        )
    return stacked
