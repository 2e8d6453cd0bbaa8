"""`AMIGo`, a teacher that learns to propose goals, and rewards for reaching them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import LEVEL
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.state import Fitter
from firstlight.intrinsic.subgoals.goal_fields import (
    GOAL_CELL,
    GOAL_IS_NEW,
    GOAL_STEPS,
    GoalFields,
)
from firstlight.intrinsic.subgoals.goal_teacher import GoalTeacher
from firstlight.intrinsic.subgoals.subgoal_fields import check_level
from firstlight.networks import collective

_GOAL_SCALE = 100.0  # steps, of the student's reward 1 - 0.9 k / 100


class AMIGo(IntrinsicModule):
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

    novelty = False
    needs_level = True

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
        super().__init__()
        check_level(info_space)
        self.delta, self.success, self.patience = delta, success, patience
        self.batch_size, self.max_difficulty = batch_size, max_difficulty
        self.entropy_coef, self.hidden_goal, self.seed = entropy_coef, hidden_goal, seed
        self.teacher = GoalTeacher(hidden=hidden, num_layers=num_layers, seed=seed)
        self.fitter = Fitter(self.teacher.parameters(), lr=lr, seed=seed)
        self.difficulty: Tensor
        self.streak: Tensor
        self.register_buffer("difficulty", torch.ones((), dtype=torch.int64))
        self.register_buffer("streak", torch.zeros((), dtype=torch.int64))
        self._open: dict[int, dict[str, Tensor]] = {}  # by environment: level, agent, cell
        self._ended: list[dict[str, Tensor]] = []  # goals that the teacher has not learnt from

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the student's reward [T, N] from the steps that reached goals took."""
        steps = rollout.successors(rollout.info[GOAL_STEPS], rollout.final_info[GOAL_STEPS])
        bonus = (1 - 0.9 * steps.float() / _GOAL_SCALE).clamp(min=0)
        return torch.where((steps > 0) & rollout.valid, bonus, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Record the goals that ended, and teach the teacher once there are enough."""
        steps = rollout.successors(rollout.info[GOAL_STEPS], rollout.final_info[GOAL_STEPS])
        ends = (steps != 0) & rollout.valid
        self._record(rollout, steps, ends)
        logs = {
            "reached": (steps[ends] > 0).float().mean().item() if ends.any() else 0.0,
            "steps": steps[steps > 0].float().mean().item() if (steps > 0).any() else 0.0,
        }
        while int(collective.minimum(torch.tensor(len(self._ended)))) >= self.batch_size:
            logs |= self._learn(self._ended[: self.batch_size])
            self._ended = self._ended[self.batch_size :]
        return logs | {"difficulty": float(self.difficulty)}

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the field `goal` and the side channels of `GoalFields`."""
        return GoalFields(vec, self.teacher.propose, seed=self.seed, shown=not self.hidden_goal)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in an episodic stream."""
        return Term(weight=0.3, gamma=0.99, episodic=True)

    def _record(self, rollout: Rollout, steps: Tensor, ends: Tensor) -> None:
        """Follow each environment's goals through the rollout, in time order."""
        is_new = rollout.info[GOAL_IS_NEW][:-1].bool()
        for t, n in (is_new | ends).nonzero().tolist():
            env = int(rollout.env_ids[n])
            if is_new[t, n]:
                names = (("level", LEVEL), ("agent", "agent_pos"), ("cell", GOAL_CELL))
                self._open[env] = {own: rollout.info[name][t, n].clone() for own, name in names}
            if ends[t, n] and env in self._open:
                goal, won = self._open.pop(env), bool(rollout.reward[t, n] > 0)
                goal["steps"], goal["won"] = steps[t, n].clone(), torch.tensor(won)
                self._ended.append(goal)

    def _learn(self, goals: list[dict[str, Tensor]]) -> dict[str, float]:
        """Take a policy gradient step on goals that ended; make goals harder after successes."""
        device = self.difficulty.device
        batch = {name: torch.stack([g[name].to(device) for g in goals]) for name in goals[0]}
        hard = (batch["steps"] > 0) & (batch["steps"] >= self.difficulty)
        reward = hard.float() - self.delta
        reward = torch.where(batch["won"], 1.0, reward)

        def loss(rows: Tensor) -> Tensor:
            logits, value = self.teacher(batch["level"][rows], batch["agent"][rows])
            log_prob = F.log_softmax(logits, -1)
            chosen = log_prob.gather(1, batch["cell"][rows][:, None])[:, 0]
            advantage = reward[rows] - value
            entropy = -(log_prob.exp() * log_prob).sum(-1)
            policy = -(advantage.detach() * chosen) - self.entropy_coef * entropy
            return (policy + 0.5 * advantage.square()).mean()

        fitted = self.fitter.fit(len(goals), loss)
        mean = collective.mean(reward.mean()).item()
        self.streak = self.streak + 1 if mean >= self.success else torch.zeros_like(self.streak)
        if self.streak >= self.patience:
            self.difficulty = (self.difficulty + 1).clamp(max=self.max_difficulty)
            self.streak = torch.zeros_like(self.streak)
        return {"teacher_reward": mean, "teacher_loss": fitted}

    def get_extra_state(self) -> dict[str, Any]:
        """Return open goals, and those not learnt from."""
        return {"open": {str(env): goal for env, goal in self._open.items()}, "ended": self._ended}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self._open = {int(env): dict(goal) for env, goal in state["open"].items()}
        self._ended = [dict(goal) for goal in state["ended"]]
