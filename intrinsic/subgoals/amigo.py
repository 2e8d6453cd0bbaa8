"""`AMIGo`, a teacher that learns to propose goals, and rewards for reaching them."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import LEVEL
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.subgoals.adversarial_goals import AdversarialGoals, Goal
from firstlight.intrinsic.subgoals.goal_fields import CellGoals
from firstlight.intrinsic.subgoals.goal_teacher import GoalTeacher
from firstlight.intrinsic.subgoals.subgoal_fields import check_level
from firstlight.networks import collective

_GOAL_SCALE = 100.0  # steps, of the student's reward 1 - 0.9 k / 100


class AMIGo(AdversarialGoals):
    """Rewards goals of an adversarial teacher (Campero et al. 2021), cells of a MiniGrid level.

    The student gets ``1 - 0.9 k / 100`` for a goal that it reaches in k steps. The teacher gets
    ``1 - δ`` for one that takes at least t* steps, and ``-δ`` for an easier one or one that is not
    reached; 1 if the environment rewarded the step that ended it. t* grows by 1 when the teacher's
    mean reward was at least `success` in `patience` batches in a row. The teacher sees the whole
    level, the student does not.

    Args:
        info_space: space of the info channels.
        delta: δ.
        success: see above.
        patience: see above.
        batch_size: goals of a teacher's update.
        max_difficulty: of t*.
        entropy_coef: of the teacher's policy.
        lr: of the teacher.
        hidden: channels of the teacher's convolutions.
        num_layers: number of these.
        hidden_goal: the policy does not see goals.
        seed: of the teacher and its goals.

    Raises:
        ValueError: for environments without whole levels.
    """

    needs_level = True
    teacher: GoalTeacher

    def __init__(
        self,
        *,
        info_space: spaces.Dict,
        delta: float = 0.3,
        success: float = -0.5,
        patience: int = 10,
        batch_size: int = 150,
        max_difficulty: int = 100,
        entropy_coef: float = 0.05,
        lr: float = 2e-3,
        hidden: int = 32,
        num_layers: int = 4,
        hidden_goal: bool = False,
        seed: int = 0,
    ):
        check_level(info_space)
        super().__init__(
            GoalTeacher(hidden=hidden, num_layers=num_layers, seed=seed),
            delta=delta,
            patience=patience,
            batch_size=batch_size,
            max_difficulty=max_difficulty,
            entropy_coef=entropy_coef,
            lr=lr,
            seed=seed,
        )
        self.success, self.hidden_goal = success, hidden_goal

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the field `goal` and the side channels of `GoalFields`."""
        return CellGoals(vec, self.teacher.propose, seed=self.seed, shown=not self.hidden_goal)

    def _pay(self, steps: Tensor) -> Tensor:
        return (1 - 0.9 * steps / _GOAL_SCALE).clamp(min=0)

    def _seen(self, rollout: Rollout, t: int, n: int) -> Goal:
        names = (("level", LEVEL), ("agent", "agent_pos"))
        return {own: rollout.info[name][t, n].clone() for own, name in names}

    def _rate(self, batch: Goal) -> tuple[Tensor, Tensor]:
        return self.teacher(batch["level"], batch["agent"])

    def _grows(self, reward: Tensor, hard: Tensor) -> bool:
        """Whether the mean reward was high enough in `patience` batches in a row."""
        mean = collective.mean(reward.mean()).item()
        self.streak = self.streak + 1 if mean >= self.success else torch.zeros_like(self.streak)
        return bool(self.streak >= self.patience)
