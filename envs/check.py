"""Conformance test for vector environments, also for those of users."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.check_rows import Record, Rules, difference, first_difference, record_of, shown
from firstlight.envs.seeding import generator
from firstlight.envs.types import Obs
from firstlight.envs.vec import VecEnv

_CHANCE = 1e-3  # a coincidence less probable than this counts as an error


def check_vec(vec: VecEnv, *, seed: int = 0, steps: int = 64, random: bool | None = None) -> None:
    """Check that a vector environment follows the contract of `VecEnv`, and close it.

    Actions are random. The checks are: shapes and dtypes; that a returned tensor never changes;
    that no step both terminates and truncates; `valid`, `is_first` and the last observations at
    each end, in either mode of autoreset; that equal seeds and actions give equal trajectories and
    another seed a different one; that invalid actions raise ValueError and change nothing; a reset
    in the middle of episodes; restoring, unless `vec.resume` is "dropped"; closing twice.

    Another seed has to give a different trajectory only if the environments are random: if in two
    episodes equal actions had different results. Whether the last observation of an episode is the
    true one cannot be seen from outside; the check finds last observations that always equal the
    next episode's first one, where other observations do not.

    Args:
        vec: the environments.
        seed: of the trajectories; ``seed + 1`` is used as well.
        steps: length of each of about eight trajectories. Episodes must end within it.
        random: whether the environments are random; default is to find out.

    Raises:
        AssertionError: names the first broken rule.
        EnvironmentFaultError: if an environment in `GymVec` or `PoolVec` breaks Gymnasium's API.
        ValueError: if no episode ended, so that ends could not be checked.

    >>> from firstlight.envs.worlds.chain import Chain
    >>> check_vec(Chain(4, length=3))
    """
    _Case(vec, seed, steps, random).check()


class _Case:
    """Check of one vector environment."""

    def __init__(self, vec: Any, seed: int, steps: int, random: bool | None):
        self.vec, self.seed, self.steps, self.random = vec, seed, steps, random
        self.rules = Rules(vec)
        self.kept: list[tuple[Any, Record]] = []
        self.generator = generator(seed, "check")

    def check(self) -> None:
        self.check_attributes()
        self.actions = [self.any_action() for _ in range(self.steps)]
        first = self.play(self.seed)
        if not any(record["ended"].any() for record in first[1:]):
            raise ValueError(
                f"no episode ended in {self.steps} steps; raise `steps` or lower the time limit"
            )
        self.check_last(first)
        self.check_seeds(first)
        self.check_refusals(first)
        self.check_middle(first)
        self.check_return(first)
        self.check_kept()
        self.vec.close()
        self.vec.close()

    def check_attributes(self) -> None:
        vec, require = self.vec, self.rules.require
        require(isinstance(vec, VecEnv), "is not a subclass of firstlight.envs.VecEnv")
        require(
            isinstance(vec.num_envs, int) and vec.num_envs > 0, "num_envs is not a positive integer"
        )
        for name, space in (("obs_space", vec.obs_space), ("info_space", vec.info_space)):
            fine = isinstance(space, spaces.Dict)
            require(fine, f"{name} is not a gymnasium.spaces.Dict of one environment's fields")
        require(
            isinstance(vec.act_space, spaces.Space), "act_space is not a gymnasium.spaces.Space"
        )
        known = vec.resume in ("state", "replay", "dropped")
        require(known, f"resume is {vec.resume!r}, not 'state', 'replay' or 'dropped'")

    def play(self, seed: int, actions: Sequence[Tensor] | None = None) -> list[Record]:
        """Reset and step, and check every row. Returns a copy of each result."""
        results: list[Any] = [self.begin(seed)]
        records, over = [record_of(results[0])], np.zeros(self.vec.num_envs, bool)
        for action in self.actions if actions is None else actions:
            results.append(self.vec.step(action))
            over = self.rules.check_row(results[-1], over)
            records.append(record_of(results[-1]))
        self.kept = self.kept or list(zip(results, records, strict=True))
        self.check_kept()
        return records

    def check_kept(self) -> None:
        """Require that the tensors of the first trajectory have not changed."""
        for t, (result, record) in enumerate(self.kept):
            where = difference(record, record_of(result))
            self.rules.require(
                where is None, f"{where} of step {t} changed later: memory is reused"
            )

    def begin(self, seed: int | None) -> tuple[Obs, Obs]:
        obs, info = self.vec.reset(seed)
        self.rules.check_fields("obs", obs, self.vec.obs_space, self.vec.num_envs)
        self.rules.check_fields("info", info, self.vec.info_space, self.vec.num_envs)
        return obs, info

    def check_last(self, records: list[Record]) -> None:
        """Require that last observations are not the first ones of the next episodes."""
        ends, alike, rows, hits = 0, 0, 0, 0
        for n in range(self.vec.num_envs):
            opening: bytes | None = None
            for now in records[:0:-1]:  # backwards, without the reset
                seen = shown("obs", now, n)
                if now["is_first"][n]:
                    opening = seen
                if not now["valid"][n] or opening is None:
                    continue
                if now["ended"][n]:
                    hidden = np.flatnonzero(now["final_ids"] == n)
                    last = shown("final_obs", now, hidden[0]) if len(hidden) else seen
                    ends, alike = ends + 1, alike + (last == opening)
                else:
                    rows, hits = rows + 1, hits + (seen == opening)
        by_chance = ((hits + 1) / (rows + 2)) ** ends
        self.rules.require(
            alike < ends or rows < ends or by_chance > _CHANCE,
            f"all {ends} last observations are the first ones of the next episodes",
        )

    def check_seeds(self, first: list[Record]) -> None:
        where = first_difference(first, self.play(self.seed))
        self.rules.require(
            where is None, f"equal seeds and actions give different trajectories: {where}"
        )
        found = self.finds_randomness()
        if found if self.random is None else self.random:
            where = first_difference(first, self.play(self.seed + 1))
            sentence = "another seed gives the same trajectory of a random environment"
            self.rules.require(where, f"{sentence}: reset ignores its seed")

    def finds_randomness(self) -> bool:
        """Whether equal actions had different results in two episodes of one environment."""
        N, random = self.vec.num_envs, False
        known: list[dict[int, bytes]] = [{} for _ in range(N)]
        for seed in (self.seed, None):  # the second in the middle of episodes
            record, at, over = record_of(self.begin(seed)), np.zeros(N, int), np.zeros(N, bool)
            for _ in range(self.steps):
                for n in range(N):
                    reward = record["reward"][n].tobytes() if at[n] else b""
                    seen = shown("obs", record, n) + reward
                    random |= known[n].setdefault(int(at[n]), seen) != seen
                step = self.vec.step(torch.stack([self.actions[at[n]][n] for n in range(N)]))
                over, record = self.rules.check_row(step, over), record_of(step)
                at = np.where(record["is_first"], 0, at + 1)
        return random

    def check_refusals(self, first: list[Record]) -> None:
        """Require that invalid actions between those of `first` raise and change nothing."""
        wrong = dict(enumerate(self.impossible()))
        self.begin(self.seed)
        for t, action in enumerate(self.actions):
            if t in wrong:
                what, impossible = wrong[t]
                result = "is accepted"
                try:
                    self.vec.step(impossible)
                except Exception as error:
                    result = f"raises {type(error).__name__}"
                right = result == "raises ValueError"
                self.rules.require(right, f"{what} {result}; expected ValueError")
            where = difference(first[t + 1], record_of(self.vec.step(action)))
            self.rules.require(where is None, f"a refused action changes {where}")

    def impossible(self) -> Iterator[tuple[str, Tensor]]:
        action, space = self.actions[0], self.vec.act_space
        yield "a batch with one action too few", action[:-1]
        yield "a batch with one action too many", torch.cat([action, action[:1]])
        if isinstance(space, spaces.Box):
            yield "an action that is NaN", torch.full_like(action, float("nan"))
            return
        for name, number in (("below 0", -1), ("beyond the last", 10**6)):
            wrong = action.clone()
            wrong.view(-1)[-1] = number
            yield f"an action {name}", wrong

    def check_middle(self, first: list[Record]) -> None:
        """Reset right after an end: the first row of the new episode must be valid."""
        t = next(t for t, record in enumerate(first[1:], 1) if record["ended"].any())
        self.play(self.seed, self.actions[:t])
        self.begin(None)
        self.rules.check_row(self.vec.step(self.actions[0]), np.zeros(self.vec.num_envs, bool))

    def check_return(self, first: list[Record]) -> None:
        if self.vec.resume == "dropped":
            return
        half, envs = self.steps // 2, torch.arange(self.vec.num_envs)
        self.play(self.seed, self.actions[:half])
        state, snapshots = copy.deepcopy(self.vec.state_dict()), self.vec.snapshots()
        self.play(self.seed + 1, self.actions[: half // 2])
        for what, back in (
            ("load_state_dict", lambda: self.vec.load_state_dict(state)),
            ("restore", lambda: self.vec.restore(envs, snapshots)),
        ):
            obs, info, restarted = back()
            self.rules.require(not restarted.any(), f"{what} could not restore an environment")
            where = difference(record_of((obs, info)), first[half])
            self.rules.require(where is None, f"{what} gives another state: {where} differs")
            open_ = np.ones(self.vec.num_envs, bool)  # `restore` does not restore later episodes
            for t, action in enumerate(self.actions[half:], half + 1):
                now = record_of(self.vec.step(action))
                open_ &= (what != "restore") | ~first[t]["is_first"]
                where = difference(first[t], now, open_)
                self.rules.require(where is None, f"{where} differs in the steps after {what}")

    def any_action(self) -> Tensor:
        """Random actions [N, *], as a policy would output them."""
        N, space = self.vec.num_envs, self.vec.act_space
        shape = (N, *(space.shape or ()))
        noise = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        if isinstance(space, spaces.Box):
            low, high = (
                torch.from_numpy(b).double().nan_to_num(posinf=1, neginf=-1)
                for b in (space.low, space.high)
            )
            return (low + (high - low) * noise).float()
        kinds = {spaces.Discrete: "n", spaces.MultiDiscrete: "nvec"}
        count = torch.as_tensor(getattr(space, kinds.get(type(space), ""), 2))
        return (noise * count).long()
