"""Video of an episode with every reward source drawn below the frames."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from firstlight.agents.diagnostics.pictures import short, write
from firstlight.agents.evaluation import device_of, frozen
from firstlight.envs.runner import Actor, Runner
from firstlight.envs.seeding import generator
from firstlight.envs.types import Obs, Rollout, State, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.video import check_format, write_video
from firstlight.envs.wrapper import VecWrapper
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer import Component, RewardMixer, Rewards

_WIDTH = 256  # pixels that the text needs
_TEXT, _PLOT, _GAP = 13, 24, 5  # heights in pixels of the parts of a strip
_DARK, _PALE = (18, 18, 22), (225, 225, 225)
_FLOOR, _CURSOR = (70, 70, 78), (255, 255, 255)
_HUES = ((250, 214, 80), (90, 200, 250), (255, 130, 100), (130, 230, 130), (220, 150, 255))


def record_rewards(
    policy: Actor,
    vec: VecEnv,
    modules: Mapping[str, IntrinsicModule],
    mixer: RewardMixer,
    path: Path | str,
    *,
    seed: int,
    progress: float = 1.0,
    deterministic: bool = False,
    max_steps: int = 1000,
    scale: float = 1.0,
    fps: float = 10,
) -> Rewards:
    """Write a video of an episode in environment 0, with a strip under the frames for each source.

    A strip shows weight times scaled value of a source over the episode, on its own scale. A cursor
    marks the current step; its value is written beside the name. The frame shows the state after
    that step; frame 0 is the initial state, and a last observation that autoreset replaced is shown
    as the frame before it.

    The rewards are those that a run with these `modules` would have given if this episode had come
    next. Modules and mixer are copied, so the run is not changed.

    Args:
        policy: on the device of the modules; its training mode is restored.
        vec: separate environments, wrapped by the modules' `wrap`, that can `render`.
        modules: name to reward module.
        mixer: with a term for each module.
        path: of the video, which ends in .gif or .mp4.
        seed: of the environments and of sampled actions.
        progress: of training, in [0, 1], for weights with a schedule.
        deterministic: take the most likely actions instead of sampled ones.
        max_steps: maximum number of steps.
        scale: factor on height and width of the frames.
        fps: frames per second.

    Returns:
        The rewards of the T steps shown; its `components` contain each source, [T, N].
    """
    check_format(path)
    modules, mixer = copy.deepcopy((dict(modules), mixer))
    vec.enable_rendering()
    with frozen(policy):
        rollout, frames = _record_episode(policy, vec, seed, deterministic, max_steps)
    live = {name: m for name, m in modules.items() if mixer.active(name, progress)}
    rewards = mixer(rollout, {n: m.compute(rollout) for n, m in live.items()}, progress)
    strips = Strips(rewards.components)
    pictures = [strips.under(_scaled(frame, scale), t) for t, frame in enumerate(frames)]
    write_video(path, pictures, fps=fps)
    return rewards


class Strips:
    """Draws the rewards of each source over an episode.

    Args:
        parts: source name to its rewards; column 0 is drawn.
    """

    def __init__(self, parts: Mapping[str, Component]):
        self.parts = dict(parts)
        self.contributions = {  # [T] each
            name: np.nan_to_num((part.weight * part.scaled[:, 0]).double().cpu().numpy())
            for name, part in self.parts.items()
        }
        self._plots: dict[int, np.ndarray] = {}

    def under(self, frame: np.ndarray, step: int) -> np.ndarray:
        """Draw the strips below a frame.

        Args:
            frame: [H, W, 3] uint8.
            step: number of steps taken before it; the cursor marks the last of them.

        Returns:
            [h, w, 3] uint8, of the same size for frames of the same size.
        """
        height, width = frame.shape[:2]
        wide = max(width, _WIDTH)
        if wide not in self._plots:
            self._plots[wide] = self._draw(wide)
        canvas = np.full((height + len(self._plots[wide]), wide, 3), _DARK, np.uint8)
        left = (wide - width) // 2
        canvas[:height, left : left + width] = frame
        canvas[height:] = self._plots[wide]
        image = Image.fromarray(canvas)
        draw = ImageDraw.Draw(image)
        for row, name in enumerate(self.parts):
            top = height + row * (_TEXT + _PLOT + _GAP)
            write(draw, (wide - 2, top), self._caption(name, step - 1), _PALE, right=True)
            if step > 0:
                x = min(math.ceil((step - 1) * wide / len(self.contributions[name])), wide - 1)
                draw.line([(x, top + _TEXT), (x, top + _TEXT + _PLOT)], fill=_CURSOR)
        return np.asarray(image)

    def _caption(self, name: str, t: int) -> str:
        if t < 0:
            return ""
        part = self.parts[name]
        scaled = float(part.scaled[t, 0])
        if part.weight == 1:
            return short(scaled)
        return f"{short(part.weight)} * {short(scaled)} = {short(self.contributions[name][t])}"

    def _draw(self, width: int) -> np.ndarray:
        """Draw everything but the cursor and the value at it, [h, width, 3]."""
        pitch = _TEXT + _PLOT + _GAP
        canvas = np.full((pitch * len(self.contributions), width, 3), _DARK, np.uint8)
        if not self.contributions:
            return canvas
        for row, values in enumerate(self.contributions.values()):
            top = row * pitch + _TEXT
            plot = _bars(values, width, _HUES[row % len(_HUES)])
            canvas[top : top + _PLOT] = plot
        image = Image.fromarray(canvas)
        draw = ImageDraw.Draw(image)
        for row, (name, values) in enumerate(self.contributions.items()):
            most = short(float(values[np.abs(values).argmax()]))
            write(draw, (2, row * pitch), f"{name}, to {most}", _HUES[row % len(_HUES)])
        return np.asarray(image)


def _bars(values: np.ndarray, width: int, hue: tuple[int, int, int]) -> np.ndarray:
    """Draw values [T] as bars from 0 on their own scale, [_PLOT, width, 3]."""
    plot = np.full((_PLOT, width, 3), _DARK, np.uint8)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    span = (high - low) or 1.0
    floor = round((_PLOT - 1) * high / span) if high > low else _PLOT - 1
    first, stop = _columns(len(values), width)
    for x, (a, b) in enumerate(zip(first, stop, strict=True)):
        value = values[a:b][np.abs(values[a:b]).argmax()]
        length = round((_PLOT - 1) * abs(value) / span)
        length = max(length, int(value != 0))
        plot[floor - length : floor, x] = hue if value > 0 else plot[0, x]
        if value < 0:
            plot[floor + 1 : floor + 1 + length, x] = hue
    plot[floor] = _FLOOR
    return plot


def _columns(steps: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the first step of each of `width` columns of pixels, and the one after the last."""
    edges = np.arange(width + 1) * steps // width
    return edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)


