"""Run a program on recorded steps before any training."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from firstlight.envs.types import Rollout
from firstlight.intrinsic.design.design_search import ProgramCheck
from firstlight.intrinsic.design.execution import Sandbox
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.intrinsic.design.program_reward import program_fields


def trial_run(
    program: RewardProgram,
    rollout: Rollout,
    *,
    allow_unsandboxed: bool = False,
    timeout_seconds: float = 10.0,
) -> ProgramCheck:
    """Run a program twice over a rollout, in the sandbox.

    Rejected is one that fails, and one whose second run gives other values.

    Args:
        program: to examine.
        rollout: of any policy.
        allow_unsandboxed: see `Sandbox`.
        timeout_seconds: see `Sandbox`.

    Returns:
        Also the mean of each component, as "mean of NAME", and "active", the share of components
        that were not constant.
    """
    fields = program_fields(rollout)
    valid = rollout.valid.cpu().numpy()
    execution = Sandbox(
        program, timeout_seconds=timeout_seconds, allow_unsandboxed=allow_unsandboxed
    )
    with closing(execution):
        try:
            values, second = (execution.run(fields, {})[0] for _ in range(2))
        except ProgramError as error:
            return ProgramCheck(str(error))
    if not np.array_equal(values, second):
        return ProgramCheck("two runs over the same steps gave different values")
    seen = values[:, valid]
    figures = {
        f"mean of {name}": float(each.mean())
        for name, each in zip(execution.components, seen, strict=True)
    }
    return ProgramCheck(figures={**figures, "active": float((np.ptp(seen, 1) > 0).mean())})
