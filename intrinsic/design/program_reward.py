"""`ProgramReward`, the reward module that runs a program."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.design.execution import Execution, InProcess, Sandbox
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import ENTRY, FEATURES_ENTRY, RewardProgram
from firstlight.intrinsic.design.program_features import ProgramFeatures
from firstlight.intrinsic.design.recording import program_fields
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.state import read_rows, write_rows

log = logging.getLogger(__name__)


class ProgramReward(IntrinsicModule):
    '''Runs a reward program over each rollout; the bonus is the weighted sum of its components.

    The program (`RewardProgram`) is a batched numpy function that a person or a language model
    wrote. It runs in a process that can compute and nothing else (`Sandbox`), or, with `trusted`,
    in this one. One that fails in its first rollout ends the training with its error; later, the
    rollout has a bonus of 0 and a warning says why, and after `max_failures` such rollouts it is
    not run any more. What the program computes for the policy is shown by `wrap`, see
    `ProgramFeatures`.

    Args:
        file: with the program's source.
        source: the source itself, in place of a file.
        weights: component to factor; default 1 for each.
        trusted: run it in this process, with all rights of the run. Nothing is refused.
        allow_unsandboxed: run it in a process of its own also where the kernel cannot confine it.
        timeout_seconds: for a rollout; a process that takes longer is killed.
        max_failures: number of rollouts; for features, of steps.
        may_run: false runs nothing: features have their fallback values, and `compute` raises. For
            commands that read a program's name from a run's config.

    Raises:
        ValueError: without a program, with two, for a program that is refused (`ProgramError`), or
            weights of other components.

    >>> source = """
    ... RANGES = {"step": (-1, 0)}
    ... def reward(obs, action, next_obs, info, memory):
    ...     return {"step": -1.0}
    ... """
    >>> ProgramReward(source=source).components
    ['step']
    '''

    novelty = False

    def __init__(
        self,
        file: str | Path | None = None,
        source: str | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        trusted: bool = False,
        allow_unsandboxed: bool = False,
        timeout_seconds: float = 10.0,
        max_failures: int = 3,
        may_run: bool = True,
    ):
        super().__init__()
        if (file is None) == (source is None):
            raise ValueError("give the program as a file or as source: file=my_reward.py")
        program = RewardProgram.read(file) if source is None else RewardProgram.parse(source)  # type: ignore[arg-type]
        self.program, self.components = program, list(program.ranges)
        self.weights = {name: 1.0 for name in program.ranges} | dict(weights or {})
        if unknown := sorted(set(self.weights) - set(program.ranges)):
            raise ValueError(
                f"weights names {unknown[0]!r}, but the components are {self.components}"
            )
        self.trusted, self.max_failures, self.may_run = trusted, max_failures, may_run
        self._sandbox_options = {
            "timeout_seconds": timeout_seconds,
            "allow_unsandboxed": allow_unsandboxed,
        }
        self._execution: Execution | None = None
        self._memory: dict[str, Tensor] = {}
        self._rollouts, self._failures = 0, 0
        self._means: dict[str, float] = {}

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N]; 0 where the program failed.

        Raises:
            ProgramError: if it fails in the first rollout, or may not be run.
        """
        if not self.may_run:
            raise ProgramError("a reward program of this run would be run, which was not allowed")
        bonus = torch.zeros(rollout.reward.shape, device=rollout.device)
        if self._failures >= self.max_failures:
            return bonus
        ids = rollout.env_ids.cpu()
        memory = {name: read_rows(field, ids).numpy() for name, field in self._memory.items()}
        try:
            values, after = self._run().run(program_fields(rollout), memory)
        except ProgramError as error:
            self._fail(error)
            return bonus
        self._rollouts += 1
        self._memory = {
            name: write_rows(self._rows_like(name, array), ids, torch.from_numpy(array))
            for name, array in after.items()
        }
        valid = rollout.valid.cpu().numpy()
        self._means = {
            name: float(value[valid].mean()) if valid.any() else 0.0
            for name, value in zip(self.components, values, strict=True)
        }
        factors = np.array([self.weights[name] for name in self.components], np.float32)
        total = torch.from_numpy(np.tensordot(factors, values, 1)).to(rollout.device)
        return torch.where(rollout.valid, total, bonus)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Return the mean of each component, and "failures", the number of rollouts without one."""
        return {**self._means, "failures": float(self._failures)}

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Set the memory of environments to 0."""
        for field in self._memory.values():
            if env_ids is None:
                field.zero_()
            else:
                field[env_ids[env_ids < len(field)].cpu()] = 0

    def close(self) -> None:
        """End the program's process."""
        if self._execution is not None:
            self._execution.close()

    def get_extra_state(self) -> dict[str, Any]:
        """Return the program's hash and memory, and how often it ran and failed."""
        return {
            "hash": self.program.hash,
            "memory": {name: field.clone() for name, field in self._memory.items()},
            "rollouts": self._rollouts,
            "failures": self._failures,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned.

        Raises:
            ValueError: if it is of another program.
        """
        if state["hash"] != self.program.hash:
            raise ValueError(
                f"the checkpoint is of the reward program {state['hash']}, but this one is "
                f"{self.program.hash}: it was changed"
            )
        self._memory = {name: field.cpu().clone() for name, field in state["memory"].items()}
        self._rollouts, self._failures = state["rollouts"], state["failures"]

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the features of the program, if it has any."""
        if not self.program.features:
            return vec
        execution = self._make(FEATURES_ENTRY) if self.may_run else None
        return ProgramFeatures(vec, self.program, execution, max_failures=self.max_failures)

    @property
    def shows_fallbacks(self) -> bool:
        """Whether the policy sees fallback values in the place of the program's features."""
        return bool(self.program.features) and not self.may_run

    @classmethod
    def default_term(cls) -> Term:
        """Weight 1, in a stream that ends with the episode."""
        return Term()

    def _run(self) -> Execution:
        """Return what runs the reward; made late, so that evaluations start no process for it."""
        if self._execution is None:
            self._execution = self._make(ENTRY)
        return self._execution

    def _make(self, entry: str) -> Execution:
        if self.trusted:
            return InProcess(self.program, entry)
        return Sandbox(self.program, entry, **self._sandbox_options)  # type: ignore[arg-type]

    def _fail(self, error: ProgramError) -> None:
        if self._rollouts == 0:
            raise ProgramError(f"the reward program failed at its start: {error}") from error
        self._failures += 1
        self._means = {}
        rest = (
            "it is not run any more"
            if self._failures >= self.max_failures
            else "this rollout has no bonus of it"
        )
        log.warning("the reward program failed: %s; %s", error, rest)

    def _rows_like(self, name: str, array: np.ndarray) -> Tensor:
        """Return the memory of that name, or an empty one if it has another shape or type."""
        empty = torch.from_numpy(array[:0].copy())
        known = self._memory.get(name, empty)
        same = known.shape[1:] == empty.shape[1:] and known.dtype == empty.dtype
        return known if same else empty
