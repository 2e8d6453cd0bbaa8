"""Reward modules as a trainer runs them: warm-up, compute, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.agents.session.agreement import raised_together
from firstlight.agents.session.guards import UpdateGuard
from firstlight.agents.session.iteration_data import Metrics
from firstlight.envs.finite import NonFiniteError, check_finite
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer import RewardMixer


class ModuleGroup:
    """The reward modules of a trainer and their mixer; modules of weight 0 are not called.

    Args:
        modules: name to reward module.
        mixer: has the weights.
        guard: counts updates that are skipped.

    Attributes:
        warmup_done: steps per environment of a random agent that were shown so far.
    """

    def __init__(
        self, modules: Mapping[str, IntrinsicModule], mixer: RewardMixer, guard: UpdateGuard
    ):
        self.modules, self.mixer, self.guard, self.warmup_done = modules, mixer, guard, 0

    def active(self, progress: float) -> dict[str, IntrinsicModule]:
        """The modules whose weight is not 0 at this progress of training in [0, 1]."""
        return {n: m for n, m in self.modules.items() if self.mixer.active(n, progress)}

    @contextmanager
    def open(self, run_dir: Path | None) -> Iterator[None]:
        """Open the modules, run what is inside, and close them."""
        with ExitStack() as cleanup:
            for module in self.modules.values():
                cleanup.callback(module.close)
                module.open(run_dir)
            yield

    @property
    def warmup_left(self) -> int:
        """Steps per environment of a random agent that some module still needs."""
        wanted = [module.warmup_steps for module in self.active(0.0).values()]
        return max(0, max(wanted, default=0) - self.warmup_done)

    def warm_up(self, rollout: Rollout) -> None:
        """Show a random agent's rollout to the modules that still need one."""
        for module in self.active(0.0).values():
            if self.warmup_done < module.warmup_steps:
                module.warmup(rollout)
        self.warmup_done += rollout.num_steps

    def compute(self, rollout: Rollout, progress: float) -> dict[str, Tensor]:
        """Compute the bonus of each active module: name to [T, N] or [T, N, M].

        Raises:
            NonFiniteError: naming a module whose bonus is not finite.
        """
        bonus = {name: m.compute(rollout) for name, m in self.active(progress).items()}
        with raised_together():
            for name, values in bonus.items():
                check_finite(f"bonus {name!r}", values)
        return bonus

    def update(self, rollout: Rollout, names: Iterable[str], step: int) -> Metrics:
        """Update the named modules; a failure is recorded, and the others are still updated.

        Raises:
            NonFiniteError: for the fifth failure in a row.
        """
        metrics: Metrics = {}
        for name in names:
            try:
                logs = self.modules[name].update(rollout)
                metrics |= {k if "/" in k else f"{name}/{k}": value for k, value in logs.items()}
            except NonFiniteError as error:
                self.guard.record_failure(NonFiniteError(f"module {name!r}: {error}"), step)
        return metrics

    def reset(self, env_ids: Tensor) -> None:
        """Reset every module's episodic memory of `env_ids` [*] int64."""
        for module in self.modules.values() if len(env_ids) else ():
            module.reset(env_ids)

    def to(self, device: torch.device | str) -> ModuleGroup:
        """Move mixer and modules; return self."""
        for part in (self.mixer, *self.modules.values()):
            part.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        """State of modules and mixer, and the progress of the warm-up."""
        return {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "mixer": self.mixer.state_dict(),
            "warmed": self.warmup_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore such a state."""
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.mixer.load_state_dict(state["mixer"])
        self.warmup_done = state["warmed"]
