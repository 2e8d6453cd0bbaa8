"""Lucy-SKG's auxiliary heads: reward prediction and observation reconstruction."""

from __future__ import annotations

import itertools
from typing import cast

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.agents.learner import Auxiliary, Batch
from firstlight.agents.policy import Policy
from firstlight.envs.seeding import derive
from firstlight.envs.types import Rollout, map_obs, take
from firstlight.intrinsic.state import isolated_rng
from firstlight.networks.encoders import Flat
from firstlight.networks.normalisation import RunningMoments

_WIDTHS = (128, 32, 16, 32, 128, 512, 512)  # with the bottleneck of 16
_CLIP = 5.0  # of a normalised observation


class RewardPrediction(Auxiliary):
    """Predicts the sign of a step's reward from the observations before it (Lucy-SKG).

    Moschopoulos et al. 2023 (arXiv 2305.15801), constants from their code: the features of up to
    `length` observations of an episode, ending with the one that the action answers, go through an
    LSTM of 32 units to three logits, {above 0, below 0, about 0}; the loss is the cross-entropy
    with the environment's reward of that step. On-policy rows only, weight 1.

    Two differences. With sparse rewards nearly every row is of the third class, so classes are
    balanced: rows count as if all classes seen in a rollout were equally frequent in it. And the
    authors join sets of objects by attention with four heads; here a policy's encoder gives one
    vector, on which attention is a linear map, so a linear map precedes the LSTM, with their
    residual connection and layer norm.

    Args:
        in_dim: features of the policy's encoder.
        coef: weight of the loss; 0 disables it.
        length: observations in a sequence; those before the start of an episode are zeros.
        hidden: units of the LSTM.
        zero_band: rewards with an absolute value up to this count as about 0.
        balanced: False weights all rows alike, as published.
        seed: of the initial weights.

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
        self._steps: _Steps | None = None
        self._means = _RowMeans()

    @torch.no_grad()
    def observe(self, rollout: Rollout, progress: float) -> None:
        """Store observations and reward classes of a rollout, and where episodes begin."""
        self._means = _RowMeans()
        self._steps = None if self.coef == 0 else _Steps(rollout, self.zero_band, self.balanced)

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Compute the mean loss [] of a minibatch of the rollout that was observed last."""
        if self._steps is None:
            return None
        steps = self._steps
        assert batch.rows is not None, "the minibatch does not state its rows in the rollout"
        rows = batch.rows[batch.valid]  # [L, B] -> [R]
        logits = self._logits(policy, steps, rows)
        label = steps.label[rows]
        weight = steps.weight[label]
        loss = (F.cross_entropy(logits, label, reduction="none") * weight).mean()
        right = ((logits.argmax(-1) == label) * weight).mean()
        self._means.add(len(rows), loss=loss, accuracy=right)
        return self.coef * loss

    def metrics(self) -> dict[str, float]:
        """Return loss and accuracy of this update, as ``reward_prediction/...``."""
        return self._means.metrics("reward_prediction")

    def _logits(self, policy: Policy, steps: _Steps, rows: Tensor) -> Tensor:
        """Compute logits [B, 3] for rows [B] int64; each distinct observation is encoded once.

        Features are those before a memory of the policy: the LSTM here is the memory.
        """
        back = torch.arange(self.length - 1, -1, -1, device=rows.device)[:, None]
        present = back <= steps.reach[rows]  # [S, B]
        needed = (rows - back * steps.num_envs)[present]
        distinct, inverse = needed.unique(return_inverse=True)
        features = self.mix(policy.encode(take(steps.obs, distinct)))  # [U, H]
        sequence = features.new_zeros((*present.shape, features.shape[1]))  # [S, B, H]
        sequence[present] = features[inverse]
        _, (last, _) = self.lstm(sequence)
        return self.head(last[0])


class StateReconstruction(Auxiliary):
    """Reconstructs the observation from the policy's features, through a bottleneck (Lucy-SKG).

    Moschopoulos et al. 2023 (arXiv 2305.15801), constants from their code: 128-32-16 and back over
    32-128-512-512, Smooth-L1 to the observation, on-policy rows only, weight 1.

    Differences: layer norm in place of batch norm, so that a row's loss does not depend on the
    other rows (a minibatch that does not fit into memory goes through in parts); no ReLU after the
    last layer, which would allow no negative observation; and, as for `RewardPrediction`, a linear
    map in place of attention. Observations are normalised by running moments by default, because
    their code relies on numbers of about one.

    Args:
        obs_space: what policies see; its fields are flattened, Discrete ones are one-hot.
        in_dim: features of the policy's encoder.
        coef: weight of the loss; 0 disables it.
        normalize: False reconstructs the raw observations.
        seed: of the initial weights.

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
        self._means = _RowMeans()

    @torch.no_grad()
    def observe(self, rollout: Rollout, progress: float) -> None:
        """Update the running moments with the observations of a rollout."""
        self._means = _RowMeans()
        if self.moments is not None and self.coef:
            T, valid = rollout.num_steps, rollout.valid
            self.moments.update(self.flat(map_obs(lambda field: field[:T][valid], rollout.obs)))

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Compute the mean loss [] of a minibatch."""
        if self.coef == 0:
            return None
        obs = map_obs(lambda field: field[batch.valid], batch.obs)  # [L, B, ...] -> [R, ...]
        target = self.flat(obs)
        if self.moments is not None:
            target = self.moments.normalize(target, _CLIP)
        loss = F.smooth_l1_loss(self.layers(self.mix(policy.encode(obs))), target)
        self._means.add(len(target), loss=loss)
        return self.coef * loss

    def metrics(self) -> dict[str, float]:
        """Return the loss of this update, as ``state_reconstruction/...``."""
        return self._means.metrics("state_reconstruction")


class _Mix(nn.Module):
    """Residual linear map with layer norm: an attention block that has one object to attend to."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim] to [B, dim]."""
        return self.norm(x + self.linear(x))


class _Steps:
    """The steps of a rollout as rows ``t * N + n``, with the class of each reward.

    Attributes:
        obs: [T*N, ...].
        label: [T*N] int64: 0 above zero, 1 below zero, 2 about zero.
        weight: [3] of a row of each class; their mean over the valid rows is 1.
        reach: [T*N] int64, number of earlier rows of the same episode.
    """

    def __init__(self, rollout: Rollout, zero_band: float, balanced: bool):
        T, self.num_envs = rollout.num_steps, rollout.num_envs
        self.obs = map_obs(lambda field: field[:T].flatten(0, 1), rollout.obs)
        above, below = rollout.reward > zero_band, rollout.reward < -zero_band
        label = torch.where(above, 0, torch.where(below, 1, 2))
        count = torch.bincount(label[rollout.valid], minlength=3).float()
        self.weight = torch.ones_like(count)
        if balanced:
            self.weight = count.sum() / (count.clamp(min=1) * (count > 0).sum().clamp(min=1))
        t = torch.arange(T, device=rollout.device)[:, None].expand(T, self.num_envs)
        opened = torch.where(rollout.is_first[:T], t, 0).cummax(0).values
        self.label, self.reach = label.flatten(), (t - opened).flatten()


class _RowMeans:
    """Means over all rows of an update, accumulated from means over parts."""

    def __init__(self) -> None:
        self.rows, self.sums = 0, cast("dict[str, Tensor]", {})

    def add(self, rows: int, **means: Tensor) -> None:
        self.rows += rows
        for name, mean in means.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(mean)) + mean.detach() * rows

    def metrics(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/{name}": (x / self.rows).item() for name, x in self.sums.items()}
