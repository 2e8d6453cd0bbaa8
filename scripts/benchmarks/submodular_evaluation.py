"""What a trained policy's episodes are worth to a run's submodular reward, in any environment."""

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


def rated(run: Path, episodes: int, seed: int) -> tuple[VecEnv, Policy, Submodular]:
    """The environments of `run`, one for each of `episodes`, its newest policy, and what pays it.

    Raises:
        BadInputError: for a run without a submodular reward, or no episodes.
    """
    from firstlight.agents.agent import load
    from firstlight.intrinsic import Submodular
    from firstlight.scripts.build import make_modules, make_vec
    from firstlight.scripts.evaluate import read_config

    if episodes < 1:
        raise BadInputError(f"--episodes {episodes}: it is at least 1")
    config = read_config(run, ())
    vec = make_vec(config.env, num_envs=episodes)
    modules, vec = make_modules(config.intrinsic, vec, seed)
    module = next((m for m in modules.values() if isinstance(m, Submodular)), None)
    if module is None:
        raise BadInputError(f"{run} is no run with a submodular reward")
    policy = load(run, which="newest").policy  # "best" goes by the return, which is another's
    return vec, policy, module


def first_episodes(
    vec: VecEnv, policy: Policy, seed: int, steps: int = 100
) -> Iterator[tuple[Rollout, Tensor]]:
    """Play until an episode has ended in each environment, so many steps at a time.

    Args:
        vec: where.
        policy: who plays.
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
            yield rollout, (over.cumsum(0) == over) & playing  # the row of the end included
            playing = playing & ~over.any(0)


def gained(run: Path, episodes: int, seed: int, steps: int = 100) -> Tensor:
    """F of an episode less that of its start, by the newest checkpoint of `run`.

    Marginal gains add up to it, also where the run was paid otherwise (`modular`).

    Args:
        run: its directory.
        episodes: how many, each in an environment of its own.
        seed: of environments and actions.
        steps: collected at a time.

    Returns:
        [episodes] float64.

    Raises:
        BadInputError: as `rated`.
    """
    vec, policy, module = rated(run, episodes, seed)
    module.modular = False
    parts = first_episodes(vec, policy, seed, steps)
    worth = sum((module.compute(rollout).double() * rows).sum(0) for rollout, rows in parts)
    vec.close()
    return cast("Tensor", worth)


def measure(run: Path) -> dict[str, Any]:
    """What a learning table says of a run: 100 episodes on a seed that it has not seen.

    Returns:
        `value`, the mean of F less that of the start, and with marginal gains the `curve` of it in
        training (else the reward is no F, and there is none). That is an estimate, the gain of a
        step times the steps of an episode, each a mean over a twentieth of the run: a rollout may
        be much shorter than an episode.
    """
    from firstlight.envs.seeding import derive
    from firstlight.scripts.evaluate import read_config

    config = read_config(run, ())
    worth = gained(run, 100, derive(config.seed, "evaluate"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    raw, length = "reward/submodular/raw", "rollout/length_mean"
    known = [(e["step"], e[raw], e[length]) for e in lines if raw in e and length in e]
    size, curve = -(-len(known) // 20), []
    for part in (known[i : i + size] for i in range(0, len(known), size or 1)):
        steps, gains, lengths = zip(*part, strict=True)
        curve.append([steps[-1], round(fmean(gains) * fmean(lengths), 4)])
    modular = config.intrinsic.submodular.get("modular")
    return {"value": float(worth.mean()), "curve": [] if modular else curve}
