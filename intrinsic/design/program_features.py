"""`ProgramFeatures`, which shows the policy what a reward program computes for it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import MemoryWrapper
from firstlight.intrinsic.design.execution import Execution
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import RewardProgram

log = logging.getLogger(__name__)


class ProgramFeatures(MemoryWrapper):
    """Wrapper that adds each feature of a program as the observation field `program_NAME`.

    The function is called once for each step of all environments, where episodes ended with their
    last observations before. Its memory is that of this wrapper, so training and evaluation do not
    meet, and is saved in snapshots. A program that fails at its first step raises; later, the
    fields of that step have their fallback values and a warning says why, and after `max_failures`
    such steps it is not run any more.

    Args:
        vec: the environments.
        program: with features.
        execution: runs its function "features"; closed with the environments. None shows the
            fallback values, and runs nothing.
        max_failures: number of steps.

    Raises:
        ValueError: if `vec` has a field of such a name already.
    """

    prefix, saved_as, what = "program_features.", "program_features", "a program's features"

    def __init__(
        self,
        vec: VecEnv,
        program: RewardProgram,
        execution: Execution | None,
        *,
        max_failures: int = 3,
    ):
        super().__init__(vec)
        self.max_failures, self.failures, self.calls = max_failures, 0, 0
        self._execution = execution
        fields = {f"program_{name}": feature for name, feature in program.features.items()}
        if taken := sorted(fields.keys() & vec.obs_space.spaces.keys()):
            raise ValueError(
                f"the environment observes {taken[0]!r} already: one program only can show a "
                "feature under that name"
            )
        self._boxes = {
            name: OptionalBox(each.low, each.high, (each.width,), default=each.fallback)
            for name, each in fields.items()
        }
        self.obs_space = spaces.Dict({**vec.obs_space.spaces, **self._boxes})
        self._memory: dict[str, Tensor] = {}
        self._shown = {
            name: torch.full((vec.num_envs, *box.shape), box.default)
            for name, box in self._boxes.items()
        }

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment."""
        obs, info = self._vec.reset(seed)
        yes = torch.ones(1, self.num_envs, dtype=torch.bool)
        self._advance([(obs, info)], yes, yes)
        return {**obs, **self._shown}, info

    def close(self) -> None:
        """End the program's process, and close the environments."""
        if self._execution is not None:
            self._execution.close()
        super().close()

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        moments = [(step.obs, step.info)]
        is_first, valid = step.is_first[None], (step.valid | step.is_first)[None]
        ids = step.final_ids
        if len(ids):  # the last observations, before the memory is cleared
            ended = torch.zeros_like(valid).index_fill(1, ids, True)
            last = tuple(
                {name: field.index_copy(0, ids, final[name]) for name, field in now.items()}
                for now, final in ((step.obs, step.final_obs), (step.info, step.final_info))
            )
            moments = [(last[0], last[1]), *moments]
            is_first = torch.cat([torch.zeros_like(ended), is_first])
            valid = torch.cat([ended, valid])
        before = self._advance(moments, is_first, valid)
        final_obs = {**step.final_obs, **{name: field[ids] for name, field in before.items()}}
        return dataclasses.replace(step, obs={**step.obs, **self._shown}, final_obs=final_obs)

    def _advance(
        self, moments: Sequence[tuple[Obs, Obs]], is_first: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """Compute the fields of moments of all environments in one exchange.

        Args:
            moments: observations and side channels, [N, ...], of each of T.
            is_first: [T, N] bool, whose memory is cleared before.
            valid: [T, N] bool, whose fields are computed.

        Returns:
            The fields of the first moment [N, ...]; those of the last are in `_shown`.
        """
        first = self._shown
        if self._execution is None or self.failures >= self.max_failures:
            return first
        arrays = {
            f"{group}/{name}": _stacked([moment[i][name].numpy() for moment in moments])
            for i, group in enumerate(("obs", "info"))
            for name in moments[0][i]
        }
        arrays |= {"is_first": is_first.numpy(), "valid": valid.numpy()}
        memory = {name: rows.numpy() for name, rows in self._memory.items()}
        try:
            values, after = self._execution.run(arrays, memory)
        except ProgramError as error:
            self._fail(error)
            return self._shown
        self.calls += 1
        self._memory = {name: torch.from_numpy(array) for name, array in after.items()}
        for t in range(len(moments)):
            row, shown = 0, {}
            for name, box in self._boxes.items():
                width = box.shape[0]
                new = torch.from_numpy(values[row : row + width, t].T.copy())
                is_whole = bool(valid[t].all())
                old = self._shown[name]
                shown[name] = new if is_whole else torch.where(valid[t][:, None], new, old)
                row += width
            self._shown = shown  # replaced, never changed: steps hold the tensors
            first = shown if t == 0 else first
        return first

    def _fail(self, error: ProgramError) -> None:
        if self.calls == 0:
            raise ProgramError(
                f"the features of the reward program failed at their start: {error}"
            ) from error
        self.failures += 1
        self._shown = {
            name: torch.full_like(self._shown[name], box.default)
            for name, box in self._boxes.items()
        }
        stopped = self.failures >= self.max_failures
        rest = "they are not computed any more" if stopped else "this step has their fallback"
        log.warning("the features of the reward program failed: %s; %s", error, rest)

    def state_dict(self) -> dict[str, Any]:
        """State of the environments, and how often the program was called and failed."""
        counts = {"feature_calls": self.calls, "feature_failures": self.failures}
        return super().state_dict() | counts

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        self.calls, self.failures = state["feature_calls"], state["feature_failures"]
        return super().load_state_dict(state)

    def _save_memory(self, n: int) -> dict[str, Tensor]:
        return {
            f"{self.prefix}{group}.{name}": field[n].clone()
            for group, fields in (("memory", self._memory), ("shown", self._shown))
            for name, field in fields.items()
        }

    def _load_memories(
        self,
        env_ids: Tensor,
        memories: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        restarted: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        """Load memories and fields; compute those of environments that were restarted."""
        # clones: tensors made in inference mode cannot be written to
        self._shown = {name: field.clone() for name, field in self._shown.items()}
        self._memory = {name: field.clone() for name, field in self._memory.items()}
        for n, arrays in zip(env_ids.tolist(), memories, strict=True):
            for key, array in arrays.items():
                group, _, name = key.removeprefix(self.prefix).partition(".")
                if group == "shown":
                    self._shown[name][n] = array
                else:
                    if name not in self._memory:
                        self._memory[name] = array.new_zeros(self.num_envs, *array.shape)
                    self._memory[name][n] = array
        if restarted.any():
            opens = torch.zeros(1, self.num_envs, dtype=torch.bool)
            opens[0, env_ids] = restarted
            wide = tuple(
                {
                    name: torch.zeros(self.num_envs, *x.shape[1:], dtype=x.dtype).index_copy(
                        0, env_ids, x
                    )
                    for name, x in fields.items()
                }
                for fields in (obs, info)
            )
            self._advance([(wide[0], wide[1])], opens, opens)
        shown = {name: field[env_ids] for name, field in self._shown.items()}
        return {**obs, **shown}, info, restarted


def _stacked(moments: Sequence[np.ndarray]) -> np.ndarray:
    """Stack steps [N, ...] to [T, N, ...], without copying a single one."""
    return moments[0][None] if len(moments) == 1 else np.stack(moments)
