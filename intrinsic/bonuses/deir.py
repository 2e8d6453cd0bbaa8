"""`DEIR`, episodic novelty scaled by how much of it the agent's past explains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Rollout, map_obs, take
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.embedding import (
    MakeEncoder,
    Transitions,
    default_fields,
    embed_rollout,
    make_encoder,
)
from firstlight.intrinsic.episodic_memory import NearestMemory
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.observation_queue import ObservationQueue
from firstlight.intrinsic.state import Fitter, GrowingBuffers, isolated_rng, read_rows, write_rows
from firstlight.networks import collective
from firstlight.networks.encoders import Flat
from firstlight.networks.initialisation import orthogonal


class DEIR(GrowingBuffers, IntrinsicModule):
    """Discriminative-model-based episodic intrinsic reward (Wan et al. 2023).

    The bonus of step t, to its true successor, is
    ``min_i |e_{t+1} - e_i|² / (|h_t - h_{i-1}| + 1e-6)`` over the observations i of the episode so
    far (eq. 4, with the pairs of the authors' code). e embeds an observation and h, by a GRU, the
    trajectory up to it, 0 before the first: a new observation counts more if a similar trajectory
    led elsewhere before, so that it owes something to the action (a bound on their conditional
    mutual information).

    e and h are learnt by a discriminator, which tells the true successor of ``(h_t, a_t)`` from
    another observation, from a queue of novel ones: those whose bonus was at least the running
    mean, and all of the first rollout. Each transition is shown with either one, by chance; a
    replacement that equals the true successor is drawn once more, and left out if that does too.

    Args:
        obs_space: observation space of the policy.
        act_space: of the actions.
        encoder: makes the encoder of e; default `auto`.
        keys: names of the fields to embed; default all.
        width: numbers of e and of h; 64 as published for MiniGrid, 256 for its hardest task.
        hidden: width of the discriminator's hidden layer.
        layer_norm: normalise e, as the authors advise for that task.
        scaled: False is their plain discriminative model, ``min_i |e_{t+1} - e_i|``.
        capacity: observations in the memory of an episode.
        queue_size: observations in the queue; 100,000 as published.
        decay: of the running mean that decides what is novel.
        lr: Adam's step size.
        num_epochs: passes over a rollout in one `update`.
        num_minibatches: gradient steps per pass.
        update_proportion: probability that a transition is used in a pass.
        seed: of networks, replacements and minibatches.

    Attributes:
        trajectory: [R, E] float32, h before the next observation, by id of the environment.
        mean_bonus: [] float64, below 0 before there is any.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> DEIR(space, spaces.Discrete(3), width=16).memory.cut
    16
    """

    trajectory: Tensor
    mean_bonus: Tensor

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        width: int = 64,
        hidden: int = 64,
        layer_norm: bool = False,
        scaled: bool = True,
        capacity: int = 1024,
        queue_size: int = 10_000,
        decay: float = 0.9,
        lr: float = 1e-3,
        num_epochs: int = 1,
        num_minibatches: int = 4,
        update_proportion: float = 0.5,
        seed: int = 0,
    ):
        super().__init__()
        self.scaled, self.decay = scaled, decay
        self.actions = Flat(spaces.Dict({"action": act_space}))
        with isolated_rng(derive(seed, "deir")):
            self.encoder = make_encoder(obs_space, encoder, keys)
            self.projection = nn.Sequential(orthogonal(nn.Linear(self.encoder.out_dim, width)))
            if layer_norm:
                self.projection.append(nn.LayerNorm(width))
            self.cell = nn.GRUCell(width, width)
            self.discriminator = nn.Sequential(
                orthogonal(nn.Linear(2 * width + self.actions.out_dim, hidden)),
                nn.ReLU(),
                orthogonal(nn.Linear(hidden, 1), 1.0),
            )
        size, metric = (2 * width, "conditional") if scaled else (width, "squared")
        self.memory = NearestMemory(size, capacity=capacity, metric=metric, cut=width)  # type: ignore[arg-type]
        names = default_fields(obs_space) if keys is None else [*keys]
        self.queue = ObservationQueue(obs_space, names, queue_size)
        self.fitter = Fitter(
            [
                *self.encoder.parameters(),
                *self.projection.parameters(),
                *self.cell.parameters(),
                *self.discriminator.parameters(),
            ],
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            proportion=update_proportion,
            seed=derive(seed, "deir"),
        )
        self.register_buffer("trajectory", torch.zeros(0, width))
        self.register_buffer("mean_bonus", torch.tensor(-1.0, dtype=torch.float64))
        self._computed: tuple[Tensor, Tensor] | None = None  # bonus, and h before each step

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0, and add the rollout to the episodes' memories."""
        here, after = embed_rollout(self.embedding, rollout)
        start = read_rows(self.trajectory, rollout.env_ids)
        before, at, end = self._follow(here, start, rollout)
        self.trajectory = write_rows(self.trajectory, rollout.env_ids, end)
        if self.scaled:
            here, after = torch.cat([here[:-1], before], -1), torch.cat([after, at], -1)
        nearest = self.memory.distances(here, after, rollout)[..., 0]
        if not self.scaled:
            nearest = nearest.sqrt()
        bonus = torch.where(nearest.isfinite(), nearest, 0.0).to(rollout.device)
        self._computed = (bonus, before)
        return bonus

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Fit the discriminator. Returns its "loss" in nats, and the size of the "queue"."""
        computed = self._computed or self._fresh(rollout)
        self._computed = None
        self.encoder.observe(map_obs(lambda field: field[:-1], rollout.obs), rollout.valid)
        bonus, before = (values[rollout.valid] for values in computed)
        steps = Transitions.of(rollout)
        self._remember(steps.next_obs, bonus)
        fakes = self.queue.fields() if len(self.queue) else steps.next_obs
        loss = self.fitter.fit(
            len(steps), lambda rows: self._loss(steps.take(rows), before[rows], fakes)
        )
        return {"loss": loss, "queue": float(len(self.queue))}

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear memory and trajectory of the running episodes of `env_ids` [*], or of all."""
        self.memory.reset(env_ids)
        if env_ids is None:
            self.trajectory = torch.zeros_like(self.trajectory)
        else:
            zeros = self.trajectory.new_zeros(len(env_ids), self.trajectory.shape[1])
            self.trajectory = write_rows(self.trajectory, env_ids, zeros)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.03 in an episodic stream, scaled by `RecentScale`."""
        return Term(weight=0.03, transform=RecentScale(), gamma=0.99, episodic=True)

    def embedding(self, obs: Obs) -> Tensor:
        """Embed fields [B, ...] as e [B, E]."""
        return self.projection(self.encoder(obs))

    def _follow(
        self, here: Tensor, start: Tensor, rollout: Rollout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the GRU over a rollout; a step that is not valid leaves h as it is.

        Args:
            here: [T+1, N, E], embeddings of the observations.
            start: [N, E], h before the first.
            rollout: of T steps.

        Returns:
            h before and after each observation, [T, N, E] both, and after the last step [N, E].
        """
        state, before, at = start, [], []
        for t in range(rollout.num_steps):
            state = torch.where(rollout.is_first[t, :, None], 0.0, state)
            before.append(state)
            at.append(self.cell(here[t], state))
            state = torch.where(rollout.valid[t, :, None], at[-1], state)
        return torch.stack(before), torch.stack(at), state

    @torch.no_grad()
    def _fresh(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """What `compute` found, for a rollout that it has not seen: no bonus."""
        here, _ = embed_rollout(self.embedding, rollout)
        start = read_rows(self.trajectory, rollout.env_ids)
        return torch.zeros_like(rollout.reward), self._follow(here, start, rollout)[0]

    def _remember(self, next_obs: Obs, bonus: Tensor) -> None:
        """Add the observations [B, ...] of at least the mean bonus to the queue, and update it."""
        if collective.total(len(bonus)) == 0:
            return
        mean = collective.mean(bonus.double())
        novel = (bonus >= self.mean_bonus).nonzero()[:, 0]  # all of the first rollout
        if self.mean_bonus < 0:
            self.mean_bonus = mean
        self.queue.add(next_obs, novel, self.fitter.generator)
        self.mean_bonus = torch.lerp(self.mean_bonus, mean, 1 - self.decay)

    def _loss(self, steps: Transitions, before: Tensor, fakes: Obs) -> Tensor:
        """Binary cross-entropy [] of telling true successors from `fakes` [Q, ...]."""
        device, B = before.device, len(before)
        numbers = self.fitter.generator
        true = (torch.rand(B, generator=numbers) < 0.5).to(device)
        number = len(next(iter(fakes.values())))
        first, second = torch.randint(number, (2, B), generator=numbers).to(device)
        fake = take(fakes, torch.where(self._differs(take(fakes, first), steps), first, second))
        used = true | self._differs(fake, steps)
        shown = {
            name: torch.where(true.view(-1, *(1,) * (field.dim() - 1)), steps.next_obs[name], field)
            for name, field in fake.items()
        }
        both = {name: torch.cat([steps.obs[name], field]) for name, field in shown.items()}
        here, after = self.embedding(both).chunk(2)
        at = self.cell(here, before)
        reached = self.cell(after, at)
        action = self.actions({"action": steps.action})
        logit = self.discriminator(torch.cat([at, action, reached], 1))[:, 0]
        each = F.binary_cross_entropy_with_logits(logit, true.float(), reduction="none")
        return (each * used).sum() / used.sum().clamp(min=1)

    @staticmethod
    def _differs(fake: Obs, steps: Transitions) -> Tensor:
        """Whether replacements [B, ...] differ from the true successors, [B] bool."""
        each = [
            (field != steps.next_obs[name]).reshape(len(field), -1).any(1)
            for name, field in fake.items()
        ]
        return torch.stack(each).any(0)
