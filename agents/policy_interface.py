"""Interface of policies: what runners and learners call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.runner import Actor
from firstlight.envs.types import Obs, Rollout, State, map_obs
from firstlight.networks.distributions import Distribution


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """Action distributions and values for observations [T, N].

    Args:
        dist: over [T, N].
        value: [T, N, K].
        state: [N, ...] after the last step.
    """

    dist: Distribution
    value: Tensor
    state: State


class Features(NamedTuple):
    """Inputs of a policy's heads.

    Args:
        policy: [T, N, H] for the policy head.
        value: [T, N, H'] for the value heads; the same tensor where both share one.
        state: [N, ...] after the last step.
    """

    policy: Tensor
    value: Tensor
    state: State


PolicyVJP = tuple[Tensor, Tensor, Callable[[Tensor, Tensor], None]]
"""Logits, values, and a function of their gradients, see `Policy.vjp`."""


class Policy(nn.Module, ABC):
    """Base class of trainable policies, such as `ActorCritic`.

    Attributes:
        obs_space: of one environment.
        act_space: of one environment.
        num_streams: `K`, the number of value heads.
        squash: whether continuous actions are squashed by tanh.
    """

    obs_space: spaces.Dict
    act_space: spaces.Space
    num_streams: int = 1
    squash: bool = False

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each observation field that is used; empty if not known."""
        return {}

    def for_acting(self) -> Actor:
        """Return what acts as this policy does until its parameters change.

        Use it without gradients. By default it is the policy; it may be a faster form.
        """
        return self

    def vjp(self, obs: Obs) -> PolicyVJP | None:
        """Compute logits and values without autograd, with a function that adds the gradients.

        Only for categorical actions, without a memory. Hooks are not called.

        Args:
            obs: fields [1, R, ...], as `prepare` returned them.

        Returns:
            Logits [R, A], values [R, K], and a function of the gradients of both, which adds to
            `grad` of all parameters. Call it once, before parameters change. None, by default, for
            what autograd must do.
        """
        return None

    def prepare(self, obs: Obs) -> Obs:
        """Compute once what `forward` would compute each time, see `Encoder.prepare`.

        Args:
            obs: fields [T, N, ...].

        Returns:
            Fields [T, N, ...] that `forward` takes in place of `obs`; by default `obs` itself.
        """
        return obs

    def observe(self, rollout: Rollout) -> None:
        """Add the observations of a rollout to running statistics; by default there are none.

        A trainer calls it after the rollout has been learnt from, and with those of a random agent
        before training. So acting and learning in an iteration use the same statistics.

        Args:
            rollout: its rows that are not `valid` are not counted.
        """

    @property
    def value_scale(self) -> Tensor | float:
        """Scale [K] of the returns of each stream, by which losses divide values."""
        return 1.0

    @property
    def rewarded(self) -> Tensor | bool:
        """Whether `value_scale` [K] has been estimated, for each stream."""
        return True

    def observe_returns(self, reward: Tensor, target: Tensor) -> None:
        """Add a rollout to running statistics of returns; by default there are none.

        A learner calls it before the gradient steps on these targets. What the values predict does
        not change by it, except that values which have learnt nothing may become a mean.

        Args:
            reward: [R, K] of the valid rows.
            target: [R, K] of the values.
        """

    @property
    def action_scale(self) -> Tensor | float:
        """Factors of an action's shape by which it is larger than the head's outputs."""
        return 1.0

    def initial_state(self, num_envs: int) -> State:
        """Return the state before a first observation, each [N, ...]; empty without a memory."""
        return {}

    @abstractmethod
    def forward(self, obs: Obs, state: State, is_first: Tensor) -> PolicyOutput:
        """Compute action distributions and values.

        Args:
            obs: [T, N, ...].
            state: [N, ...] before the first step.
            is_first: [T, N] bool, whether an observation begins an episode.
        """

    def features(self, obs: Obs, state: State, is_first: Tensor) -> Features:
        """Compute the inputs of the heads, for auxiliaries. Arguments as for `forward`.

        Raises:
            NotImplementedError: for a policy that does not offer its features.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not implement features(obs, state, is_first), "
            "which an auxiliary reads"
        )

    def policy_features(self, obs: Obs, state: State, is_first: Tensor) -> Tensor:
        """Compute only `features(...).policy`, [T, N, H]; cheaper with a `critic_encoder`."""
        return self.features(obs, state, is_first).policy

    def encode(self, obs: Obs) -> Tensor:
        """Compute features [B, H] of single observations [B, ...], before any memory.

        Raises:
            NotImplementedError: for a policy with a memory that does not implement it.
        """
        count = len(next(iter(obs.values())))
        state = self.initial_state(count)
        if state:
            raise NotImplementedError(
                f"{type(self).__name__} has a memory and does not implement encode(obs), "
                "which an auxiliary reads"
            )
        single = map_obs(lambda field: field[None], obs)
        is_first = torch.ones((1, count), dtype=torch.bool, device=next(iter(obs.values())).device)
        return self.policy_features(single, state, is_first)[0]
