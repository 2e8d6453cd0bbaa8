"""RAPID: imitate what was done in the best episodes so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.agents.algorithms.auxiliaries.episodes import OpenEpisodes
from firstlight.agents.algorithms.auxiliaries.ranking import RankingBuffer, ScoreWeights
from firstlight.agents.learner import Batch
from firstlight.agents.policy import Policy
from firstlight.envs.seeding import generator
from firstlight.envs.types import Rollout, map_obs
from firstlight.intrinsic.memory import StateKeys
from firstlight.intrinsic.mixer import Schedule


class Rapid:
    """Clones the actions of the best episodes (RAPID; Zha et al. 2021, "Rank the Episodes").

    Each finished episode is scored by its return and by how widely it explored, see
    `RankingBuffer`; the best ones' state-action pairs are kept; and the policy is moved towards
    them. No reward is touched. It suits levels that are made anew each episode, where hardly any
    state is seen twice and counting single states says little.

    As in the paper cloning takes gradient steps of its own, after those on the rollout: `num_steps`
    for each episode that ended, on `batch_size` pairs, with the learner's optimiser and learning
    rate. They are many beside PPO's few large minibatches, so a term in PPO's own loss could not
    stand for them. Differences: the authors clone within the rollout, as each episode ends, and
    clip no gradient there. Their code keeps one environment; here episodes of all are ranked
    together.

    For discrete actions the loss is ``-log pi(a|s)``, for continuous ones ``(mode - a)²``, as
    published: a likelihood would pull their deviation to 0.

    Published constants are the defaults. On KeyCorridor the paper's cloning fades out: say
    ``num_steps=Linear(5, 0, finish=...)``, the end at 1.2 M steps on S3R2 and 3 M on S3R3.

    Args:
        obs_space: what policies see.
        return_weight: w0, of an episode's return; 0 leaves this part out, here as in the others.
        local_weight: w1, of the share of distinct states in an episode.
        global_weight: w2, of the mean rarity of its states.
        size: state-action pairs that are kept.
        num_steps: gradient steps for each finished episode; a number, or a schedule over training
            progress.
        batch_size: pairs of a gradient step.
        info_space: side channels; needed for `keys` that name one that is a float.
        keys: names of the fields that make a state; default all that policies see.
        bits: length of a SimHash code of the float fields, see `StateKeys`.
        bins: cuts of each bounded float dimension, without `bits`.
        seed: of the choice of pairs, and of the hashes.

    Raises:
        ValueError: for a `size` or a `batch_size` below 1, and as `StateKeys` does.

    >>> space = spaces.Dict({"obs": spaces.Discrete(5)})
    >>> len(Rapid(space).ranking)
    0
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        return_weight: float = 1.0,
        local_weight: float = 0.1,
        global_weight: float = 0.001,
        size: int = 10_000,
        num_steps: float | Schedule = 5,
        batch_size: int = 256,
        info_space: spaces.Dict | None = None,
        keys: Sequence[str] | None = None,
        bits: int | None = None,
        bins: int = 20,
        seed: int = 0,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.num_steps, self.batch_size = num_steps, batch_size
        self.state_keys = StateKeys(
            obs_space, info_space=info_space, keys=keys, bits=bits, bins=bins, seed=seed
        )
        self.open = OpenEpisodes()
        self.ranking = RankingBuffer(size, ScoreWeights(return_weight, local_weight, global_weight))
        self.generator = generator(seed, "rapid")
        self._due = 0.0  # gradient steps
        self._losses: list[Tensor] = []
        self._device = torch.device("cpu")

    @torch.no_grad()
    def observe(self, rollout: Rollout, progress: float) -> None:
        """Rank the episodes that ended in a rollout."""
        self._device, self._losses = rollout.device, []
        keys, _ = self.state_keys(rollout)
        steps = self.num_steps(progress) if callable(self.num_steps) else self.num_steps
        for episode in self.open.add(rollout, keys):
            self.ranking.insert(episode)
            self._due += steps

    def batches(self) -> Iterator[Batch]:
        """Pairs to clone, as many times as steps are due."""
        while self._due >= 1 and len(self.ranking):
            self._due -= 1
            obs, action = self.ranking.sample(self.batch_size, self.generator)
            yield _batch(map_obs(lambda f: f.to(self._device), obs), action.to(self._device))

    def loss(self, policy: Policy, batch: Batch) -> Tensor:
        """Mean cloning loss [] of a batch."""
        dist = policy(batch.obs, batch.state, batch.is_first).dist
        if batch.action.is_floating_point():
            loss = (dist.mode() - batch.action).square().mean()
        else:
            loss = -dist.log_prob(batch.action).mean()
        self._losses.append(loss.detach())
        return loss

    def metrics(self) -> dict[str, float]:
        """The update at hand and what is kept, as ``rapid/...``."""
        ranking = self.ranking
        scalars = {
            "episodes": float(ranking.episodes),
            "kept_episodes": float(len(ranking.kept)),
            "kept_pairs": float(len(ranking)),
        }
        if len(ranking):
            scalars |= {"best": float(ranking.score[0]), "worst": float(ranking.score[-1])}
        if self._losses:
            scalars["loss"] = torch.stack(self._losses).mean().item()
        return {f"rapid/{name}": value for name, value in scalars.items()}

    def state_dict(self) -> dict[str, Any]:
        """Kept and running episodes, counts, and random numbers."""
        return {
            "ranking": self.ranking.state_dict(),
            "open": self.open.state_dict(),
            "generator": self.generator.get_state(),
            "due": self._due,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state back."""
        self.ranking.load_state_dict(state["ranking"])
        self.open.load_state_dict(state["open"])
        self.generator.set_state(state["generator"])
        self._due = state["due"]


def _batch(obs: dict[str, Tensor], action: Tensor) -> Batch:
    """Pairs [B, ...] as rows [1, B]; what cloning has no use for is zero, with no streams."""
    zeros = torch.zeros((1, len(action)), device=action.device)
    return Batch(
        obs=map_obs(lambda field: field[None], obs),
        state={},
        is_first=torch.ones_like(zeros, dtype=torch.bool),
        action=action[None],
        log_prob=zeros,
        value=zeros[..., None][..., :0],
        advantage=zeros,
        target=zeros[..., None][..., :0],
        valid=torch.ones_like(zeros, dtype=torch.bool),
    )
