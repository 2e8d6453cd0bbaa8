"""What a search does with a program before any training: `screen`, as a check."""

from __future__ import annotations

import numpy as np

from firstlight.envs.types import Rollout
from firstlight.intrinsic.design.design_search import ProgramCheck
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.intrinsic.design.recording import Recording
from firstlight.intrinsic.design.screening import screen


def trial_run(
    program: RewardProgram,
    rollout: Rollout,
    *,
    success_threshold: float | None = None,
    allow_unsandboxed: bool = False,
    timeout_seconds: float = 10.0,
) -> ProgramCheck:
    """Screen a program on a rollout, in the sandbox.

    Args:
        program: to examine.
        rollout: of any policy.
        success_threshold: of the environments, see `VecEnv`.
        allow_unsandboxed: see `Sandbox`.
        timeout_seconds: see `Sandbox`.

    Returns:
        The reasons to reject it, and the numbers of the report, with "active", the share of
        components that were not constant.
    """
    recording = Recording.of([rollout], success_threshold)
    report = screen(
        program,
        recording,
        allow_unsandboxed=allow_unsandboxed,
        timeout_seconds=timeout_seconds,
    )
    moving = [low < high for low, _, high in report.components.values()]
    figures = {**report.numbers(), "active": float(np.mean(moving)) if moving else 0.0}
    return ProgramCheck("; ".join(report.problems), figures)
