"""`E3B`, an episodic elliptical bonus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.finite import nan_to_zero
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.embedding import InverseDynamics, MakeEncoder
from firstlight.intrinsic.episodic_memory import EllipticalMemory
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.observed_memory import ObservedMemory
from firstlight.intrinsic.state import Fitter

Embedding = Literal["inverse", "random"]


class E3B(IntrinsicModule):
    """Exploration by elliptical episodic bonuses (Henaff et al. 2022).

    The bonus of step t is ``φ(s')^T C^-1 φ(s')`` of its true successor s', where
    ``C = ridge * I + sum φ φ^T`` over the observations of the episode so far, the first included
    (eq. 2). It is large for directions of the embedding φ in which the episode has not moved, and
    for one-hot φ it is nearly one over the number of visits. φ is learnt by inverse dynamics, so
    that what no action changes does not count.

    Each vector enters C as the embedding was when it was seen, as in the authors' code; C is
    updated by Sherman-Morrison for all environments together and reset where an episode begins.

    Args:
        obs_space: observation space of the policy.
        act_space: of the actions.
        encoder: makes the encoder of φ; default `networks.encoders.auto`.
        keys: names of the fields to embed; default all, as the policy sees them.
        embedding: "inverse" as published, or "random", their ablation: nothing is learnt.
        width: `E`, numbers of an embedding; None for the encoder's own output.
        hidden: width of the layer that predicts actions.
        ridge: λ; 0.1 as published.
        log: give ``log(1 + b)`` in place of b, the growth of ``log det C``. b is large in the first
            steps of an episode, whatever they are, and there it drowns the rest.
        layer_norm: bring each embedding to mean 0 and deviation 1 (the authors' code for APPO).
        lr: Adam's step size.
        num_epochs: passes over a rollout in one `update`.
        num_minibatches: gradient steps per pass.
        update_proportion: probability that a transition is used in a pass.
        seed: of networks and minibatches.
        observe_memory: the policy observes the diagonal of C^-1, see `ObservedEllipse`.

    Raises:
        ValueError: for an unknown `embedding`, a `ridge` that is not positive, or unknown `keys`.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> E3B(space, spaces.Discrete(3), width=16).memory.dim
    16
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        embedding: Embedding = "inverse",
        width: int | None = 64,
        hidden: int = 64,
        ridge: float = 0.1,
        log: bool = False,
        layer_norm: bool = False,
        lr: float = 1e-3,
        num_epochs: int = 1,
        num_minibatches: int = 4,
        update_proportion: float = 1.0,
        seed: int = 0,
        observe_memory: bool = False,
    ):
        super().__init__()
        self.observe_memory = observe_memory
        if embedding not in get_args(Embedding):
            options = ", ".join(get_args(Embedding))
            raise ValueError(f"embedding is {embedding!r}, expected one of {options}")
        self.layer_norm, self.log = layer_norm, log
        self.dynamics = InverseDynamics(
            obs_space,
            act_space,
            encoder=encoder,
            keys=keys,
            width=width,
            hidden=hidden,
            seed=derive(seed, "e3b"),
        )
        self.memory = EllipticalMemory(self.dynamics.out_dim, ridge=ridge)
        self.fitter = (
            None
            if embedding == "random"
            else Fitter(
                self.dynamics.parameters(),
                lr=lr,
                num_epochs=num_epochs,
                num_minibatches=num_minibatches,
                proportion=update_proportion,
                seed=derive(seed, "e3b"),
            )
        )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0, and add the rollout to the episodes' memories."""
        here, after = (self.normalised(x) for x in self.dynamics.embed_rollout(rollout))
        bonus = self.memory.bonus(here, after, rollout).to(rollout.device)
        return bonus.log1p() if self.log else bonus

    def normalised(self, embedding: Tensor) -> Tensor:
        """Apply the layer norm to embeddings [..., E], if `layer_norm`."""
        return F.layer_norm(embedding, embedding.shape[-1:]) if self.layer_norm else embedding

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the field `e3b_memory`, if `observe_memory`."""
        return ObservedEllipse(vec, self) if self.observe_memory else vec

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Fit the embedding. Returns "loss", of predicted actions in nats; empty if "random"."""
        if self.fitter is None:
            return {}
        return self.dynamics.fit(self.fitter, rollout)

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the memory of the running episodes of `env_ids` [*] int64, or of all."""
        self.memory.reset(env_ids)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.01 in an episodic stream, scaled by `RecentScale`."""
        return Term(weight=0.01, transform=RecentScale(), gamma=0.99, episodic=True)


class ObservedEllipse(ObservedMemory):
    """Adds the field `e3b_memory`: the diagonal of ``ridge * C^-1``, [E], in [0, 1].

    A number is 1 for a direction of the embedding in which the episode has not moved, and falls
    with each observation that lies in it; C includes the current one. Where the field is missing,
    1 stands: nothing was seen. Each step embeds one observation of every environment once more.

    Args:
        vec: the environments.
        module: whose embedding is used.
    """

    def __init__(self, vec: VecEnv, module: E3B):
        dim = module.memory.dim
        super().__init__(vec, "e3b_memory", OptionalBox(0, 1, (dim,), default=1.0))
        self._module = module
        self._memory = EllipticalMemory(dim, ridge=module.memory.ridge)

    @torch.no_grad()
    def _advance(self, env_ids: Tensor, obs: Obs, info: Obs, opens: Tensor, adds: Tensor) -> Tensor:
        device = self._module.dynamics.log_std.device
        fields = {name: nan_to_zero(field).to(device) for name, field in obs.items()}
        embedded = self._module.normalised(self._module.dynamics.embedding(fields))
        self._memory.add(env_ids, embedded, opens, adds)
        return (self._memory.ridge * self._memory.diagonal(env_ids)).clamp(0, 1)

    def _save(self, n: int) -> dict[str, Tensor]:
        return {"inverse": self._memory.inverses[n].clone()}

    def _load(self, n: int, arrays: Mapping[str, Tensor]) -> None:
        self._memory.inverses[n] = arrays["inverse"]
