"""The policy of encoder, core and heads."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.agents.fast_forms import fuse, vjp
from firstlight.agents.policy_interface import Features, Policy, PolicyOutput, PolicyVJP
from firstlight.envs.action_spaces import MASK
from firstlight.envs.runner import Actor
from firstlight.envs.types import Obs, Rollout, State, map_obs
from firstlight.networks.cores import Core, Feedforward
from firstlight.networks.distributions import distribution_for
from firstlight.networks.encoders.base import Encoder, TwinEncoder
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.normalisation import ReturnNormaliser
from firstlight.networks.spec import rebuildable

NormalizeValue = Literal["none", "popart", "scale"]
_CRITIC = "critic."  # prefix of the state fields of a core of the values' own


@rebuildable
class ActorCritic(Policy):
    """Encoder, core, a policy head and `K` value heads.

    Args:
        obs_space: of one environment. A field "action_mask" forbids discrete actions, see
            `ActionMask`.
        act_space: Discrete, MultiDiscrete, MultiBinary or Box, of any shape.
        encoder: turns fields [B, ...] into features [B, H], with an attribute `out_dim`; shared by
            policy and values. A `TwinEncoder` returns features for each, [2, B, H].
        critic_encoder: a separate encoder for the values; default shares `encoder`.
        core: the memory, made for features of the encoder's width, such as
            ``GRU(encoder.out_dim)``; default none.
        critic_core: the memory of the values, with a `critic_encoder` or a `TwinEncoder`. Given
            together with `core` there, and never with a shared encoder, whose core serves both.
        num_streams: `K`.
        normalize_value: "none", or let the value heads predict returns in units of their running
            scale, about their running mean ("popart", van Hasselt et al. 2016) or about 0
            ("scale"); `forward` gives values in units of the rewards. The heads then begin at 0.
        scale_actions: map the normal distribution of continuous actions to the bounds of
            `act_space`: outputs -1 and 1 become the lower and the upper bound, and the standard
            deviation is multiplied by half their distance. Only dimensions that `is_bounded`
            names; the others are used as they are.
        squash: squash the normal distribution of continuous actions by tanh, in the same
            dimensions, so that no action is out of bounds and clipped; without `scale_actions`
            into -1 to 1.
        state_dependent_std: compute the log standard deviations of continuous actions from the
            features, as the means, clamped to `LOG_STD_RANGE` before they are scaled; otherwise
            they are parameters, the same in every state.
        bfloat16: compute the encoders' products in bfloat16 (torch's autocast), which is faster on
            many GPUs. Features, memory, heads, parameters and gradients stay in float32.

    Raises:
        ValueError: for an action space without a distribution, a mask that does not fit it, a
            `critic_encoder` beside a `TwinEncoder`, a `critic_core` that is missing or has no
            encoder, or an unknown `normalize_value`.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: nn.Module,
        critic_encoder: nn.Module | None = None,
        core: Core | None = None,
        critic_core: Core | None = None,
        num_streams: int = 1,
        scale_actions: bool = True,
        normalize_value: NormalizeValue = "popart",
        squash: bool = False,
        state_dependent_std: bool = False,
        bfloat16: bool = False,
    ):
        super().__init__()
        self.obs_space, self.act_space, self.num_streams = obs_space, act_space, num_streams
        self.encoder_bfloat16 = bfloat16
        self.encoder, self.critic_encoder = encoder, critic_encoder
        if isinstance(encoder, TwinEncoder) and critic_encoder is not None:
            raise ValueError(
                f"{type(encoder).__name__} has features for the values already: "
                "leave critic_encoder out"
            )
        critic = encoder if isinstance(encoder, TwinEncoder) else critic_encoder
        if (critic is None and critic_core is not None) or (
            critic is not None and (core is None) != (critic_core is None)
        ):
            raise ValueError(
                "critic_core is given with a core and features of the values' own, and only then"
            )
        self.core: Core = core or Feedforward(encoder.out_dim)  # type: ignore[arg-type]
        self.critic_core: Core | None = None
        if critic is not None:
            self.critic_core = critic_core or Feedforward(critic.out_dim)  # type: ignore[arg-type]
        self.distribution = distribution_for(
            act_space,
            obs_space,
            scale_actions=scale_actions,
            squash=squash,
            state_dependent_std=state_dependent_std,
        )
        self.squash = squash and isinstance(act_space, spaces.Box)
        num_outputs, num_log_std = self.distribution.num_outputs, self.distribution.num_log_std
        self.log_std = nn.Parameter(torch.zeros(num_log_std)) if num_log_std else None
        value_core = self.core if self.critic_core is None else self.critic_core
        self.policy_head = orthogonal(nn.Linear(self.core.out_dim, num_outputs), 0.01)
        self.value_head = orthogonal(nn.Linear(value_core.out_dim, num_streams), 1.0)
        if normalize_value not in get_args(NormalizeValue):
            choices = ", ".join(get_args(NormalizeValue))
            raise ValueError(f"normalize_value is {normalize_value!r}, expected one of {choices}")
        self.returns: ReturnNormaliser | None = None
        if normalize_value != "none":
            self.returns = ReturnNormaliser(num_streams, centred=normalize_value == "popart")
            nn.init.zeros_(self.value_head.weight)  # 0 in the units of any reward

    def describe_fields(self) -> dict[str, str]:
        """Describe what the encoders do with each field; empty if one does not describe it."""
        encoders = [e for e in (self.encoder, self.critic_encoder) if e is not None]
        told = [e.describe_fields() if isinstance(e, Encoder) else {} for e in encoders]
        if not all(told):
            return {}
        values = {name: f"{what}, for values only" for name, what in told[-1].items()}
        forbids = MASK in self.obs_space.spaces and not isinstance(self.act_space, spaces.Box)
        return values | told[0] | ({MASK: "forbids actions"} if forbids else {})

    def prepare(self, obs: Obs) -> Obs:
        """Let the encoder prepare observations, unless the values have one of their own."""
        if self.critic_encoder is not None or not isinstance(self.encoder, Encoder):
            return obs
        prepared = self.encoder.prepare(obs)
        return {**prepared, MASK: obs[MASK]} if MASK in obs else prepared

    def observe(self, rollout: Rollout) -> None:
        """Add observations to the encoders' running statistics, see `Policy.observe`."""
        past = map_obs(lambda field: field[: rollout.num_steps], rollout.obs)
        for encoder in (self.encoder, self.critic_encoder):
            if isinstance(encoder, Encoder):
                encoder.observe(past, rollout.valid)

    @property
    def value_scale(self) -> Tensor | float:
        """Scale [K] of the returns, see `Policy.value_scale`; 1 where they are not normalised."""
        return 1.0 if self.returns is None else self.returns.scale

    @property
    def rewarded(self) -> Tensor | bool:
        """Whether there is a scale [K], see `Policy.rewarded`."""
        return True if self.returns is None else self.returns.rewarded

    @torch.no_grad()
    def observe_returns(self, reward: Tensor, target: Tensor) -> None:
        """Update mean and scale of returns, and rescale the value heads to predict the same.

        A head that is 0 still has learnt nothing: it is left at 0, so that it predicts the mean.
        """
        if self.returns is None:
            return
        mean, scale = self.returns.mean, self.returns.scale
        self.returns.update(reward, target)
        ratio = scale / self.returns.scale
        head = self.value_head
        bias = head.bias * ratio + (mean - self.returns.mean) / self.returns.scale
        learnt = (head.bias != 0) | (head.weight != 0).any(1)
        head.weight.mul_(ratio[:, None])
        head.bias.copy_(torch.where(learnt, bias, 0.0))

    @property
    def action_scale(self) -> Tensor | float:
        """Factors, see `Policy.action_scale`; 1 where actions are not scaled."""
        return self.distribution.scale

    def initial_state(self, num_envs: int) -> State:
        """Return the state of both cores before a first observation."""
        state = self.core.initial_state(num_envs)
        if self.critic_core is not None:
            state = state | _prefixed(self.critic_core.initial_state(num_envs))
        return state

    def forward(self, obs: Obs, state: State, is_first: Tensor) -> PolicyOutput:
        """Compute action distributions and values, see `Policy.forward`."""
        features = self.features(obs, state, is_first)
        outputs, value = self._heads(features)
        dist = self.distribution.make(outputs, self.log_std, obs.get(MASK))
        if self.returns is not None:
            value = torch.addcmul(self.returns.mean, value, self.returns.scale)
        return PolicyOutput(dist, value, features.state)

    def for_acting(self) -> Actor:
        """Return a faster form for acting if there is one; the policy itself for subclasses."""
        fused = fuse(self) if type(self) is ActorCritic else None
        return self if fused is None else fused

    def vjp(self, obs: Obs) -> PolicyVJP | None:
        """Compute logits, values and gradients by hand, see `Policy.vjp`; not for subclasses."""
        return vjp(self, _flat(obs)) if type(self) is ActorCritic else None

    def _heads(self, features: Features) -> tuple[Tensor, Tensor]:
        """Apply both heads; in one product if they read the same features."""
        policy, value = self.policy_head, self.value_head
        if features.policy is not features.value:
            return policy(features.policy), value(features.value)
        both = nn.functional.linear(features.policy, *self.joined_heads())
        outputs, values = both.split([policy.out_features, value.out_features], -1)
        return outputs, values

    def joined_heads(self) -> tuple[Tensor, Tensor]:
        """Return weights [A + K, H] and biases [A + K] of both heads."""
        policy, value = self.policy_head, self.value_head
        return torch.cat([policy.weight, value.weight]), torch.cat([policy.bias, value.bias])

    def features(self, obs: Obs, state: State, is_first: Tensor) -> Features:
        """Compute the inputs of the heads, see `Policy.features`."""
        lead, flat = is_first.shape, _flat(obs)
        encoded, critic = self._encode(self.encoder, flat), None
        if isinstance(self.encoder, TwinEncoder):
            encoded, critic = encoded.unbind(0)
        elif self.critic_encoder is not None:
            critic = self._encode(self.critic_encoder, flat)
        own, critic_state = _split(state)
        policy, after = self.core(encoded.unflatten(0, lead), own, is_first)
        if self.critic_core is None or critic is None:
            return Features(policy, policy, after)
        value, critic_after = self.critic_core(critic.unflatten(0, lead), critic_state, is_first)
        return Features(policy, value, after | _prefixed(critic_after))

    def policy_features(self, obs: Obs, state: State, is_first: Tensor) -> Tensor:
        """Compute [T, N, H] for the policy head, without a separate critic encoder."""
        encoded = self.encode(_flat(obs)).unflatten(0, is_first.shape)
        return self.core(encoded, _split(state)[0], is_first)[0]

    def encode(self, obs: Obs) -> Tensor:
        """Compute the policy encoder's features, see `Policy.encode`."""
        encoded = self._encode(self.encoder, obs)
        return encoded[0] if isinstance(self.encoder, TwinEncoder) else encoded

    def _encode(self, encoder: nn.Module, obs: Obs) -> Tensor:
        """Apply an encoder to fields [B, ...]; with `bfloat16` under autocast."""
        if not self.encoder_bfloat16:
            return encoder(obs)
        device = self.value_head.weight.device.type
        with torch.autocast(device, torch.bfloat16):
            return encoder(obs).float()


def _flat(obs: Obs) -> Obs:
    """Join the first two axes of every field: [T, N, ...] to [T*N, ...]."""
    return map_obs(lambda field: field.flatten(0, 1), obs)


def _prefixed(state: State) -> State:
    return {_CRITIC + name: field for name, field in state.items()}


def _split(state: State) -> tuple[State, State]:
    """Separate the state of the policy's core from that of the values' core."""
    own: State = {}
    critic: State = {}
    for name, field in state.items():
        part = critic if name.startswith(_CRITIC) else own
        part[name.removeprefix(_CRITIC)] = field
    return own, critic


__all__ = ["ActorCritic", "Features", "NormalizeValue", "Policy", "PolicyOutput"]
