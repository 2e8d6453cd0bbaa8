"""Evaluate a policy by the environment's own reward, and record videos."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents.session.episodes import Episode, EpisodeAccumulator, reported_means
from firstlight.envs.finite import nan_to_zero
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.runner import Actor
from firstlight.envs.seeding import generator
from firstlight.envs.types import Obs, Step, map_obs
from firstlight.envs.vec import VecEnv
from firstlight.envs.video import check_format, write_video

MAX_STEPS = 100_000
"""Steps of each environment in an evaluation, so that episodes without an end do not hang a run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of `evaluate`.

    Args:
        return_mean: over episodes.
        return_std: over episodes.
        success_rate: over episodes with known success, None if there are none.
        episodes: number of episodes.
        length_mean: over episodes.
        returns: of each episode.
        cut: number of those episodes that the bound on steps cut, with their return until then.
        reported: means over episodes of the channels in `VecEnv.reported`, as ``NAME_mean``.
    """

    return_mean: float
    return_std: float
    success_rate: float | None
    episodes: int
    length_mean: float
    returns: list[float] = field(repr=False)
    reported: dict[str, float] = field(default_factory=dict)
    cut: int = 0

    @classmethod
    def of(cls, episodes: list[Episode], cut: int = 0) -> Evaluation:
        """Summarise at least one episode, of which the last `cut` were cut."""
        returns = [episode.ret for episode in episodes]
        known = [episode.success for episode in episodes if episode.success is not None]
        return cls(
            return_mean=float(np.mean(returns)),
            return_std=float(np.std(returns)),
            success_rate=float(np.mean(known)) if known else None,
            episodes=len(episodes),
            length_mean=float(np.mean([episode.length for episode in episodes])),
            returns=returns,
            reported=reported_means(episodes),
            cut=cut,
        )


class SeedCheck:
    """Warn once if a second reset with the same seed gives other observations than the first.

    Fields that reward modules added are left out: what a module shows changes while it learns.

    Args:
        obs_space: of the environments.
    """

    def __init__(self, obs_space: spaces.Dict) -> None:
        self._names = [
            name for name, space in obs_space.items() if not isinstance(space, OptionalBox)
        ]
        self._first: Obs | None = None
        self._is_done = False

    def __call__(self, obs: Obs) -> None:
        """Compare the observations [N, ...] of a second reset with those of the first."""
        first, self._first = self._first, obs
        if first is None or self._is_done:
            return
        self._is_done = True
        for name in self._names:
            if not np.array_equal(obs[name].numpy(), first[name].numpy(), equal_nan=True):
                log.warning(
                    "the environments ignore their seed: the observation %r differs after two "
                    "resets with the same one, so evaluations play different levels and the run "
                    "cannot be repeated; draw random numbers from self.np_random, after "
                    "super().reset(seed=seed)",
                    name,
                )
                return


def evaluate(
    policy: Actor,
    vec: VecEnv,
    *,
    episodes: int = 100,
    seed: int,
    deterministic: bool = False,
    max_steps: int = MAX_STEPS,
    check: Callable[[], None] | None = None,
    on_reset: Callable[[Obs], None] | None = None,
) -> Evaluation:
    """Run a policy for a number of whole episodes, without gradients and in evaluation mode.

    How many episodes each environment contributes is fixed beforehand. Taking those that end first
    would favour short ones, which are successes in one task and early failures in another.

    Args:
        policy: its training mode is restored; actions are drawn from a separate generator.
        vec: reset with `seed`; episodes are open afterwards.
        episodes: at least 1; environment i runs the episodes i, i + N, i + 2 N, ...
        seed: of the environments and of sampled actions.
        deterministic: take the most likely actions instead of sampled ones.
        max_steps: of each environment, at least 1. Episodes that are open then are cut: they count
            with their return until then and unknown success, later ones are left out, and a warning
            says how many.
        check: called at each step; what it raises ends the evaluation.
        on_reset: called with the first observations.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1")
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}, expected at least 1")
    quota = [len(range(i, episodes, vec.num_envs)) for i in range(vec.num_envs)]
    finished: list[list[Episode]] = [[] for _ in quota]
    open_episodes = EpisodeAccumulator(vec.num_envs, vec.success_threshold)
    names = ("success", *vec.reported)
    obs, _ = vec.reset(seed)
    if on_reset is not None:
        on_reset(obs)
    with frozen(policy):
        played = _play(policy, vec, obs, seed, deterministic)
        for step in itertools.islice(played, max_steps):
            if check is not None:
                check()
            for env_id, episode in _ended(open_episodes, names, step):
                if len(finished[env_id]) < quota[env_id]:
                    finished[env_id].append(episode)
            if sum(map(len, finished)) == episodes:
                break
    short = [i for i, number in enumerate(quota) if len(finished[i]) < number]
    cut = [open_episodes.unfinished(i) for i in short]
    whole = [episode for i in range(max(quota)) for own in finished for episode in own[i : i + 1]]
    if cut:
        log.warning(
            "an evaluation of %d episodes ended after %s steps of each environment: %d of them "
            "ended by themselves, %d were cut and count with their return until then, %d did not "
            "begin; allow more steps, or give the environment a time limit",
            episodes,
            f"{max_steps:,}",
            len(whole),
            len(cut),
            episodes - len(whole) - len(cut),
        )
    return Evaluation.of([*whole, *cut], len(cut))


