"""`IntrinsicModule`, the interface of reward modules: compute a bonus, then learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.mixer.terms import Term


class IntrinsicModule(nn.Module, ABC):
    """Computes a bonus for each step of a rollout. Weight, schedule and scale belong to `Term`.

    `compute` never learns: parameters and running statistics do not change. Visit tables and
    episodic memories do advance in `compute`, in time order: all environments of step t read the
    table as it was after step t-1, then all are added. `update` learns, once per rollout and always
    after `compute`, and returns no reward.

    A module draws random numbers from its own generator, also to initialise its networks, so that
    a run with the module at weight 0 equals a run without it.

    Attributes:
        novelty: whether the bonus of a state falls with visits; `check_module` tests it if so.
        warmup_steps: steps per environment of a random agent for `warmup`, before training.
        needs_text: whether the environments' option `text` is turned on for this module.
        needs_level: whether their option `level`, the whole level for a teacher, is.
    """

    novelty: bool = True
    needs_text: bool = False
    needs_level: bool = False
    warmup_steps: int = 0

    @abstractmethod
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the raw bonus of each step: float32 [T, N], or [T, N, M] of M ensemble members.

        Without gradient. Rows that are not `rollout.valid` get 0 and advance no memory.
        """

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from the rollout, once. Returns scalars to log. Default: nothing.

        They are logged as ``<module>/<key>``; a key with a slash, such as "llm/labels", is the
        whole tag.
        """
        return {}

    def open(self, run_dir: Path | None) -> None:
        """Start what runs beside training, such as a service. Default: nothing.

        A module that was not opened works with what it knows.

        Args:
            run_dir: where a file of the module's own may be written; None if nowhere.
        """

    def close(self) -> None:
        """End what `open` started, also after an error in `open`. Default: nothing."""

    def preview(self, rollout: Rollout) -> str:
        """Describe what the module would send to others, for a dry run. Default: "", nothing.

        Args:
            rollout: of a random agent.
        """
        return ""

    def warmup(self, rollout: Rollout) -> None:
        """Initialise normalisers with a random agent's rollout."""

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the episodic memory of `env_ids` [*] int64, or of all. Default: nothing."""

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add observation fields or info channels to `vec`, in training and in evaluation.

        Must not change the reward. Default: `vec` itself.
        """
        return vec

    @classmethod
    def default_term(cls) -> Term:
        """Return the published weight, transform, discount and kind of stream."""
        return Term()
