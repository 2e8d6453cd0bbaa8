"""Evaluate genomes in any vector environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from PIL import Image
from torch import Tensor

from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.search.evaluators.base import (
    CELLS,
    PICTURE,
    Evaluations,
    Evaluator,
    in_parts,
    moments,
)
from firstlight.envs.action_spaces import is_bounded
from firstlight.envs.finite import nan_to_zero
from firstlight.envs.positions import position_channel
from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Step, map_obs
from firstlight.envs.vec import VecEnv

MAX_STEPS = 10_000
"""Steps of an episode that has no end of its own."""


class VecEvaluator(Evaluator):
    """Evaluates genomes in a vector environment, `num_envs` at a time.

    Each batch of genomes begins with a reset, from a seed that is new each time. Environments whose
    episode has ended wait for the others.

    Args:
        vec: the environments.
        policy: made for its spaces.
        seed: of the episodes.
        channel: side channel with the position, see `position_channel`.
        bounds: lowest and highest positions, [2, D]; default those of the side channel.
        max_steps: after which an episode is cut. Moments within episodes (``samples``) are counted
            up to there, so it must be given for them.
        pictures: render scenes. Environments that reset in the step that ends an episode hide its
            last picture, so they must reset in the next one.

    Raises:
        ValueError: if there is no such channel, or no bounds of it are known.
    """

    def __init__(
        self,
        vec: VecEnv,
        policy: GenomePolicy,
        *,
        seed: int = 0,
        channel: str | None = None,
        bounds: Sequence[Sequence[float]] | None = None,
        max_steps: int | None = None,
        pictures: bool = False,
    ):
        self.vec, self.policy, self.seed = vec, policy, seed
        self.channel = position_channel(vec.info_space, channel)
        self.max_steps, self.draws, self._resets = max_steps, pictures, 0
        space = vec.info_space[self.channel]
        self.low, self.high = _bounds(space, self.channel, bounds)
        self._whole = np.dtype(space.dtype).kind in "iu"
        if "area" in vec.info_space.spaces and isinstance(vec.info_space["area"], spaces.Discrete):
            self.num_areas = int(vec.info_space["area"].n) - 1
        if pictures:
            vec.enable_rendering()

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells of a coverage grid along each axis: one for each whole number, if they are few."""
        if not self._whole:
            return super().cells
        return tuple(min(CELLS, int(span) + 1) for span in self.high - self.low)

    def evaluate(self, genomes: np.ndarray, samples: int = 1) -> Evaluations:
        """Run an episode with each genome, see `Evaluator.evaluate`.

        Raises:
            ValueError: for several samples without `max_steps`.
        """
        if samples > 1 and self.max_steps is None:
            raise ValueError(
                f"{samples} moments of an episode, but its length is not known: give max_steps"
            )
        genomes = np.asarray(genomes, np.float64)
        parts = [self._batch(part, samples) for part in in_parts(genomes, self.vec.num_envs)]
        joined = {
            name: np.concatenate([part[name] for part in parts])
            for name in ("position", "scene", "ret", "area", "steps", "success")
        }
        joined["area"] = np.where(joined["ret"] > 0, joined["area"], 0)
        return Evaluations(genome=genomes, **joined)

    def split(self, genomes: np.ndarray, count: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Split genomes into batches of `num_envs`, see `Evaluator.split`.

        Each batch has its own seed.
        """
        parts = []
        for part in in_parts(genomes, self.vec.num_envs):
            parts.append((part, self.state_dict()))
            self._resets += 1
        return parts

    def draw(self, scenes: np.ndarray) -> np.ndarray:
        """Return the scenes [B, S, 64, 64, 3], which are pictures already."""
        return scenes if self.draws else super().draw(scenes)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of resets, which decides the next seed."""
        return {"resets": self._resets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._resets = state["resets"]

    def _batch(self, genomes: np.ndarray, samples: int) -> dict[str, np.ndarray]:
        """Run at most `num_envs` genomes. Returns the fields of `Evaluations`."""
        vec, count = self.vec, len(genomes)
        filled = np.zeros((vec.num_envs, genomes.shape[1]))
        filled[:count] = genomes
        limit = self.max_steps or MAX_STEPS
        at = moments(limit, samples)
        shape = (PICTURE, PICTURE, 3) if self.draws else (0,)
        out = {
            "position": np.zeros((vec.num_envs, samples, len(self.low))),
            "scene": np.zeros((vec.num_envs, samples, *shape), np.uint8),
            "ret": np.zeros(vec.num_envs),
            "area": np.zeros(vec.num_envs, np.int64),
            "steps": np.zeros(vec.num_envs, np.int64),
            "success": np.full(vec.num_envs, -1, np.int8),
        }
        obs, info = vec.reset(derive(self.seed, "genomes", self._resets))
        self._resets += 1
        running = np.arange(vec.num_envs) < count
        last = info
        for t in range(1, limit + 1):
            with torch.inference_mode():
                action = self.policy.act(filled, map_obs(nan_to_zero, obs))
            step = vec.step(action)
            obs, last = step.obs, _info_after(step)
            valid = step.valid.numpy() & running
            out["ret"][valid] += step.reward.numpy().astype(np.float64)[valid]
            out["steps"][valid] += 1
            crashed = np.zeros(vec.num_envs, bool)
            crashed[step.crashed_ids.numpy()] = True
            done = valid & (step.terminated | step.truncated).numpy()
            ended = done | (running & crashed) | (running & (t == limit))
            self._record(out, at, t, running & ~crashed, ended, last, step)
            running &= ~ended
            if not running.any():
                break
        return {name: field[:count] for name, field in out.items()}

    def _record(
        self,
        out: dict[str, np.ndarray],
        at: np.ndarray,
        t: int,
        running: np.ndarray,
        ended: np.ndarray,
        info: Obs,
        step: Step,
    ) -> None:
        """Write positions and pictures of moment `t`; an episode that ended stays there."""
        moment = int(np.searchsorted(at, t))
        due = running & (ended | (at[min(moment, len(at) - 1)] == t))
        if not due.any():
            return
        place = info[self.channel].numpy().reshape(len(due), -1).astype(np.float64)
        hidden = set(step.final_ids.tolist())
        for n in np.flatnonzero(due).tolist():
            until = len(at) if ended[n] else moment + 1
            out["position"][n, moment:until] = place[n]
            if self.draws:
                if n in hidden:
                    raise ValueError(
                        f"{type(self.vec).__name__} resets in the step that ends an episode, which "
                        "hides its last picture: give autoreset=next_step"
                    )
                out["scene"][n, moment:until] = _small(self.vec.render(n))
            if ended[n]:
                if "success" in info:
                    out["success"][n] = int(info["success"][n])
                elif self.vec.success_threshold is not None:
                    out["success"][n] = out["ret"][n] > self.vec.success_threshold
                if self.num_areas:
                    out["area"][n] = int(info["area"][n])


def _bounds(
    space: spaces.Space, channel: str, given: Sequence[Sequence[float]] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest positions [D] float64."""
    size = math.prod(space.shape or ())
    if given is not None:
        found = np.asarray(given, np.float64)
        if found.shape != (2, size) or (found[1] <= found[0]).any():
            raise ValueError(
                f"bounds is {given}, expected {size} lowest and {size} higher numbers of info "
                f"{channel!r}"
            )
        return found[0], found[1]
    if isinstance(space, spaces.Discrete):
        low = float(space.start)
        return np.array([low]), np.array([low + float(space.n) - 1])
    if isinstance(space, spaces.Box) and is_bounded(space).all():
        return space.low.astype(np.float64).reshape(-1), space.high.astype(np.float64).reshape(-1)
    raise ValueError(
        f"info {channel!r} has no bounds of its own, and coverage counts cells between them: give "
        "evaluator.bounds=[[LOW, ...], [HIGH, ...]]"
    )


def _info_after(step: Step) -> Obs:
    """Side channels [N, ...] after a step, also where an episode ended."""
    info = dict(step.info)
    if len(step.final_ids):
        for name, final in step.final_info.items():
            whole: Tensor = info[name].clone()
            whole[step.final_ids] = final
            info[name] = whole
    return info


def _small(picture: np.ndarray) -> np.ndarray:
    """Reduce a picture [H, W, 3] to [64, 64, 3] uint8."""
    image = Image.fromarray(picture).resize((PICTURE, PICTURE), Image.Resampling.BOX)
    return np.asarray(image)
