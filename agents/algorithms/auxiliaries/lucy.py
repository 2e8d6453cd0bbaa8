"""Lucy-SKG's two heads: what the features of a policy must be good for beside acting."""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.agents.learner import Batch
from firstlight.agents.policy import Policy
from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Rollout, map_obs, take
from firstlight.intrinsic.norm import RunningMoments
from firstlight.intrinsic.state import isolated_rng
from firstlight.networks.encoders import Flat

_WIDTHS = (128, 32, 16, 32, 128, 512, 512)  # down to the bottleneck of 16, and up again
_CLIP = 5.0  # of a normalised observation


class RewardPrediction(nn.Module):
    """Tells from the last steps whether a step pays, costs or does nothing (Lucy-SKG).

    Moschopoulos et al. 2023 (arXiv 2305.15801), constants from their code: the features of up to
    `length` observations of an episode, the last of them the one that is acted on, go through an
    LSTM of 32 units to three logits, {above 0, below 0, about 0}; the loss is the cross-entropy
    with the environment's reward of that step. On-policy rows only, weight 1.

    Two differences. With sparse rewards nearly every row is of the third class, so classes are
    balanced: rows count as if all classes seen in a rollout were equally frequent in it. And the
    authors join sets of objects by attention with four heads; here a policy's encoder gives one
    vector, on which attention is a linear map, so that is what there is before the LSTM, with their
    residual connection and layer norm.

    Args:
        in_dim: features of the policy's encoder.
        coef: weight of the loss; 0 leaves it out.
        length: observations in a sequence; missing ones before an episode's start are zeros.
        hidden: units of the LSTM.
        zero_band: rewards from minus to plus this are about 0.
        balanced: False weights all rows alike, as published.
        seed: of the weights.

    >>> sum(p.numel() for p in RewardPrediction(8, hidden=4).parameters())
    327
    """

    def __init__(
        self,
        in_dim: int,
        *,
        coef: float = 1.0,
        length: int = 20,
        hidden: int = 32,
        zero_band: float = 0.005,
        balanced: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        if length < 1:
            raise ValueError(f"length is {length}, expected at least 1")
        self.coef, self.length, self.zero_band = coef, length, zero_band
        self.balanced = balanced
        with isolated_rng(derive(seed, "reward_prediction")):
            self.mix = _Mix(in_dim)
            self.lstm = nn.LSTM(in_dim, hidden)
            self.head = nn.Linear(hidden, 3)
        self._seen: _Seen | None = None
        self._log = _Log()

    @torch.no_grad()
    def observe(self, rollout: Rollout, progress: float) -> None:
        """Note the rewards of a rollout, how frequent each class is, and where episodes begin."""
        self._log = _Log()
        self._seen = None if self.coef == 0 else _Seen(rollout, self.zero_band, self.balanced)

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Mean loss [] of a minibatch of the rollout that was observed last."""
        if self._seen is None:
            return None
        seen = self._seen
        assert batch.rows is not None, "a learner's minibatches must say which rows they are"
        rows = batch.rows.flatten()  # [L, B] -> [L*B]
        logits = self._logits(policy, seen, rows)
        label = seen.label[rows]
        weight = seen.weight[label]
        loss = (F.cross_entropy(logits, label, reduction="none") * weight).mean()
        right = ((logits.argmax(-1) == label) * weight).mean()
        self._log.add(len(rows), loss=loss, accuracy=right)
        return self.coef * loss

    def metrics(self) -> dict[str, float]:
        """Of the update at hand, weighted like the loss, as ``reward_prediction/...``."""
        return self._log.means("reward_prediction")

    def _logits(self, policy: Policy, seen: _Seen, rows: Tensor) -> Tensor:
        """[B, 3] for rows [B] int64. Each observation is encoded once, however often it is used."""
        back = torch.arange(self.length - 1, -1, -1, device=rows.device)[:, None]
        there = back <= seen.reach[rows]  # [S, B]
        wanted = (rows - back * seen.num_envs)[there]
        distinct, inverse = wanted.unique(return_inverse=True)
        features = self.mix(_features(policy, take(seen.obs, distinct)))  # [U, H]
        sequence = features.new_zeros((*there.shape, features.shape[1]))  # [S, B, H]
        sequence[there] = features[inverse]
        _, (last, _) = self.lstm(sequence)
        return self.head(last[0])


class StateReconstruction(nn.Module):
    """Rebuilds the observation from the policy's features, through a bottleneck (Lucy-SKG).

    Moschopoulos et al. 2023 (arXiv 2305.15801), constants from their code: 128-32-16 and back over
    32-128-512-512, Smooth-L1 to the observation, on-policy rows only, weight 1.

    Differences: layer norm in place of batch norm, so that a row's loss does not depend on the
    other rows (a minibatch that does not fit into memory goes through in parts); no ReLU after the
    last layer, which would allow no negative observation; and, as for `RewardPrediction`, a linear
    map in place of attention. Observations are normalised by running moments unless told otherwise:
    their code relies on numbers of about one.

    Args:
        obs_space: what policies see; its fields are flattened, Discrete ones are one-hot.
        in_dim: features of the policy's encoder.
        coef: weight of the loss; 0 leaves it out.
        normalize: False takes the observations' numbers as they are.
        seed: of the weights.

    Raises:
        ValueError: for a field that cannot be flattened.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (7,))})
    >>> StateReconstruction(space, 8).layers[-1].out_features
    7
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        in_dim: int,
        *,
        coef: float = 1.0,
        normalize: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        self.coef, self.normalize = coef, normalize
        self.flat = Flat(obs_space)
        layers: list[nn.Module] = []
        with isolated_rng(derive(seed, "state_reconstruction")):
            self.mix = _Mix(in_dim)
            for i, o in itertools.pairwise((in_dim, *_WIDTHS)):
                layers += [nn.Linear(i, o), nn.LayerNorm(o), nn.ReLU()]
            layers.append(nn.Linear(_WIDTHS[-1], self.flat.out_dim))
        self.layers = nn.Sequential(*layers)
        self.moments = RunningMoments((self.flat.out_dim,)) if normalize else None
        self._log = _Log()

    @torch.no_grad()
    def observe(self, rollout: Rollout, progress: float) -> None:
        """Count the observations of a rollout."""
        self._log = _Log()
        if self.moments is not None and self.coef:
            T, valid = rollout.num_steps, rollout.valid
            self.moments.update(self.flat(map_obs(lambda field: field[:T][valid], rollout.obs)))

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Mean loss [] of a minibatch."""
        if self.coef == 0:
            return None
        obs = map_obs(lambda field: field.flatten(0, 1), batch.obs)  # [L, B, ...] -> [L*B, ...]
        target = self.flat(obs)
        if self.moments is not None:
            target = self.moments.normalize(target, _CLIP)
        loss = F.smooth_l1_loss(self.layers(self.mix(_features(policy, obs))), target)
        self._log.add(len(target), loss=loss)
        return self.coef * loss

    def metrics(self) -> dict[str, float]:
        """Of the update at hand, as ``state_reconstruction/...``."""
        return self._log.means("state_reconstruction")


class _Mix(nn.Module):
    """What a residual attention block with layer norm is where there is one thing to attend to."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim] to [B, dim]."""
        return self.norm(x + self.linear(x))