def _scaled(frame: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1.0:
        return frame
    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), kind))


class _FrameRecorder(VecWrapper):
    """Resets the environments with a fixed seed, and stores the frames of environment 0."""

    def __init__(self, vec: VecEnv, seed: int):
        super().__init__(vec)
        self.seed = seed
        self.frames: list[np.ndarray] = []

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        answer = self._vec.reset(self.seed)
        self.frames.append(self._vec.render(0))
        return answer

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        over = bool((step.terminated | step.truncated)[0])
        hidden = over and bool(step.is_first[0])  # the picture shows the next episode already
        self.frames.append(self.frames[-1] if hidden else self._vec.render(0))
        return step


class _Deterministic:
    """Wraps a policy so that it takes its most likely actions."""

    def __init__(self, policy: Actor):
        self.policy = policy

    def initial_state(self, num_envs: int) -> State:
        return self.policy.initial_state(num_envs)

    def __call__(self, obs: Obs, state: State, is_first: Tensor) -> Any:
        out = self.policy(obs, state, is_first)
        action = out.dist.mode()
        drawn = action, out.dist.log_prob(action)
        dist = SimpleNamespace(draw=lambda _: drawn)
        return SimpleNamespace(dist=dist, value=out.value, state=out.state)


def _record_episode(
    policy: Actor, vec: VecEnv, seed: int, deterministic: bool, max_steps: int
) -> tuple[Rollout, list[np.ndarray]]:
    """Run an episode of environment 0. Returns its T steps as a rollout, and T + 1 frames."""
    device = device_of(policy)
    recorder = _FrameRecorder(vec, seed)
    actions = generator(seed, "evaluation", device)  # so that `record` shows the same
    runner = Runner(recorder, seed=seed, device=device, generator=actions)
    actor = _Deterministic(policy) if deterministic else policy
    steps: list[Rollout] = []
    over = False
    while not over and len(steps) < max_steps:
        steps.append(runner.collect(actor, 1))
        over = bool((steps[-1].terminated | steps[-1].truncated)[0, 0])
    return _concatenate(steps).to(device), recorder.frames


def _concatenate(parts: Sequence[Rollout]) -> Rollout:
    """Concatenate consecutive rollouts."""

    def rows(name: str) -> Any:
        """Concatenate a field [T, ...] of all parts."""
        fields = [getattr(part, name) for part in parts]
        if isinstance(fields[0], dict):
            return {key: torch.cat([field[key] for field in fields]) for key in fields[0]}
        return torch.cat(fields)

    def moments(fields: Sequence[Tensor]) -> Tensor:
        """Concatenate fields [T+1, ...], of which the last row is the first of the next part."""
        return torch.cat([*(field[:-1] for field in fields), fields[-1][-1:]])

    names = ("action", "log_prob", "reward", "terminated", "truncated", "valid")
    starts = np.cumsum([0, *(part.num_steps for part in parts)])
    final_at = [
        part.final_at + torch.tensor([int(start), 0])
        for part, start in zip(parts, starts, strict=False)
    ]
    return dataclasses.replace(
        parts[0],
        **{name: rows(name) for name in (*names, "final_obs", "final_info", "final_state")},
        obs={key: moments([part.obs[key] for part in parts]) for key in parts[0].obs},
        info={key: moments([part.info[key] for part in parts]) for key in parts[0].info},
        value=moments([part.value for part in parts]),
        is_first=moments([part.is_first for part in parts]),
        final_at=torch.cat(final_at),
        crashed=None,
    )
