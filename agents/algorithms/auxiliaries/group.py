"""A learner's auxiliaries as one: whatever is optional in `Auxiliary` is asked for here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.agents.learner import Auxiliary, Batch
from firstlight.agents.policy import Policy, PolicyOutput
from firstlight.envs.types import Rollout


class Auxiliaries(Sequence[Auxiliary]):
    """Calls each member for what it has, in order.

    Args:
        members: see `Auxiliary`.
    """

    def __init__(self, members: Sequence[Auxiliary] = ()):
        self.members = list(members)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: Any) -> Any:
        return self.members[index]

    def parameters(self) -> list[nn.Parameter]:
        """What the learner's optimiser must know beside the policy."""
        return [p for parameters in self._having("parameters") for p in parameters()]

    def to(self, device: torch.device) -> None:
        """Move those that are modules."""
        for member in self.members:
            if isinstance(member, nn.Module):
                member.to(device)

    def observe(self, rollout: Rollout, progress: float) -> None:
        """Show a rollout, before it is learnt from."""
        for observe in self._having("observe"):
            observe(rollout, progress)

    def advantages(self, rollout: Rollout, out: Callable[[], PolicyOutput]) -> Iterator[Tensor]:
        """Each [T, N], to add to the advantage. `out` is called only if somebody wants it."""
        wanting = self._having("advantage")
        if wanting:
            said = out()
            for advantage in wanting:
                extra = advantage(rollout, said)
                if extra is not None:
                    yield extra

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Sum [] over those that share the learner's minibatches."""
        losses = [m.loss(policy, batch) for m in self.members if not hasattr(m, "batches")]
        given = [loss for loss in losses if loss is not None]
        return torch.stack(given).sum() if given else None

    def batches(self) -> Iterator[tuple[Auxiliary, Batch]]:
        """Minibatches that members bring themselves, each for a gradient step on its loss alone."""
        for member in self.members:
            for batch in member.batches() if hasattr(member, "batches") else ():
                yield member, batch

    def metrics(self) -> dict[str, float]:
        """Scalars to log."""
        return {name: x for metrics in self._having("metrics") for name, x in metrics().items()}

    def state_dict(self) -> list[Any]:
        """A state for each; None of one that has none."""
        return [m.state_dict() if hasattr(m, "state_dict") else None for m in self.members]

    def load_state_dict(self, states: list[Any]) -> None:
        """Take such states back.

        Raises:
            ValueError: if they are of another number of auxiliaries.
        """
        if len(states) != len(self.members):
            raise ValueError(
                f"the saved learner has {len(states)} auxiliaries, this one {len(self.members)}"
            )
        for member, state in zip(self.members, states, strict=True):
            if state is not None:
                member.load_state_dict(state)  # type: ignore[attr-defined]

    def _having(self, name: str) -> list[Callable[..., Any]]:
        return [getattr(member, name) for member in self.members if hasattr(member, name)]
