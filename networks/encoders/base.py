"""Base classes of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from firstlight.envs.types import Obs


class Encoder(nn.Module, ABC):
    """Turns observation fields [B, ...] into features [B, out_dim].

    An encoder of your own may also be any `nn.Module` with this forward method and `out_dim`.

    Attributes:
        out_dim: width of the features.
        exportable: whether `forward` can do without compiled loops, so that a model file can be
            written of it, see `Agent.export`.
    """

    out_dim: int
    exportable: bool = True

    @abstractmethod
    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as features [B, out_dim]."""

    def prepare(self, obs: Obs) -> Obs:
        """Compute once what `forward` would compute each time, without parameters or statistics.

        A learner calls it once for a rollout, whose rows it encodes several times.

        Args:
            obs: fields [T, N, ...].

        Returns:
            Fields [T, N, ...] that `forward` takes in place of `obs`; by default `obs` itself.
        """
        return obs

    def observe(self, obs: Obs, valid: Tensor) -> None:
        """Add the observations of a rollout to running statistics; by default there are none.

        Called after the rollout has been learnt from, and never in an evaluation.

        Args:
            obs: fields [T, N, ...] that the policy acted on.
            valid: [T, N] bool, rows to count.
        """

    def describe_fields(self) -> dict[str, str]:
        """Describe in a few words what happens to each field that is used, by name.

        Empty where this is not known, as for an encoder that does not implement it.
        """
        return {}


class TwinEncoder(Encoder):
    """Computes two sets of features at once: the policy's and the values'."""

    @abstractmethod
    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [2, B, out_dim]: the policy's features, then the values'."""
