"""`BehaviourNovelty`, novelty search's reward for agents that learn by gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.positions import POSITION_CHANNELS
from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.behaviour.behaviour_archive import BehaviourArchive
from firstlight.intrinsic.behaviour.behaviour_autoencoder import BehaviourAutoencoder
from firstlight.intrinsic.behaviour.nearest import novelty_of
from firstlight.intrinsic.embedding import default_fields
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.networks import collective

MAX_NUMBERS = 4096
"""Largest size of what is remembered of an episode."""


class BehaviourNovelty(IntrinsicModule):
    """Rewards episodes that end where few others ended (Lehman & Stanley 2011, as a bonus).

    The behaviour of an episode is what some fields hold at its end, such as the position; or, if
    `learned`, the code of these fields by an autoencoder (as TAXONS, Paolo et al. 2019). Its
    novelty is the mean distance to the `k` nearest behaviours among those of the latest episodes
    and of an archive, into which episodes are chosen at random. The start of an episode counts as
    the behaviour of an agent that stays there.

    With Phi(s), the novelty of an episode that would end in state s, the bonus is

    - at the last step of an episode its novelty, Phi(s_T), and 0 before; or
    - if `spread`, the change ``Phi(s_{t+1}) - Phi(s_t)`` in every step: a potential, which adds up
      to the novelty at the end minus that of the start, wherever the episode ends.

    Behaviours are added in `update`, so that all of a rollout are measured to the same ones.

    Args:
        obs_space: observation space of the policy.
        info_space: space of the side channels.
        keys: names of the fields, from the side channels or else the observation; default the
            position (`POSITION_CHANNELS`), or without one the observation's fields of floats. If
            `learned`, all that the policy observes but texts.
        learned: measure in a space that an autoencoder learns from these fields.
        spread: reward every step by the change of novelty.
        k: nearest behaviours; 15 as in SERENE and STAX.
        num_recent: latest behaviours that novelty is measured to.
        archive_share: probability that an episode enters the archive; 5 of 200 as in SERENE.
        capacity: of the archive.
        latent: numbers of a code, 10 as published.
        hidden: width of the autoencoder's hidden layers.
        lr: of the autoencoder.
        num_epochs: of one of its trainings.
        train_every: episodes before its first training, see `BehaviourAutoencoder`.
        warmup_steps: steps per environment of a random agent, whose episodes are the first ones.
        seed: of the archive and the autoencoder.

    Raises:
        ValueError: for unknown `keys`, fields without numbers or too many of them, none to choose
            by default, or numbers out of range.

    >>> space = spaces.Dict({"obs": spaces.Box(-1, 1, (3,))})
    >>> BehaviourNovelty(space).names
    ('obs',)
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        info_space: spaces.Dict | None = None,
        keys: Sequence[str] | None = None,
        learned: bool = False,
        spread: bool = True,
        k: int = 15,
        num_recent: int = 200,
        archive_share: float = 0.025,
        capacity: int = 1000,
        latent: int = 10,
        hidden: int = 64,
        lr: float = 1e-3,
        num_epochs: int = 20,
        train_every: int = 100,
        warmup_steps: int = 128,
        seed: int = 0,
    ):
        super().__init__()
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        info = {} if info_space is None else info_space.spaces
        known = {**obs_space.spaces, **info}
        self.names = _chosen(obs_space, info, learned) if keys is None else tuple(keys)
        for name in self.names:
            if name not in known or not isinstance(known[name], spaces.Box | spaces.Discrete):
                raise ValueError(
                    f"keys is {list(self.names)}, and {name!r} is no field of numbers: expected "
                    f"some of {', '.join(known)}"
                )
        self.in_info = {name: name in info for name in self.names}
        shapes = {name: known[name].shape or () for name in self.names}
        self.ranks = {name: len(shape) for name, shape in shapes.items()}
        self.sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        dim = sum(self.sizes.values())
        if not 1 <= dim <= MAX_NUMBERS:
            raise ValueError(
                f"{', '.join(self.names)} have {dim} numbers, expected 1 to {MAX_NUMBERS}: choose "
                "fields by keys"
            )
        self.k, self.spread, self.warmup_steps = k, spread, warmup_steps
        self.novelty = spread  # otherwise a step within an episode has no bonus, however new
        seed = derive(seed, "behaviour_novelty")
        self.archive = BehaviourArchive(
            dim, num_recent=num_recent, share=archive_share, capacity=capacity, seed=seed
        )
        self.autoencoder = None
        if learned:
            self.autoencoder = BehaviourAutoencoder(
                dim,
                latent=latent,
                hidden=hidden,
                lr=lr,
                num_epochs=num_epochs,
                train_every=train_every,
                seed=seed,
            )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N]; differences may be negative. Store nothing."""
        here = self._behaviours(rollout.obs, rollout.info)  # [T+1, N, D]
        final = self._behaviours(rollout.final_obs, rollout.final_info)
        if self.spread:
            novelty = self._novelty(here)
            after = rollout.successors(novelty, self._novelty(final))
            return torch.where(rollout.valid, after - novelty[:-1], 0.0)
        bonus = torch.zeros_like(rollout.reward)
        ended = _ended(rollout)
        bonus[ended] = self._novelty(rollout.successors(here, final)[ended])
        return bonus

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Add the rollout's episodes to the archive; train the autoencoder if it is due.

        Returns:
            The size of the "archive"; "end_novelty", the mean novelty of the episodes that ended,
            if any did; the "loss" of a training.
        """
        ends, metrics = self._add(rollout)
        if self.autoencoder is not None:
            loss = self.autoencoder.train_if_due(self._references(), len(ends))
            if loss is not None:
                metrics["loss"] = loss
        return metrics

    def warmup(self, rollout: Rollout) -> None:
        """Add a random agent's episodes, and train the autoencoder for the first time."""
        self._add(rollout)
        if self.autoencoder is not None:
            self.autoencoder.learn(self._references())

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in an episodic stream, scaled by `RecentScale`."""
        return Term(weight=0.3, transform=RecentScale(), gamma=0.99, episodic=True)

    @torch.no_grad()
    def _add(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """Add starts and ends of episodes. Returns the ends [E, D] and scalars."""
        here = self._behaviours(rollout.obs, rollout.info)
        final = self._behaviours(rollout.final_obs, rollout.final_info)
        ends = rollout.successors(here, final)[_ended(rollout)]
        starts = here[:-1][rollout.is_first[:-1]]
        starts, ends = (collective.gather_rows(x.cpu()) for x in (starts, ends))
        metrics = {}
        if len(ends) and len(self.archive):
            metrics["end_novelty"] = self._novelty(ends.to(rollout.device)).mean().item()
        self.archive.add(starts, ends)
        return ends, metrics | {"archive": float(len(self.archive.chosen))}

    def _behaviours(self, obs: Obs, info: Mapping[str, Tensor]) -> Tensor:
        """Chosen fields [*lead, ...] as vectors [*lead, D] float32."""
        columns = []
        for name, rank in self.ranks.items():
            field = (info if self.in_info[name] else obs)[name].float()
            lead = field.shape[: field.dim() - rank]
            columns.append(field.reshape(*lead, self.sizes[name]))
        return torch.cat(columns, -1)

    def _references(self) -> Tensor:
        """Behaviours [B, D] that novelty is measured to, on the autoencoder's device."""
        found = self.archive.behaviours()
        return found if self.autoencoder is None else found.to(self.autoencoder.moments.mean.device)

    def _novelty(self, behaviours: Tensor) -> Tensor:
        """Novelty [*lead] of episodes that end with behaviours [*lead, D]; 0 before any did."""
        if not len(self.archive) or not behaviours.numel():
            return behaviours.new_zeros(behaviours.shape[:-1])
        references = self._references()
        queries = behaviours.flatten(0, -2)
        if self.autoencoder is not None:
            queries, references = (
                self.autoencoder.codes(queries),
                self.autoencoder.codes(references),
            )
        found = novelty_of(_array(queries), _array(references), self.k)
        novelty = torch.from_numpy(found).float().to(behaviours.device)
        return novelty.view(behaviours.shape[:-1])


def _chosen(
    obs_space: spaces.Dict, info: Mapping[str, spaces.Space], learned: bool
) -> tuple[str, ...]:
    """Choose fields: the position, or else the observation's fields of floats."""
    if learned:
        return tuple(default_fields(obs_space))
    for name in POSITION_CHANNELS:
        if name in info:
            return (name,)
    floats = [
        name
        for name, space in obs_space.items()
        if space.dtype is not None and np.issubdtype(space.dtype, np.floating)
    ]
    if not floats:
        raise ValueError(
            f"there is no position among {', '.join(info) or 'no side channels'}, and no field of "
            f"floats among {', '.join(obs_space)}: choose fields by keys, or set learned=true"
        )
    return tuple(floats)


def _ended(rollout: Rollout) -> Tensor:
    """Steps [T, N] bool at which an episode ended, but not by a crash."""
    ended = (rollout.terminated | rollout.truncated) & rollout.valid
    return ended if rollout.crashed is None else ended & ~rollout.crashed


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().double().numpy()
