"""Embeddings of observations that bonuses share: encoders by option, and inverse dynamics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.seeding import derive
from firstlight.envs.text import TextBytes
from firstlight.envs.types import Obs, Rollout, map_obs, take
from firstlight.intrinsic.state import Fitter, isolated_rng
from firstlight.networks.distributions import distribution_for
from firstlight.networks.encoders import Encoder, TwinEncoder, auto
from firstlight.networks.initialisation import orthogonal

MakeEncoder = Callable[[spaces.Dict], Encoder]
"""Makes an encoder for an observation space, as an encoder's class does.

In YAML: ``encoder: {_target_: firstlight.networks.encoders.MLP, _partial_: true, hidden: [64]}``.
"""

CHUNK = 2048
"""Rows of a forward pass without gradient, to bound memory."""


def make_encoder(
    obs_space: spaces.Dict, encoder: MakeEncoder | None = None, keys: Sequence[str] | None = None
) -> Encoder:
    """Make an encoder of some fields.

    Args:
        obs_space: observation space of the policy.
        encoder: makes it; default `auto`, which normalises fields of floats.
        keys: names of the fields to use; default `default_fields`.

    Raises:
        ValueError: for unknown `keys`, or an encoder with two sets of features.
    """
    names = default_fields(obs_space) if keys is None else [*keys]
    if not names or not set(names) <= set(obs_space):
        raise ValueError(f"keys is {names}; the observation has {list(obs_space)}")
    space = spaces.Dict([(name, obs_space[name]) for name in names])
    made = auto(space, normalize_obs=True) if encoder is None else encoder(space)
    if isinstance(made, TwinEncoder):
        raise ValueError(f"encoder is a {type(made).__name__}, expected one set of features")
    return made


def default_fields(obs_space: spaces.Dict) -> list[str]:
    """Return the names of all fields but masks of actions and texts."""
    return [
        name
        for name, space in obs_space.items()
        if name != "action_mask" and not isinstance(space, TextBytes)
    ]


@torch.no_grad()
def embed(network: Callable[[Obs], Tensor], obs: Mapping[str, Tensor], lead: int = 1) -> Tensor:
    """Apply a network to fields with `lead` leading axes, in chunks and without gradient.

    Args:
        network: maps fields [B, ...] to [B, E].
        obs: fields [*lead, ...].
        lead: number of leading axes.

    Returns:
        [*lead, E].
    """
    shape = next(iter(obs.values())).shape[:lead]
    rows = {name: field.flatten(0, lead - 1) for name, field in obs.items()}
    cut = {name: field.split(CHUNK) for name, field in rows.items()}
    chunks = (dict(zip(cut, fields, strict=True)) for fields in zip(*cut.values(), strict=True))
    parts = [network(chunk) for chunk in chunks]
    return torch.cat(parts).unflatten(0, shape)


def embed_rollout(network: Callable[[Obs], Tensor], rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Embed the observations of a rollout and the true successor of each step.

    Args:
        network: maps fields [B, ...] to [B, E].
        rollout: each of its observations is embedded once.

    Returns:
        [T+1, N, E] and [T, N, E], without gradient.
    """
    here = embed(network, rollout.obs, 2)
    if len(rollout.final_at) == 0:
        return here, here[1:]
    return here, rollout.successors(here, embed(network, rollout.final_obs))


@dataclass(frozen=True)
class Transitions:
    """Steps with their true successors, which are always of the same episode.

    Args:
        obs: [B, ...] what the policy acted on.
        next_obs: [B, ...] true next observations.
        action: [B, *action].
    """

    obs: Obs
    next_obs: Obs
    action: Tensor

    @classmethod
    def of(cls, rollout: Rollout) -> Transitions:
        """Select the valid steps of a rollout, in time order."""
        valid = rollout.valid
        return cls(
            obs=map_obs(lambda field: field[:-1][valid], rollout.obs),
            next_obs=map_obs(lambda field: field[valid], rollout.next_obs()),
            action=rollout.action[valid],
        )

    def __len__(self) -> int:
        return len(self.action)

    def take(self, rows: Tensor) -> Transitions:
        """Select `rows` [*] int64."""
        return Transitions(take(self.obs, rows), take(self.next_obs, rows), self.action[rows])


