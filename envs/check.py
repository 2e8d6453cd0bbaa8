"""The public conformance test of vector environments; run it on your own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.check_rows import Record, Rules, difference, parting, record_of, shown
from firstlight.envs.seeding import generator
from firstlight.envs.types import Obs
from firstlight.envs.vec import VecEnv

_CHANCE = 1e-3  # below it a coincidence is none


def check_vec(vec: VecEnv, *, seed: int = 0, steps: int = 64, random: bool | None = None) -> None:
    """Hold a vector environment to the contract of `VecEnv` with random actions, and close it.

    Checked are: shapes and dtypes; that a returned tensor never changes; that no step both
    terminates and truncates; `valid`, `is_first` and the last observations at each end, in either
    mode of autoreset; that the same seed and actions give the same trajectory and another seed
    another one; that impossible actions are refused with ValueError and do nothing; a reset in the
    middle of episodes; going back, if `vec.resume` promises it; closing twice.

    That another seed matters is asked of environments with randomness only: those of which two
    episodes answered the same actions differently. Whether the last observation is the true one
    cannot be seen from outside; what is found out is that it always equals the next episode's
    first, where other observations do not.

    Args:
        vec: the environments.
        seed: of the trajectories; its successor is used as well.
        steps: of each trajectory, some eight in all. Episodes must end within them.
        random: whether they have randomness; default is to find out.

    Raises:
        AssertionError: one sentence that names the first broken rule.
        ValueError: if no episode ended, so that nothing can be said.

    >>> from firstlight.envs.worlds.chain import Chain
    >>> check_vec(Chain(4, length=3))
    """
    _Case(vec, seed, steps, random).check()


class _Case:
    """One vector environment."""

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
                f"no episode ended in {self.steps} steps; give more, or a shorter time limit"
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
        require(isinstance(vec, VecEnv), "is no subclass of firstlight.envs.VecEnv; make it one")
        require(isinstance(vec.num_envs, int) and vec.num_envs > 0, "num_envs is no count")
        for name, space in (("obs_space", vec.obs_space), ("info_space", vec.info_space)):
            fine = isinstance(space, spaces.Dict)
            require(fine, f"{name} is not a gymnasium.spaces.Dict of one environment's fields")
        require(isinstance(vec.act_space, spaces.Space), "act_space is no space")
        known = vec.resume in ("state", "replay", "dropped")
        require(known, f"resume is {vec.resume!r}, not 'state', 'replay' or 'dropped'")

    def play(self, seed: int, actions: Sequence[Tensor] | None = None) -> list[Record]:
        """Reset, step, and hold every row to its rules."""
        answers: list[Any] = [self.begin(seed)]
        records, over = [record_of(answers[0])], np.zeros(self.vec.num_envs, bool)
        for action in self.actions if actions is None else actions:
            answers.append(self.vec.step(action))
            over = self.rules.check_row(answers[-1], over)
            records.append(record_of(answers[-1]))
        self.kept = self.kept or list(zip(answers, records, strict=True))
        self.check_kept()
        return records

    def check_kept(self) -> None:
        """What was answered first must still be what it was."""
        for t, (answer, record) in enumerate(self.kept):
            where = difference(record, record_of(answer))
            self.rules.require(
                where is None, f"{where} of answer {t} changed later: memory is reused"
            )

    def begin(self, seed: int | None) -> tuple[Obs, Obs]:
        obs, info = self.vec.reset(seed)
        self.rules.check_fields("obs", obs, self.vec.obs_space, self.vec.num_envs)
        self.rules.check_fields("info", info, self.vec.info_space, self.vec.num_envs)
        return obs, info

    def check_last(self, records: list[Record]) -> None:
        """Whether each last observation is the first one of the next episode, and no accident."""
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
        where = parting(first, self.play(self.seed))
        self.rules.require(where is None, f"the same seed and actions give something else: {where}")
        found = self.finds_randomness()
        if found if self.random is None else self.random:
            where = parting(first, self.play(self.seed + 1))
            sentence = "another seed gives the same trajectory, though there is randomness"
            self.rules.require(where, f"{sentence}: reset ignores its seed")

    def finds_randomness(self) -> bool:
        """Whether two episodes of one environment answer the same actions differently."""
        N, random = self.vec.num_envs, False
        known: list[dict[int, bytes]] = [{} for _ in range(N)]
        for seed in (self.seed, None):  # the second in the middle of episodes
            record, at, over = record_of(self.begin(seed)), np.zeros(N, int), np.zeros(N, bool)
            for _ in range(self.steps):
                for n in range(N):
                    paid = record["reward"][n].tobytes() if at[n] else b""
                    seen = shown("obs", record, n) + paid
                    random |= known[n].setdefault(int(at[n]), seen) != seen
                step = self.vec.step(torch.stack([self.actions[at[n]][n] for n in range(N)]))
                over, record = self.rules.check_row(step, over), record_of(step)
                at = np.where(record["is_first"], 0, at + 1)
        return random

    def check_refusals(self, first: list[Record]) -> None:
        """Impossible actions between the possible ones of `first` must leave no trace."""
        wrong = dict(enumerate(self.impossible()))
        self.begin(self.seed)
        for t, action in enumerate(self.actions):
            if t in wrong:
                what, impossible = wrong[t]
                answer = "is taken"
                try:
                    self.vec.step(impossible)
                except Exception as error:
                    answer = f"raises {type(error).__name__}"
                right = answer == "raises ValueError"
                self.rules.require(right, f"{what} {answer}; it is to be refused with ValueError")
            where = difference(first[t + 1], record_of(self.vec.step(action)))
            self.rules.require(where is None, f"a refused action leaves a trace in {where}")

    def impossible(self) -> Iterator[tuple[str, Tensor]]:
        action, space = self.actions[0], self.vec.act_space
        yield "a batch with an action too few", action[:-1]
        yield "a batch with an action too many", torch.cat([action, action[:1]])
        if isinstance(space, spaces.Box):
            yield "an action that is NaN", torch.full_like(action, float("nan"))
            return
        for name, number in (("below 0", -1), ("beyond the last", 10**6)):
            wrong = action.clone()
            wrong.view(-1)[-1] = number
            yield f"an action {name}", wrong

    def check_middle(self, first: list[Record]) -> None:
        """A reset right after an end: the new episode must not be taken for the idle row."""
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
            self.rules.require(not restarted.any(), f"{what} loses an environment")
            where = difference(record_of((obs, info)), first[half])
            self.rules.require(where is None, f"{what} goes somewhere else: {where} differs")
            open_ = np.ones(self.vec.num_envs, bool)  # `restore` brings no later episodes back
            for t, action in enumerate(self.actions[half:], half + 1):
                now = record_of(self.vec.step(action))
                open_ &= (what != "restore") | ~first[t]["is_first"]
                where = difference(first[t], now, open_)
                self.rules.require(where is None, f"after {what} {where} goes on differently")

    def any_action(self) -> Tensor:
        """[N, *] at random, as a policy gives them."""
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
