"""How good a frozen policy is, by the environment's own reward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from firstlight.agents.session.episodes import Episode, Tally, reported_means
from firstlight.envs.finite import tamed
from firstlight.envs.runner import Actor
from firstlight.envs.seeding import generator
from firstlight.envs.types import Obs, Step, map_obs
from firstlight.envs.vec import VecEnv
from firstlight.envs.video import write_gif


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of `evaluate`.

    Args:
        return_mean: over episodes.
        return_std: over episodes.
        success_rate: over those whose success is known, None if there are none.
        episodes: how many.
        length_mean: over episodes.
        returns: of each episode.
        reported: means over episodes of what the environment reports of them, as ``NAME_mean``.
    """

    return_mean: float
    return_std: float
    success_rate: float | None
    episodes: int
    length_mean: float
    returns: list[float] = field(repr=False)
    reported: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, episodes: list[Episode]) -> Evaluation:
        """Summary of at least one episode."""
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
        )


def evaluate(
    policy: Actor, vec: VecEnv, *, episodes: int = 100, seed: int, deterministic: bool = False
) -> Evaluation:
    """Run `policy`, frozen, for `episodes` whole episodes.

    How many episodes each environment contributes is settled beforehand and does not depend on how
    they go. To take whichever end first would favour short ones, which in one task are the
    successes and in the next the early deaths.

    Args:
        policy: left in the mode that it came in; draws from a generator of its own.
        vec: reset with `seed`, and left in the middle of an episode.
        episodes: at least 1; environment i plays the episodes i, i + N, i + 2 N, ...
        seed: of the environments and of sampled actions.
        deterministic: the likeliest actions instead of sampled ones.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1")
    quota = [len(range(i, episodes, vec.num_envs)) for i in range(vec.num_envs)]
    played: list[list[Episode]] = [[] for _ in quota]
    tally, told = Tally(vec.num_envs, vec.success_threshold), ("success", *vec.reported)
    with frozen(policy):
        for step in _play(policy, vec, vec.reset(seed)[0], seed, deterministic):
            for env_id, episode in _ends(tally, told, step):
                if len(played[env_id]) < quota[env_id]:
                    played[env_id].append(episode)
            if sum(map(len, played)) == episodes:
                break
    n = vec.num_envs
    return Evaluation.of([played[i % n][i // n] for i in range(episodes)])


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
    """Write a GIF of `policy` in environment 0.

    Args:
        policy: as in `evaluate`.
        vec: reset with `seed`; needs to be able to `render`.
        path: of the GIF.
        episodes: to show.
        seed: of the environments and of sampled actions.
        deterministic: the likeliest actions instead of sampled ones.
        max_steps: to show at most.
        scale: factor on height and width.
        fps: frames per second.

    Returns:
        The episodes that ended.
    """
    tally, told = Tally(vec.num_envs, vec.success_threshold), ("success", *vec.reported)
    ended: list[Episode] = []
    vec.enable_rendering()
    obs, _ = vec.reset(seed)
    frames = [vec.render(0)]
    with frozen(policy):
        for step in _play(policy, vec, obs, seed, deterministic):
            ended += [episode for env_id, episode in _ends(tally, told, step) if env_id == 0]
            if len(ended) == episodes and bool(step.is_first[0]):
                break  # what there is to see already belongs to the next episode
            frames.append(vec.render(0))
            if len(ended) == episodes or len(frames) > max_steps:
                break
    write_gif(path, frames, fps=fps, scale=scale)
    return ended


def _play(policy: Actor, vec: VecEnv, obs: Obs, seed: int, deterministic: bool) -> Iterator[Step]:
    """Step `vec`, which was just reset and showed `obs`, for ever."""
    parameter = next(policy.parameters(), None) if isinstance(policy, nn.Module) else None
    device = torch.device("cpu") if parameter is None else parameter.device
    actions = generator(seed, "evaluation", device)
    state: Any = policy.initial_state(vec.num_envs)
    is_first = torch.ones(vec.num_envs, dtype=torch.bool)
    while True:
        seen = map_obs(lambda part: tamed(part[None]).to(device), obs)  # [N, ...] -> [1, N, ...]
        out = policy(seen, state, is_first[None].to(device))
        action = out.dist.mode() if deterministic else out.dist.sample(actions)
        step = vec.step(action[0].cpu())
        yield step
        obs, state, is_first = step.obs, out.state, step.is_first


def _ends(tally: Tally, names: tuple[str, ...], step: Step) -> list[tuple[int, Episode]]:
    told = {name: step.info[name] for name in names if name in step.info}
    for name in told:
        if len(step.final_ids):
            told[name] = told[name].clone()
            told[name][step.final_ids] = step.final_info[name]
    done = step.terminated | step.truncated
    tally.drop(step.crashed_ids.numpy())
    return tally.add(
        step.reward.numpy(),
        done.numpy(),
        step.valid.numpy(),
        {k: v.numpy() for k, v in told.items()},
    )


@contextmanager
def frozen(policy: Any) -> Iterator[None]:
    """Evaluation mode and no gradients; then each module in the mode that it had."""
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