class InverseDynamics(nn.Module):
    """Learns an embedding from which the action between two observations can be predicted.

    So the embedding keeps what actions can change (Pathak et al. 2017, §2.2). Actions are predicted
    from the embeddings of a step's observation and of its true successor by one hidden layer: by
    cross-entropy for discrete actions, and for a Box by a normal distribution of deviation 1 in
    units of half the range, which is half the squared error but for a constant. Actions outside of
    the bounds are clipped first, as environments do.

    The caller owns the optimiser, for example a `Fitter` of `parameters()`, and calls `observe`
    once per update for encoders with running statistics.

    Args:
        obs_space: observation space of the policy.
        act_space: of the actions: Discrete, MultiDiscrete, MultiBinary or Box.
        encoder: makes the encoder; default `auto`.
        keys: names of the fields to embed; default all.
        width: `E`; None for the encoder's own output, otherwise a linear layer follows it.
        hidden: width of the hidden layer that predicts actions; 256 in Pathak et al. 2017.
        seed: of the networks.

    Attributes:
        out_dim: `E`.

    Raises:
        ValueError: for an action space without a distribution, or unknown `keys`.

    >>> obs_space = spaces.Dict({"obs": spaces.Box(-1, 1, (3,))})
    >>> dynamics = InverseDynamics(obs_space, spaces.Discrete(2), width=16)
    >>> dynamics.embedding({"obs": torch.zeros(5, 3)}).shape
    torch.Size([5, 16])
    """

    log_std: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        width: int | None = None,
        hidden: int = 256,
        seed: int = 0,
    ):
        super().__init__()
        self.head = distribution_for(act_space, scale_actions=True)
        with isolated_rng(derive(seed, "inverse_dynamics")):
            self.encoder = make_encoder(obs_space, encoder, keys)
            self.out_dim = self.encoder.out_dim if width is None else width
            projected = width is not None
            linear = (
                orthogonal(nn.Linear(self.encoder.out_dim, self.out_dim)) if projected else None
            )
            self.projection = linear
            self.predictor = nn.Sequential(
                orthogonal(nn.Linear(2 * self.out_dim, hidden)),
                nn.ReLU(),
                orthogonal(nn.Linear(hidden, self.head.num_outputs), 0.01),
            )
        self.continuous = isinstance(act_space, spaces.Box)
        bounds = (act_space.low, act_space.high) if isinstance(act_space, spaces.Box) else ((), ())
        for name, bound in zip(("low", "high"), bounds, strict=True):
            self.register_buffer(name, torch.as_tensor(bound).float(), persistent=False)
        self.register_buffer("log_std", torch.zeros(self.head.num_log_std), persistent=False)

    def embedding(self, obs: Obs) -> Tensor:
        """Embed fields [B, ...] as [B, E]; with a gradient where one is enabled."""
        features = self.encoder(obs)
        return features if self.projection is None else self.projection(features)

    def embed_rollout(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Embed observations [T+1, N, E] and true successors [T, N, E], without gradient."""
        return embed_rollout(self.embedding, rollout)

    def action_loss(self, here: Tensor, after: Tensor, action: Tensor) -> Tensor:
        """Return the mean negative log-likelihood [] of actions, in nats.

        Args:
            here: [B, E] embeddings of the observations.
            after: [B, E] embeddings of their true successors.
            action: [B, *action].
        """
        if self.continuous:
            action = action.clamp(self.low, self.high)
        outputs = self.predictor(torch.cat([here, after], 1))
        return -self.head.make(outputs, self.log_std).log_prob(action).mean()

    def loss(self, transitions: Transitions) -> Tensor:
        """Return the mean loss [] of `transitions`, of which there must be at least one."""
        return self.action_loss(*self.embed_pair(transitions), transitions.action)

    def fit(
        self,
        fitter: Fitter,
        rollout: Rollout,
        loss: Callable[[Transitions], Tensor] | None = None,
    ) -> dict[str, float]:
        """Learn from the transitions of a rollout.

        Args:
            fitter: of the parameters to learn.
            rollout: also added to the encoder's running statistics.
            loss: returns a mean loss [] of transitions; default `loss`.

        Returns:
            The mean "loss".
        """
        self.observe(rollout)
        steps, loss = Transitions.of(rollout), loss or self.loss
        return {"loss": fitter.fit(len(steps), lambda rows: loss(steps.take(rows)))}

    def embed_pair(self, transitions: Transitions) -> tuple[Tensor, Tensor]:
        """Embed observations and true successors of transitions [B] together, as [B, E] each."""
        both = {
            name: torch.cat([field, transitions.next_obs[name]])
            for name, field in transitions.obs.items()
        }
        here, after = self.embedding(both).chunk(2)
        return here, after

    def observe(self, rollout: Rollout) -> None:
        """Add the observations of valid steps to the encoder's running statistics, if any."""
        self.encoder.observe(map_obs(lambda field: field[:-1], rollout.obs), rollout.valid)
