"""AGAC's adversary: a second policy that imitates the first, which is rewarded for differing."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.agents.learner import Auxiliary, Batch, resolve_schedule
from firstlight.agents.policy import Policy, PolicyOutput
from firstlight.envs.action_spaces import MASK
from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Rollout, map_obs
from firstlight.intrinsic.embedding import CHUNK, MakeEncoder, make_encoder
from firstlight.intrinsic.mixer import Schedule
from firstlight.intrinsic.state import isolated_rng
from firstlight.networks.distributions import Distribution, distribution_for
from firstlight.networks.distributions.discrete import Categorical
from firstlight.networks.initialisation import orthogonal


class Adversary(Auxiliary):
    """Adversarially guided actor-critic (AGAC; Flet-Berliac et al. 2021).

    An adversary π' learns to act as the policy π does, by ``KL(π || π')`` on the rollout (eq. 7).
    The advantage of an action grows by ``c * (log π(a|s) - log π'(a|s))`` (eq. 5), so that the
    policy keeps doing what its adversary does not expect, and the target of the values of the
    environment's reward by ``c * KL(π || π')`` (eq. 6). The other half of AGAC is the bonus
    `firstlight.intrinsic.AGAC`.

    The divergence of categorical policies is exact, others' is estimated from the actions taken.
    The adversary has an encoder of its own and the learner's optimiser, whose learning rate it
    shares; with Adam's epsilon a small `adversary_coef` slows it down.

    Args:
        obs_space: of the policy.
        act_space: of the policy.
        coef: c, a number or a schedule over training progress; 4e-4, falling to 0, as published.
        adversary_coef: weight of the adversary's loss; 4e-5 as published.
        value_shift: False leaves the values' target as it is, which saves a forward pass.
        value_coef: of the learner; for `value_shift`.
        encoder: makes the adversary's encoder; default `networks.encoders.auto`.
        seed: of the initial weights.

    Raises:
        ValueError: for an action space without a distribution.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (3,))})
    >>> Adversary(space, spaces.Discrete(2)).adds_advantage
    True
    """

    adds_advantage = True

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        coef: float | Schedule = 4e-4,
        adversary_coef: float = 0.01,
        value_shift: bool = False,
        value_coef: float = 0.5,
        encoder: MakeEncoder | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.coef, self.adversary_coef = coef, adversary_coef
        self.value_shift, self.value_coef = value_shift, value_coef
        self.distribution = distribution_for(act_space, obs_space)
        with isolated_rng(derive(seed, "adversary")):
            self.encoder = make_encoder(obs_space, encoder)
            self.policy_head = orthogonal(
                nn.Linear(self.encoder.out_dim, self.distribution.num_outputs), 0.01
            )
        self.log_std = nn.Parameter(torch.zeros(self.distribution.num_log_std))
        self._scale = 0.0
        self._own: Tensor | None = None  # parameters of π of each row
        self._divergence: Tensor | None = None  # KL of each row

    def observe(self, rollout: Rollout, progress: float) -> None:
        """Set c; add the observations to the encoder's running statistics, if it has any."""
        self._scale = resolve_schedule(self.coef, progress)
        self._own = self._divergence = None
        past = map_obs(lambda field: field[:-1], rollout.obs)
        self.encoder.observe(past, rollout.valid)

    @torch.no_grad()
    def advantage(self, rollout: Rollout, out: PolicyOutput) -> Tensor | None:
        """Compute ``c * (log π(a|s) - log π'(a|s))`` [T, N]."""
        past = map_obs(lambda field: field[:-1].flatten(0, 1), rollout.obs)
        action = rollout.action.flatten(0, 1)
        cut = {name: field.split(CHUNK) for name, field in past.items()}
        parts = [dict(zip(cut, fields, strict=True)) for fields in zip(*cut.values(), strict=True)]
        expected = [
            self.adversary(part).log_prob(a)
            for part, a in zip(parts, action.split(CHUNK), strict=True)
        ]
        surprise = out.dist.log_prob(rollout.action) - torch.cat(expected).view_as(rollout.reward)
        surprise = torch.where(rollout.valid, surprise, 0.0)
        self._divergence = surprise.flatten()
        if isinstance(out.dist, Categorical):
            self._own = out.dist.params.flatten(0, 1)
            other = torch.cat([self.adversary(part).params for part in parts])
            self._divergence = categorical_divergence(self._own, other)
        self._divergence = torch.where(rollout.valid.flatten(), self._divergence, 0.0)
        return self._scale * surprise

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Compute the adversary's loss [] on a minibatch, and what shifts the values' target."""
        if self._divergence is None or batch.rows is None:
            return None
        valid = batch.valid
        rows = batch.rows[valid]  # [L, B] -> [R]
        adversary = self.adversary(map_obs(lambda field: field[valid], batch.obs))
        if self._own is None:
            imitation = -adversary.log_prob(batch.action[valid]).mean()
        else:
            imitation = categorical_divergence(self._own[rows], adversary.params).mean()
        loss = self.adversary_coef * imitation
        if self.value_shift and self._scale:
            shift = self._scale * self._divergence[rows]
            value = policy(batch.obs, batch.state, batch.is_first).value[valid][:, 0]
            scale = torch.as_tensor(policy.value_scale, device=value.device).flatten()[0]
            # (v - t - s)² / 2 and (v - t)² / 2 - s v have the same gradient
            loss = loss - self.value_coef * (shift * value / scale.square()).mean()
        return loss

    def metrics(self) -> dict[str, float]:
        """Return the mean divergence before this update, as ``adversary/kl``."""
        return {} if self._divergence is None else {"adversary/kl": self._divergence.mean().item()}

    def adversary(self, obs: Obs) -> Distribution:
        """Compute π' for observations [B, ...]."""
        outputs = self.policy_head(self.encoder(obs))
        return self.distribution.make(outputs, self.log_std, obs.get(MASK))


def categorical_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return ``KL(p || q)`` [...] in nats, of log-probabilities [..., A]."""
    return (p.exp() * (p - q)).sum(-1)