class _Seen:
    """A rollout as rows ``t * N + n``: observations, classes of rewards, and pasts.

    Attributes:
        obs: [T*N, ...].
        label: [T*N] int64: 0 pays, 1 costs, 2 does nothing.
        weight: [3] of a row of each class; their mean over the valid rows is 1.
        reach: [T*N] int64, how many rows of the same episode come before each.
    """

    def __init__(self, rollout: Rollout, zero_band: float, balanced: bool):
        T, self.num_envs = rollout.num_steps, rollout.num_envs
        self.obs = map_obs(lambda field: field[:T].flatten(0, 1), rollout.obs)
        pays, costs = rollout.reward > zero_band, rollout.reward < -zero_band
        label = torch.where(pays, 0, torch.where(costs, 1, 2))
        count = torch.bincount(label[rollout.valid], minlength=3).float()
        self.weight = torch.ones_like(count)
        if balanced:
            self.weight = count.sum() / (count.clamp(min=1) * (count > 0).sum().clamp(min=1))
        t = torch.arange(T, device=rollout.device)[:, None].expand(T, self.num_envs)
        opened = torch.where(rollout.is_first[:T], t, 0).cummax(0).values
        self.label, self.reach = label.flatten(), (t - opened).flatten()


class _Log:
    """Means over the rows of an update, however they were cut."""

    def __init__(self) -> None:
        self.rows, self.sums = 0, cast("dict[str, Tensor]", {})

    def add(self, rows: int, **means: Tensor) -> None:
        self.rows += rows
        for name, mean in means.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(mean)) + mean.detach() * rows

    def means(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/{name}": (x / self.rows).item() for name, x in self.sums.items()}


def _features(policy: Policy, obs: Obs) -> Tensor:
    """Fields [B, ...] to what the policy's encoder makes of them [B, in_dim]."""
    encoder = cast(Any, policy).encoder
    features = encoder(obs)
    return features[0] if getattr(encoder, "twin", False) else features
