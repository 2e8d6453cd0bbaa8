"""Faster forms of policies without a memory: one for acting, one with gradients by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from firstlight.agents.policy_interface import PolicyOutput, PolicyVJP
from firstlight.envs.action_spaces import MASK
from firstlight.envs.runner import Actor
from firstlight.envs.types import Obs, State, map_obs
from firstlight.networks.cores import Feedforward
from firstlight.networks.distributions import CategoricalHead
from firstlight.networks.encoders.base import Encoder, TwinEncoder
from firstlight.networks.vjp import add_gradient, has_vjp

if TYPE_CHECKING:
    from firstlight.agents.policy import ActorCritic


class FusedActor:
    """Acts as an `ActorCritic` does, in few operations.

    With a few rows at a time, the calls of `forward` take longer than its numbers.

    Args:
        policy: whose parameters do not change while this is used.
        outputs: computes the outputs of both heads [B, A + K] for fields [B, ...], without
            gradients.
    """

    def __init__(self, policy: ActorCritic, outputs: Callable[[Obs], Tensor]):
        self.policy, self.outputs = policy, outputs

    def initial_state(self, num_envs: int) -> State:
        """Return the policy's state before a first observation: none."""
        return self.policy.initial_state(num_envs)

    def __call__(self, obs: Obs, state: State, is_first: Tensor) -> PolicyOutput:
        """Compute what the policy's `forward` computes, without gradients."""
        both = self.outputs(map_obs(lambda field: field.flatten(0, 1), obs))
        distribution = self.policy.distribution
        outputs, value = both.unflatten(0, is_first.shape).split(
            [distribution.num_outputs, self.policy.num_streams], -1
        )
        dist = distribution.make(outputs, self.policy.log_std, obs.get(MASK))
        return PolicyOutput(dist, value, state)


@contextlib.contextmanager
def threads_for(actor: Actor) -> Iterator[None]:
    """Let torch use one thread inside if an actor is fused: its operations are too small for more.

    The others would wait for work on cores that environments need.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not isinstance(actor, FusedActor):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def only_encoder(policy: ActorCritic) -> Encoder | None:
    """Return the encoder if both heads read its features, without a memory and in float32."""
    cores = policy.core, policy.critic_core or policy.core
    plain = all(type(core) is Feedforward for core in cores) and not policy.encoder_bfloat16
    if not plain or policy.critic_encoder is not None or not isinstance(policy.encoder, Encoder):
        return None
    return policy.encoder


@torch.no_grad()
def fuse(policy: ActorCritic) -> FusedActor | None:
    """Make the fused form of a policy; None with a memory, or where no encoder fuses the heads."""
    encoder = only_encoder(policy)
    if encoder is None:
        return None
    head, value = policy.policy_head, policy.value_head
    weight, bias = value.weight.detach(), value.bias.detach()
    if policy.returns is not None:  # in units of the rewards
        scale = policy.returns.scale
        weight, bias = scale[:, None] * weight, scale * bias + policy.returns.mean
    weights = [head.weight, weight]
    twin = isinstance(encoder, TwinEncoder)
    outputs = encoder.fuse_heads(
        torch.block_diag(*weights) if twin else torch.cat(weights), torch.cat([head.bias, bias])
    )
    return None if outputs is None else FusedActor(policy, outputs)


@torch.no_grad()
def vjp(policy: ActorCritic, obs: Obs) -> PolicyVJP | None:
    """Compute logits, values and gradients by hand, see `Policy.vjp`.

    None with a memory, masks or actions that are not categorical, and where an encoder has no
    gradients by hand.

    Args:
        policy: the policy.
        obs: fields [R, ...]; `prepare` may have processed them.
    """
    encoder, heads = only_encoder(policy), (policy.policy_head, policy.value_head)
    if type(policy.distribution) is not CategoricalHead or MASK in obs or not has_vjp(*heads):
        return None
    encoded = None if encoder is None else encoder.vjp(obs)
    if encoded is None:
        return None
    features, add_gradients = encoded
    twin = isinstance(encoder, TwinEncoder)
    read = features.unbind(0) if twin else (features, features)
    if twin:
        logits, value = (head(x) for head, x in zip(heads, read, strict=True))
    else:
        weight, bias = policy.joined_heads()
        both = torch.addmm(bias, features, weight.T)
        logits, value = both.split([head.out_features for head in heads], 1)
    returns = policy.returns
    if returns is not None:  # in units of the rewards
        value = torch.addcmul(returns.mean, value, returns.scale)

    @torch.no_grad()
    def add_all(by_logits: Tensor, by_value: Tensor) -> None:
        grads = by_logits, by_value if returns is None else by_value * returns.scale
        for head, x, grad in zip(heads, read, grads, strict=True):
            add_gradient(head.weight, grad.T @ x)
            add_gradient(head.bias, grad.sum(0))
        if twin:
            add_gradients(
                torch.stack([g @ head.weight for g, head in zip(grads, heads, strict=True)])
            )
        else:
            add_gradients(torch.cat(grads, 1) @ weight)

    return logits, value, add_all
