"""Collect rollouts from several vector environments: one steps while the policy acts in another."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from firstlight.envs.joined import JoinedVec, concatenate, part_seed
from firstlight.envs.runner import Actor, Collecting, Runner
from firstlight.envs.types import Rollout, State, take
from firstlight.envs.vec import VecEnv


class AlternatingRunner(Runner):
    """A `Runner` that acts in one part of the environments while the others step.

    Sample Factory calls this double-buffered sampling (Petrenko et al. 2020). It pays where
    environments step in the background, as those of a `PoolVec` do. A rollout is the same as of one
    runner for each part.

    Args:
        vec: the environments in parts.
        seed: of the first part; the others' are derived from it.
        options: of `Runner`.
    """

    def __init__(self, vec: JoinedVec, *, seed: int = 0, **options: Any):
        if "generator" in options:
            raise ValueError("generator is given, but each part draws actions from one of its own")
        super().__init__(vec, seed=seed, **options)
        self._parts = [
            Runner(part, seed=part_seed(seed, i) or 0, **options)
            for i, part in enumerate(vec.parts)
        ]

    def collect(self, actor: Actor, num_steps: int, version: int = 0) -> Rollout:
        """Step every environment `num_steps` times, see `Runner.collect`."""
        waiting = [runner.collecting(actor, num_steps, version) for runner in self._parts]
        rollouts: list[Rollout] = []
        while len(rollouts) < len(waiting):
            # each goes on until it has begun its next step
            rollouts += [done for done in map(_advance, waiting) if done is not None]
        return join(rollouts)

    def restart_state(self) -> None:
        """Begin the next rollout with the actor's initial recurrent state."""
        for runner in self._parts:
            runner.restart_state()

    def cut(self, rollout: Rollout) -> Rollout:
        """End every open episode, see `Runner.cut`."""
        for runner in self._parts:
            runner.close_episodes()
        return super().cut(rollout)

    def state_dict(self) -> dict[str, Any]:
        """State of every part."""
        for runner in self._parts:
            runner.resume = self.resume
        states = [runner.state_dict() for runner in self._parts]
        shared = {key: states[0][key] for key in ("resets", "open", "kept")}
        return {"parts": states, **shared}

    def load_state_dict(self, state: dict[str, Any], *, new_actions: bool = False) -> Tensor:
        """Load what `state_dict` returned, see `Runner.load_state_dict`.

        Raises:
            ValueError: for a state of another number of parts.
        """
        parts = state.get("parts", [])
        if len(parts) != len(self._parts):
            raise ValueError(
                f"the checkpoint has environments in {len(parts) or 1} parts, expected "
                f"{len(self._parts)}: set alternate as it was"
            )
        lost, begin = [], 0
        for runner, own in zip(self._parts, parts, strict=True):
            runner.resume = self.resume
            lost.append(runner.load_state_dict(own, new_actions=new_actions) + begin)
            begin += runner.vec.num_envs
        return torch.cat(lost)


def make_runner(vec: VecEnv, **options: Any) -> Runner:
    """Make a `Runner` with `options`, an `AlternatingRunner` for environments in parts."""
    kind = AlternatingRunner if isinstance(vec, JoinedVec) else Runner
    return kind(vec, **options)  # type: ignore[arg-type]


def _advance(collecting: Collecting) -> Rollout | None:
    """Run until the next step is under way; return the rollout if there is none."""
    try:
        next(collecting)
    except StopIteration as end:
        return end.value
    return None


def join(rollouts: list[Rollout]) -> Rollout:
    """Join rollouts of equally many steps side by side, environments numbered one after the other.

    Args:
        rollouts: at least one, of the same policy.

    Returns:
        [T, N, ...] with N the sum of theirs; ends of episodes are ordered by step.
    """
    first = rollouts[0]

    def columns(name: str) -> Tensor:
        return torch.cat([getattr(each, name) for each in rollouts], 1)

    def fields(name: str, dim: int) -> State:
        return concatenate([getattr(each, name) for each in rollouts], dim)

    begin, ends = 0, []
    for each in rollouts:
        ends.append(each.final_at + torch.tensor([0, begin]))
        begin += each.num_envs
    order = torch.cat(ends)[:, 0].argsort(stable=True)
    columns_of = ("action", "log_prob", "value", "reward", "terminated", "truncated", "valid")
    joined: dict[str, Any] = {name: columns(name) for name in (*columns_of, "is_first")}
    joined |= {name: fields(name, 1) for name in ("obs", "info")}
    for name in ("final_obs", "final_info", "final_state"):
        joined[name] = take(fields(name, 0), order)
    if first.dist_params is not None:
        joined["dist_params"] = columns("dist_params")
    if first.states is not None:
        joined["states"] = fields("states", 1)
    if any(each.crashed is not None for each in rollouts):
        none = (torch.zeros_like(r.valid) if r.crashed is None else r.crashed for r in rollouts)
        joined["crashed"] = torch.cat([*none], 1)
    return dataclasses.replace(
        first,
        **joined,
        state=fields("state", 0),
        final_at=torch.cat(ends)[order],
        env_ids=torch.arange(begin),
    )
