"""`AdversarialGoals`, what AMIGo and L-AMIGo share: rewards of student and teacher, difficulty."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.state import Fitter
from firstlight.intrinsic.subgoals.goal_fields import GOAL, GOAL_IS_NEW, GOAL_STEPS
from firstlight.networks import collective

Goal = dict[str, Tensor]
"""A proposed goal: its number `goal`, what the teacher saw, and once it ended `steps` and `won`."""


class AdversarialGoals(IntrinsicModule):
    """Rewards goals of a teacher that is rewarded for goals of the right difficulty.

    The teacher gets ``1 - δ`` for a goal that takes at least t* steps, and ``-δ`` for an easier one
    or one that is not reached; 1 if the environment rewarded the step that ended it. Subclasses say
    what a goal is, what the student gets for it, and when t* grows.

    Args:
        teacher: network that proposes goals.
        delta: δ.
        patience: what has to come before t* grows by 1.
        batch_size: goals of a teacher's update.
        max_difficulty: of t*.
        entropy_coef: of the teacher's policy.
        lr: of the teacher.
        seed: of the teacher's updates.
    """

    novelty = False
    difficulty: Tensor
    streak: Tensor

    def __init__(
        self,
        teacher: nn.Module,
        *,
        delta: float,
        patience: int,
        batch_size: int,
        max_difficulty: int,
        entropy_coef: float,
        lr: float,
        seed: int,
    ):
        super().__init__()
        self.delta, self.patience, self.entropy_coef = delta, patience, entropy_coef
        self.batch_size, self.max_difficulty, self.seed = batch_size, max_difficulty, seed
        self.teacher = teacher
        self.fitter = Fitter(teacher.parameters(), lr=lr, seed=seed)
        self.register_buffer("difficulty", torch.ones((), dtype=torch.int64))
        self.register_buffer("streak", torch.zeros((), dtype=torch.int64))
        self._open: dict[int, Goal] = {}  # by environment
        self._ended: list[Goal] = []  # goals that the teacher has not learnt from

    @abstractmethod
    def _pay(self, steps: Tensor) -> Tensor:
        """Student's reward [T, N] for goals reached after `steps` [T, N]."""

    @abstractmethod
    def _seen(self, rollout: Rollout, t: int, n: int) -> Goal | None:
        """What the teacher saw when it proposed a goal at (t, n); None if it proposed none."""

    @abstractmethod
    def _rate(self, batch: Goal) -> tuple[Tensor, Tensor]:
        """Rate goals: logits [B, G] of those that could be proposed, and expected reward [B]."""

    @abstractmethod
    def _grows(self, reward: Tensor, hard: Tensor) -> bool:
        """Whether t* grows after a batch's rewards [B], where `hard` [B] took t* steps or more."""

    def _others(self, rollout: Rollout) -> Tensor:
        """Steps [T, N] bool that `_note` is called for. Default: none."""
        return torch.zeros_like(rollout.valid)

    def _note(self, goal: Goal, rollout: Rollout, t: int, n: int) -> None:
        """Record step (t, n) in the goal that was pursued."""

    def _collate(self, goals: list[Goal]) -> Goal:
        """Make a batch [B, ...] of goals."""
        device = self.difficulty.device
        return {name: torch.stack([g[name].to(device) for g in goals]) for name in goals[0]}

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the student's reward [T, N] from the steps that reached goals took."""
        steps = _steps(rollout)
        return torch.where((steps > 0) & rollout.valid, self._pay(steps.float()), 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Record the goals that ended, and teach the teacher once there are enough."""
        steps = _steps(rollout)
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

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in an episodic stream."""
        return Term(weight=0.3, gamma=0.99, episodic=True)

    def _record(self, rollout: Rollout, steps: Tensor, ends: Tensor) -> None:
        """Follow each environment's goals through the rollout, in time order."""
        is_new = rollout.info[GOAL_IS_NEW][:-1].bool()
        others = self._others(rollout) & rollout.valid
        for t, n in (is_new | ends | others).nonzero().tolist():
            env = int(rollout.env_ids[n])
            if is_new[t, n]:
                self._open.pop(env, None)
                seen = self._seen(rollout, t, n)
                if seen is not None:
                    self._open[env] = {**seen, "goal": rollout.info[GOAL][t, n].clone()}
            if others[t, n] and env in self._open:
                self._note(self._open[env], rollout, t, n)
            if ends[t, n] and env in self._open:
                goal, won = self._open.pop(env), bool(rollout.reward[t, n] > 0)
                goal["steps"], goal["won"] = steps[t, n].clone(), torch.tensor(won)
                self._ended.append(goal)

    def _learn(self, goals: list[Goal]) -> dict[str, float]:
        """Take a policy gradient step on goals that ended; make goals harder after successes."""
        batch = self._collate(goals)
        hard = (batch["steps"] > 0) & (batch["steps"] >= self.difficulty)
        reward = torch.where(batch["won"], 1.0, hard.float() - self.delta)

        def loss(rows: Tensor) -> Tensor:
            return self._loss({name: x[rows] for name, x in batch.items()}, reward[rows])

        fitted = self.fitter.fit(len(goals), loss)
        if self._grows(reward, hard):
            self.difficulty = (self.difficulty + 1).clamp(max=self.max_difficulty)
            self.streak = torch.zeros_like(self.streak)
        return {"teacher_reward": collective.mean(reward.mean()).item(), "teacher_loss": fitted}

    def _loss(self, batch: Goal, reward: Tensor) -> Tensor:
        """Mean loss [] of the teacher's policy and of its expected reward."""
        logits, value = self._rate(batch)
        log_prob = F.log_softmax(logits, -1)
        chosen = log_prob.gather(1, self._index(batch)[:, None])[:, 0]
        advantage = reward - value
        entropy = -(log_prob.exp() * log_prob).sum(-1)
        policy = -(advantage.detach() * chosen) - self.entropy_coef * entropy
        return (policy + 0.5 * advantage.square()).mean()

    def _index(self, batch: Goal) -> Tensor:
        """Column [B] of each goal in the logits. Default: its number."""
        return batch["goal"]

    def get_extra_state(self) -> dict[str, Any]:
        """Return the goals being pursued, and ended ones that the teacher has not learnt from."""
        return {"open": {str(env): goal for env, goal in self._open.items()}, "ended": self._ended}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self._open = {int(env): dict(goal) for env, goal in state["open"].items()}
        self._ended = [dict(goal) for goal in state["ended"]]


def _steps(rollout: Rollout) -> Tensor:
    """Steps [T, N] of the goal that each step reached; -1 where its episode ended, else 0."""
    return rollout.successors(rollout.info[GOAL_STEPS], rollout.final_info[GOAL_STEPS])
