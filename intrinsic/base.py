"""The contract of a reward module: rate a rollout, then learn from it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.mixer.terms import Term


class IntrinsicModule(nn.Module, ABC):
    """Turns a rollout into a bonus per step. Knows no weight, no schedule, no scale.

    `compute` never learns: parameters and running statistics stay as they are. Visit tables and
    episodic memories do advance in `compute`, in time order: all environments of step t read the
    table as it stood after step t-1, then all are added. `update` learns, once per rollout and
    always after `compute`, and returns no reward.

    A module draws random numbers from a generator of its own, also while its networks are made,
    so that a run with the module at weight 0 equals a run without it.

    Attributes:
        novelty: whether the bonus of a state falls with visits; `check_module` tests it if so.
        warmup_steps: steps per environment of a random agent that `warmup` wants to see first.
    """

    novelty: bool = True
    warmup_steps: int = 0

    @abstractmethod
    def compute(self, rollout: Rollout) -> Tensor:
        """Rate each step: float32 [T, N], or [T, N, M] of M ensemble members; raw, no grad.

        Rows that are not `rollout.valid` get 0 and advance no memory.
        """

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from the rollout once. Returns scalars to log."""
        return {}

    def warmup(self, rollout: Rollout) -> None:
        """See random-agent experience before training begins (for normalisers)."""

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Forget episodic memory, of `env_ids` [*] int64 or of every environment."""

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add observation fields or info channels to `vec`, in training and evaluation alike.

        Never touches the reward.
        """
        return vec

    @classmethod
    def default_term(cls) -> Term:
        """Weight, transform, discount and kind of stream as published."""
        return Term()