def record(
    policy: Actor,
    vec: VecEnv,
    path: Path | str,
    *,
    episodes: int = 1,
    seed: int,
    deterministic: bool = False,
    max_steps: int = 1000,
    scale: float = 1.0,
    fps: float = 10,
) -> list[Episode]:
    """Write a video of a policy in environment 0.

    Args:
        policy: as in `evaluate`.
        vec: reset with `seed`; must be able to `render`.
        path: of the video, which ends in .gif or .mp4.
        episodes: number of episodes.
        seed: of the environments and of sampled actions.
        deterministic: take the most likely actions instead of sampled ones.
        max_steps: maximum number of steps.
        scale: factor of height and width.
        fps: frames per second.

    Returns:
        The episodes that ended.
    """
    check_format(path)
    open_episodes = EpisodeAccumulator(vec.num_envs, vec.success_threshold)
    names = ("success", *vec.reported)
    ended: list[Episode] = []
    vec.enable_rendering()
    obs, _ = vec.reset(seed)
    frames = [vec.render(0)]
    with frozen(policy):
        for step in _play(policy, vec, obs, seed, deterministic):
            ended += [
                episode for env_id, episode in _ended(open_episodes, names, step) if env_id == 0
            ]
            if len(ended) == episodes and bool(step.is_first[0]):
                break  # the picture shows the next episode already
            frames.append(vec.render(0))
            if len(ended) == episodes or len(frames) > max_steps:
                break
    write_video(path, frames, fps=fps, scale=scale)
    return ended


def _play(policy: Actor, vec: VecEnv, obs: Obs, seed: int, deterministic: bool) -> Iterator[Step]:
    """Step `vec` endlessly, from the observation `obs` of a reset on."""
    device = device_of(policy)
    actions = generator(seed, "evaluation", device)
    state: Any = policy.initial_state(vec.num_envs)
    is_first = torch.ones(vec.num_envs, dtype=torch.bool)
    while True:
        seen = map_obs(lambda part: nan_to_zero(part[None]).to(device), obs)  # [1, N, ...]
        out = policy(seen, state, is_first[None].to(device))
        action = out.dist.mode() if deterministic else out.dist.sample(actions)
        step = vec.step(action[0].cpu())
        yield step
        obs, state, is_first = step.obs, out.state, step.is_first


def _ended(
    open_episodes: EpisodeAccumulator, names: tuple[str, ...], step: Step
) -> list[tuple[int, Episode]]:
    """Count a step and return the episodes that it ended, each with its environment."""
    channels = {name: step.info[name] for name in names if name in step.info}
    for name in channels:
        if len(step.final_ids):
            channels[name] = channels[name].clone()
            channels[name][step.final_ids] = step.final_info[name]
    done = step.terminated | step.truncated
    open_episodes.drop(step.crashed_ids.numpy())
    return open_episodes.add(
        step.reward.numpy(),
        done.numpy(),
        step.valid.numpy(),
        {k: v.numpy() for k, v in channels.items()},
    )


def device_of(policy: Actor) -> torch.device:
    """Return the device of a policy's parameters; the CPU if it has none."""
    parameter = next(policy.parameters(), None) if isinstance(policy, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def frozen(policy: Any) -> Iterator[None]:
    """Use evaluation mode and no gradients; restore the mode of each submodule afterwards."""
    modes = {}
    if isinstance(policy, nn.Module):
        modes = {module: module.training for module in policy.modules()}
        policy.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
