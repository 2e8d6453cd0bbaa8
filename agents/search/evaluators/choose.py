"""Choose the evaluator of an environment."""

from __future__ import annotations

from collections.abc import Sequence

from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.search.evaluators.base import Evaluator
from firstlight.agents.search.evaluators.vec import VecEvaluator
from firstlight.agents.search.evaluators.worlds import ArmEvaluator, CurlingEvaluator, MazeEvaluator
from firstlight.envs.vec import VecEnv
from firstlight.envs.worlds.curling import Curling
from firstlight.envs.worlds.hard_maze import HardMaze
from firstlight.envs.worlds.redundant_arm import RedundantArm


def make_evaluator(
    vec: VecEnv,
    policy: GenomePolicy,
    *,
    seed: int = 0,
    num_threads: int | None = None,
    channel: str | None = None,
    bounds: Sequence[Sequence[float]] | None = None,
    max_steps: int | None = None,
    pictures: bool = False,
) -> Evaluator:
    """Make an evaluator: compiled loops for mazes and arms of our own, else `VecEvaluator`.

    Args:
        vec: the environments.
        policy: made for its spaces.
        seed: of episodes, where they are random.
        num_threads: of compiled loops, see `WorldEvaluator`.
        channel: see `VecEvaluator`.
        bounds: see `VecEvaluator`.
        max_steps: see `VecEvaluator`; our own worlds know theirs.
        pictures: see `VecEvaluator`; our own worlds always have some.
    """
    if channel is None and bounds is None and max_steps is None:
        if type(vec) is HardMaze and not (vec.keep_sensors_at_reset or vec.observe_pose):
            return MazeEvaluator(vec, policy, num_threads)
        if type(vec) is Curling:
            return CurlingEvaluator(vec, policy, num_threads)
        if type(vec) is RedundantArm:
            return ArmEvaluator(vec, policy, num_threads)
    return VecEvaluator(
        vec,
        policy,
        seed=seed,
        channel=channel,
        bounds=bounds,
        max_steps=max_steps,
        pictures=pictures,
    )
