"""All auxiliaries of a learner as one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.agents.learner import Auxiliary, Batch
from firstlight.agents.policy import Policy, PolicyOutput
from firstlight.envs.types import Rollout


class Auxiliaries(Sequence[Auxiliary]):
    """Calls each member in order and collects what they return.

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
        """List the parameters that the learner's optimiser updates beside the policy's."""
        return [parameter for member in self.members for parameter in member.parameters()]

    def to(self, device: torch.device) -> None:
        """Move every member to `device`."""
        for member in self.members:
            member.to(device)

    def check_policy(self, policy: Policy) -> None:
        """Raise ValueError for a policy that a member cannot train."""
        for member in self.members:
            member.check_policy(policy)

    def observe(self, rollout: Rollout, progress: float) -> None:
        """Pass a rollout to every member before the policy is updated."""
        for member in self.members:
            member.observe(rollout, progress)

    def advantages(self, rollout: Rollout, forward: Callable[[], PolicyOutput]) -> Iterator[Tensor]:
        """Yield what members add to the advantage, [T, N] each.

        Args:
            rollout: of T steps.
            forward: computes the policy's output over them; called only if a member reads it.
        """
        adding = [member for member in self.members if member.adds_advantage]
        if adding:
            out = forward()
            for member in adding:
                extra = member.advantage(rollout, out)
                if extra is not None:
                    yield extra

    @property
    def adding_to_loss(self) -> list[Auxiliary]:
        """Members whose loss is added to that of the rollout's minibatches."""
        return [member for member in self.members if not member.brings_batches]

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Add up the losses [] of the members of `adding_to_loss`; None without any."""
        losses = [member.loss(policy, batch) for member in self.adding_to_loss]
        given = [loss for loss in losses if loss is not None]
        return torch.stack(given).sum() if given else None

    def batches(self) -> Iterator[tuple[Auxiliary, Batch]]:
        """Yield the members' own minibatches, each for a gradient step on its own loss."""
        for member in self.members:
            if member.brings_batches:
                for batch in member.batches():
                    yield member, batch

    def metrics(self) -> dict[str, float]:
        """Return the scalars of all members."""
        return {name: x for member in self.members for name, x in member.metrics().items()}

    def state_dict(self) -> list[Any]:
        """Return the state of each member, None for one without a state."""
        return [member.state_dict() or None for member in self.members]

    def load_state_dict(self, states: list[Any]) -> None:
        """Restore such a list of states.

        Raises:
            ValueError: if it is of another number of auxiliaries.
        """
        if len(states) != len(self.members):
            raise ValueError(
                f"the saved learner has {len(states)} auxiliaries, this one {len(self.members)}"
            )
        for member, state in zip(self.members, states, strict=True):
            if state:
                member.load_state_dict(state)
