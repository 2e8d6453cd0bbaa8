"""Base classes of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from firstlight.envs.types import Obs
from firstlight.networks.vjp import VJP


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

    def fuse_heads(self, weight: Tensor, bias: Tensor) -> Callable[[Obs], Tensor] | None:
        """Return a function that computes a linear layer of the features in few operations.

        For acting, which has a few rows at a time: there each call takes longer than its numbers.

        Args:
            weight: [O, out_dim]; [O, 2 * out_dim] for the two features of a `TwinEncoder`.
            bias: [O].

        Returns:
            A function from fields [B, ...] to [B, O], without gradients. It computes with the
            parameters that the encoder has now: use it until they change. None where `forward` is
            as good.
        """
        return None

    def vjp(self, obs: Obs) -> VJP | None:
        """Compute the features without autograd, with a function that adds the gradients.

        Args:
            obs: fields [B, ...]; `prepare` may have processed them.

        Returns:
            The features, and a function that adds to `grad` of the encoder's parameters, see `VJP`.
            None, by default, for what autograd must do.
        """
        return None

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
