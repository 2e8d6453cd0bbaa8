"""What acts: one forward pass for acting and for learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.types import Obs, State, map_obs
from firstlight.networks.cores import Feedforward
from firstlight.networks.distributions import Categorical, DiagGaussian, Distribution
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """What a policy says of observations [T, N].

    Args:
        dist: over [T, N].
        value: [T, N, K].
        state: [N, ...] after the last step.
    """

    dist: Distribution
    value: Tensor
    state: State


class Policy(Protocol):
    """Anything that acts and can be learnt; `ActorCritic` is ours."""

    obs_space: spaces.Dict
    act_space: spaces.Space

    def initial_state(self, num_envs: int) -> State:
        """State before a first observation, each [N, ...]."""
        ...

    def __call__(self, obs: Obs, state: State, is_first: Tensor) -> PolicyOutput:
        """Obs [T, N, ...], state [N, ...], is_first [T, N] bool to an output over [T, N]."""
        ...


@rebuildable
class ActorCritic(nn.Module):
    """Encoder, core, a policy head and `K` value heads.

    Args:
        obs_space: of one environment. A field "action_mask" (bool [A]) forbids actions.
        act_space: Discrete or Box.
        encoder: dict of [B, ...] to [B, H], with attribute `out_dim`; shared by policy and values.
            One with an attribute `twin` that is true gives [2, B, H]: the values' own come second.
        critic_encoder: an encoder of the values' own; default shares `encoder`.
        num_streams: `K`.

    Raises:
        ValueError: for an action space without a distribution, or a `critic_encoder` beside a twin.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: nn.Module,
        critic_encoder: nn.Module | None = None,
        num_streams: int = 1,
    ):
        super().__init__()
        self.obs_space, self.act_space, self.num_streams = obs_space, act_space, num_streams
        self.encoder, self.critic_encoder = encoder, critic_encoder
        self.twin = bool(getattr(encoder, "twin", False))
        if self.twin and critic_encoder is not None:
            raise ValueError(f"{type(encoder).__name__} has features for the values already")
        self.core = Feedforward(encoder.out_dim)  # type: ignore[arg-type]
        critic_dim = critic_encoder.out_dim if critic_encoder is not None else self.core.out_dim
        if isinstance(act_space, spaces.Discrete):
            self.log_std = None
            num_outputs = int(act_space.n)
        elif isinstance(act_space, spaces.Box) and len(act_space.shape) == 1:
            num_outputs = act_space.shape[0]
            self.log_std = nn.Parameter(torch.zeros(num_outputs))
        else:
            raise ValueError(
                f"no action distribution for {act_space}; Discrete and 1-D Box have one"
            )
        self.policy_head = orthogonal(nn.Linear(self.core.out_dim, num_outputs), 0.01)
        self.value_head = orthogonal(nn.Linear(critic_dim, num_streams), 1.0)  # type: ignore[arg-type]

    def initial_state(self, num_envs: int) -> State:
        """State before a first observation."""
        return self.core.initial_state(num_envs)

    def forward(self, obs: Obs, state: State, is_first: Tensor) -> PolicyOutput:
        """Obs [T, N, ...], state [N, ...], is_first [T, N] to an output over [T, N]."""
        lead = is_first.shape
        flat = map_obs(lambda field: field.flatten(0, 1), obs)  # [T, N, ...] -> [T*N, ...]
        features, critic = self.encoder(flat), None
        if self.twin:
            features, critic = features.unbind(0)
        elif self.critic_encoder is not None:
            critic = self.critic_encoder(flat)
        features, state = self.core(features.unflatten(0, lead), state, is_first)
        critic = features if critic is None else critic.unflatten(0, lead)
        return PolicyOutput(
            self._dist(self.policy_head(features), obs), self.value_head(critic), state
        )

    def _dist(self, params: Tensor, obs: Obs) -> Distribution:
        if self.log_std is not None:
            return DiagGaussian(params, self.log_std)
        mask = obs.get("action_mask")
        if mask is not None:
            params = params.masked_fill(~mask.bool(), torch.finfo(params.dtype).min)
        return Categorical(params)
