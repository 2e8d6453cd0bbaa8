"""Reset points from the rewarded genomes of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstlight.agents.agent import load
from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.session.run_directory import checkpoint
from firstlight.envs.finite import nan_to_zero
from firstlight.envs.reset_points import check_restorable
from firstlight.envs.seeding import derive
from firstlight.envs.types import Snapshot, map_obs
from firstlight.envs.vec import VecEnv

MAX_STEPS = 10_000
"""Steps after which an episode without an end is left."""


def collect_reset_points(
    run: Path | str,
    vec: VecEnv,
    *,
    max_episodes: int = 32,
    points_per_episode: int = 8,
    seed: int = 0,
) -> list[list[Snapshot]]:
    """Run the rewarded genomes of a search again, and take snapshots on the way to the reward.

    They are those of the reward archive where the search has one, else of what it keeps, highest
    returns first. Where episodes are random a genome may get nothing this time: then its episode is
    left out.

    Args:
        run: run directory of a search, or one of its checkpoints.
        vec: environments of the kind that was searched, that can be restored. They are reset.
        max_episodes: genomes that are run.
        points_per_episode: snapshots of an episode at equal distances, at least, and at most twice
            as many. Before the first of them are more, after 1, 2, 4, 8, … steps: an agent that
            succeeds from one of them has only half of its steps to add.
        seed: of the episodes.

    Raises:
        ValueError: for a run that is no search, or of other spaces; or if no episode has a reward.
    """
    check_restorable(vec)
    path = checkpoint.find(Path(run), "newest")
    state = checkpoint.load(path)
    policy = load(path).policy
    if "search" not in state or not isinstance(policy, GenomePolicy):
        raise ValueError(f"{run} is no run of a search, which reset points are taken from")
    if (policy.obs_space, policy.act_space) != (vec.obs_space, vec.act_space):
        raise ValueError(
            f"{run} searched an environment with {policy.obs_space} and {policy.act_space}, and "
            f"this one has {vec.obs_space} and {vec.act_space}: give the same env"
        )
    genomes = rewarded_genomes(state["search"])[:max_episodes]
    trajectories: list[list[Snapshot]] = []
    for first in range(0, len(genomes), vec.num_envs):
        batch = genomes[first : first + vec.num_envs]
        episodes_seed = derive(seed, "demonstrations", first)
        trajectories += _run(vec, policy, batch, points_per_episode, episodes_seed)
    if not trajectories:
        raise ValueError(
            f"{run} has {len(genomes)} genomes with a reward, and none got one again, expected "
            "at least one: search longer"
        )
    return trajectories


def rewarded_genomes(state: dict[str, Any]) -> np.ndarray:
    """Return the genomes [B, G] with a reward in the state of a search, highest return first."""
    groups = [state.get("reward_archive")]
    if groups[0] is None or not len(groups[0]["genome"]):
        groups = [state.get(name) for name in ("archive", "population", "offspring")]
    kept = [group for group in groups if group is not None]
    elites = state.get("elites")
    parts = [(group["genome"], group["ret"]) for group in kept]
    if elites is not None:
        parts.append((elites["solution"], elites["objective"]))
    parts.append((state["best_genome"][None], np.array([state["best_return"]])))
    genomes = np.concatenate([np.asarray(genome, np.float64) for genome, _ in parts])
    returns = np.concatenate([np.asarray(ret, np.float64).reshape(-1) for _, ret in parts])
    order = np.argsort(-returns, kind="stable")
    genomes = genomes[order[returns[order] > 0]]
    _, first = np.unique(genomes, axis=0, return_index=True)
    return genomes[np.sort(first)]


def _run(
    vec: VecEnv, policy: GenomePolicy, genomes: np.ndarray, wanted: int, seed: int
) -> list[list[Snapshot]]:
    """Run an episode of each of at most `num_envs` genomes; return the points of rewarded ones."""
    count, size = len(genomes), vec.num_envs
    filled = np.zeros((size, genomes.shape[1]))
    filled[:count] = genomes
    obs, _ = vec.reset(seed)
    running, ret = np.arange(size) < count, np.zeros(size)
    taken: list[dict[int, Snapshot]] = [{} for _ in range(size)]  # by step
    every = 1
    for t in range(1, MAX_STEPS + 1):
        with torch.inference_mode():
            action = policy.act(filled, map_obs(nan_to_zero, obs))
        step = vec.step(action)
        obs, valid = step.obs, step.valid.numpy() & running
        ret[valid] += step.reward.numpy()[valid]
        running &= ~(step.terminated | step.truncated).numpy()
        running[step.crashed_ids.numpy()] = False
        if not running.any():
            break
        if not _is_taken(t, every):
            continue
        snapshots = vec.snapshots()
        for n in np.flatnonzero(running).tolist():
            taken[n][t] = snapshots[n]
        if t == 2 * wanted * every:  # the length is not known: keep half as many
            every *= 2
            taken = [{t: s for t, s in kept.items() if _is_taken(t, every)} for kept in taken]
    return [[*taken[n].values()] for n in range(count) if ret[n] > 0 and taken[n]]


def _is_taken(t: int, every: int) -> bool:
    """Whether an episode has a point after step `t`: a multiple of `every`, or a power of two."""
    return t % every == 0 or t & (t - 1) == 0
