"""Evaluate trained policies by the set function F of a run's submodular reward."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from firstlight.scripts.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

    from firstlight.agents.policy import Policy
    from firstlight.envs.types import Rollout
    from firstlight.envs.vec import VecEnv
    from firstlight.intrinsic import Submodular


def load_for_evaluation(run: Path, episodes: int, seed: int) -> tuple[VecEnv, Policy, Submodular]:
    """Load environments, newest policy and submodular reward of a run.

    Args:
        run: its directory.
        episodes: number of environments.
        seed: of the reward modules.

    Raises:
        BadInputError: for a run without a submodular reward, or no episodes.
    """
    from firstlight.agents.agent import load
    from firstlight.intrinsic import Submodular
    from firstlight.scripts.build import make_modules
    from firstlight.scripts.build_env import make_vec
    from firstlight.scripts.saved_run import load_persistent_state, read_config

    if episodes < 1:
        raise BadInputError(f"--episodes {episodes}: expected at least 1")
    config = read_config(run)
    vec = make_vec(config.env, num_envs=episodes)
    modules, vec = make_modules(config.intrinsic, vec, seed)
    module = next((m for m in modules.values() if isinstance(m, Submodular)), None)
    if module is None:
        raise BadInputError(f"{run} is no run with a submodular reward")
    load_persistent_state(run, "newest", vec)
    policy = load(run, which="newest").policy  # "best" is judged by the environment's return
    return vec, policy, module


def first_episodes(
    vec: VecEnv, policy: Policy, seed: int, steps: int = 100
) -> Iterator[tuple[Rollout, Tensor]]:
    """Collect rollouts until an episode has ended in each environment.

    Args:
        vec: the environments.
        policy: the policy.
        seed: of environments and actions.
        steps: of a rollout.

    Yields:
        A rollout, and which of its rows [T, N] bool belong to first episodes.
    """
    import torch

    from firstlight.agents.evaluation import frozen
    from firstlight.envs.runner import Runner

    runner, playing = Runner(vec, seed=seed), torch.ones(vec.num_envs).bool()
    with frozen(policy):
        while playing.any():
            rollout = runner.collect(policy, steps)
            over = (rollout.terminated | rollout.truncated).int()
            yield (
                rollout,
                (over.cumsum(0) == over) & playing,
            )  # with the last row
            playing = playing & ~over.any(0)


def episode_values(run: Path, episodes: int, seed: int, steps: int = 100) -> Tensor:
    """Compute F of episodes of the newest checkpoint of `run`, minus F of their starts.

    It is the sum of marginal gains, also if the run was trained with `modular` rewards.

    Args:
        run: its directory.
        episodes: how many, each in its own environment.
        seed: of environments and actions.
        steps: collected at a time.

    Returns:
        [episodes] float64.

    Raises:
        BadInputError: as `load_for_evaluation`.
    """
    vec, policy, module = load_for_evaluation(run, episodes, seed)
    module.modular = False
    parts = first_episodes(vec, policy, seed, steps)
    values = sum((module.compute(rollout).double() * rows).sum(0) for rollout, rows in parts)
    vec.close()
    return cast("Tensor", values)


def measure(run: Path) -> dict[str, Any]:
    """Measure a run for a learning table: 100 episodes on a seed that was not trained on.

    Returns:
        `value`, the mean of F minus that of the start, and `curve`, an estimate of it in training:
        mean gain of a step times mean length of an episode, each over a twentieth of the run,
        since a rollout may be much shorter than an episode. With `modular` rewards, which are not
        gains of F, the curve is empty.
    """
    from firstlight.envs.seeding import derive
    from firstlight.scripts.saved_run import read_config

    config = read_config(run)
    values = episode_values(run, 100, derive(config.seed, "evaluate"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    raw, length = "reward/submodular/raw", "rollout/length_mean"
    known = [(e["step"], e[raw], e[length]) for e in lines if raw in e and length in e]
    size, curve = -(-len(known) // 20), []
    for part in (known[i : i + size] for i in range(0, len(known), size or 1)):
        steps, gains, lengths = zip(*part, strict=True)
        curve.append([steps[-1], round(fmean(gains) * fmean(lengths), 4)])
    modular = config.intrinsic.submodular.get("modular")
    return {"value": float(values.mean()), "curve": [] if modular else curve}
