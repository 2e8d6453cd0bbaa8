"""RAPID: imitate the best episodes so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.agents.algorithms.auxiliaries.episodes import EpisodeAssembler
from firstlight.agents.algorithms.auxiliaries.ranking import RankingBuffer, ScoreWeights
from firstlight.agents.learner import Auxiliary, Batch, resolve_schedule
from firstlight.agents.policy import Policy
from firstlight.envs.seeding import generator
from firstlight.envs.types import Rollout, map_obs
from firstlight.intrinsic.memory import StateKeys
from firstlight.intrinsic.mixer import Schedule


class Rapid(Auxiliary):
    """Clones the actions of the best episodes (RAPID; Zha et al. 2021, "Rank the Episodes").

    Each finished episode is scored by its return and by how widely it explored, see
    `RankingBuffer`; the state-action pairs of the best ones are stored; and the policy is trained
    to imitate them. Rewards are not changed. It suits procedurally generated levels, where hardly
    any state is seen twice and counts of single states carry little information.

    As in the paper cloning takes gradient steps of its own, after those on the rollout: `num_steps`
    for each episode that ended, on `batch_size` pairs, with the learner's optimiser and learning
    rate. They outnumber PPO's few large minibatches, so a term in PPO's loss could not replace
    them. Differences: the authors clone within the rollout, as each episode ends, and clip no
    gradient there. Their code runs one environment; here episodes of all are ranked together.

    For discrete actions the loss is ``-log pi(a|s)``, for continuous ones ``(mode - a)²``, as
    published: a likelihood would drive the standard deviation to 0. Both are divided by the
    policy's `action_scale`, so that the loss does not depend on the bounds of the action space.

    Published constants are the defaults. On KeyCorridor the paper anneals cloning to 0:
    ``num_steps=Linear(5, 0, finish=...)``, ending at 1.2 M steps on S3R2 and 3 M on S3R3.

    Args:
        obs_space: of the policy.
        return_weight: w0, of an episode's return; 0 disables this term, as for the other two.
        local_weight: w1, of the share of distinct states in an episode.
        global_weight: w2, of the mean rarity of its states.
        size: capacity of the buffer in state-action pairs.
        num_steps: gradient steps for each finished episode; a number, or a schedule over training
            progress.
        batch_size: pairs of a gradient step.
        info_space: info channels; needed for `keys` that name a float channel.
        keys: names of the fields that identify a state; default all fields of `obs_space`.
        bits: length of a SimHash code of the float fields, see `StateKeys`.
        bins: bins of each bounded float dimension, without `bits`.
        seed: of sampled pairs, and of the hashes.

    Raises:
        ValueError: for a `size` or a `batch_size` below 1, and as `StateKeys` does.

    >>> space = spaces.Dict({"obs": spaces.Discrete(5)})
    >>> len(Rapid(space).ranking)
    0
    """

    brings_batches = True

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
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.num_steps, self.batch_size = num_steps, batch_size
        self.state_keys = StateKeys(
            obs_space, info_space=info_space, keys=keys, bits=bits, bins=bins, seed=seed
        )
        self.assembler = EpisodeAssembler()
        self.ranking = RankingBuffer(size, ScoreWeights(return_weight, local_weight, global_weight))
        self.generator = generator(seed, "rapid")
        self._due = 0.0  # gradient steps
        self._losses: list[Tensor] = []
        self._device = torch.device("cpu")

    def check_policy(self, policy: Policy) -> None:
        """Raise ValueError for a policy with a memory: stored pairs have no state before them."""
        if policy.initial_state(1):
            raise ValueError(
                "Rapid clones single steps, which a policy with a memory cannot do: set core=none"
            )

    @torch.no_grad()
    def observe(self, rollout: Rollout, progress: float) -> None:
        """Insert the episodes that ended in a rollout into the ranking."""
        self._device, self._losses = rollout.device, []
        keys, _ = self.state_keys(rollout)
        steps = resolve_schedule(self.num_steps, progress)
        for episode in self.assembler.add(rollout, keys):
            self.ranking.insert(episode)
            self._due += steps

    def batches(self) -> Iterator[Batch]:
        """Yield one minibatch of stored pairs for each gradient step that is due."""
        while self._due >= 1 and len(self.ranking):
            self._due -= 1
            obs, action = self.ranking.sample(self.batch_size, self.generator)
            yield _batch(map_obs(lambda f: f.to(self._device), obs), action.to(self._device))

    def loss(self, policy: Policy, batch: Batch) -> Tensor:
        """Compute the mean cloning loss [] of a minibatch."""
        dist = policy(batch.obs, batch.state, batch.is_first).dist
        if batch.action.is_floating_point():
            loss = ((dist.mode() - batch.action) / policy.action_scale).square().mean()
        else:
            loss = -dist.log_prob(batch.action).mean()
        self._losses.append(loss.detach())
        return loss

    def metrics(self) -> dict[str, float]:
        """Return the loss of this update and the state of the buffer, as ``rapid/...``."""
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

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """Return stored and unfinished episodes, visit counts, and the generator's state."""
        return {
            "ranking": self.ranking.state_dict(),
            "open": self.assembler.state_dict(),
            "generator": self.generator.get_state(),
            "due": self._due,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # type: ignore[override]
        """Restore a state that `state_dict` returned."""
        self.ranking.load_state_dict(state["ranking"])
        self.assembler.load_state_dict(state["open"])
        self.generator.set_state(state["generator"])
        self._due = state["due"]


def _batch(obs: dict[str, Tensor], action: Tensor) -> Batch:
    """Make a batch [1, B] of state-action pairs; fields that cloning does not read are zero."""
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
