"""Policy of a search: a small network whose weights are one flat vector, the genome."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.agents.policy import Policy, PolicyOutput
from firstlight.agents.search.controller_kernels import respond_all
from firstlight.envs.action_spaces import MASK, action_range, choices
from firstlight.envs.types import Obs, State
from firstlight.networks.distributions.base import Distribution
from firstlight.networks.spec import rebuildable


class PointMass(Distribution):
    """Distribution of one certain action each.

    Args:
        action: [..., *action], int64 or float32.
        lead: number of leading axes.
    """

    def __init__(self, action: Tensor, lead: int):
        self.action, self._lead = action, action.shape[:lead]
        self.params = action.reshape(*self._lead, -1).float()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return the action."""
        return self.action

    def mode(self) -> Tensor:
        """Return the action."""
        return self.action

    def log_prob(self, action: Tensor) -> Tensor:
        """Return 0 for the action and -inf for others, [...]."""
        same = (action == self.action).reshape(*self._lead, -1).all(-1)
        return torch.where(same, 0.0, -math.inf)

    def entropy(self) -> Tensor:
        """Return zeros [...]."""
        return torch.zeros(self._lead)


@rebuildable
class GenomePolicy(Policy):
    """Feed-forward network of few neurons, as in SERENE and STAX (Paolo et al. 2021, 2024).

    Every layer has ``2 sigmoid(z) - 1`` and one bias for the whole layer. Inputs are the numbers of
    all observation fields, as they are. Outputs, between -1 and 1, are mapped to the bounds of
    continuous actions where there are any; of discrete actions the one with the largest output is
    taken. It runs on the CPU, and nothing is sampled.

    Args:
        obs_space: of one environment.
        act_space: Box, Discrete, MultiDiscrete or MultiBinary.
        hidden: neurons of each hidden layer.
        num_layers: number of hidden layers.

    Attributes:
        genome: [G] float64, of the network that `forward` uses.
        sizes: [L + 1] int64, widths of all layers.

    Raises:
        ValueError: for numbers below 1, an action mask, or an action space that has no outputs.

    >>> sensors = spaces.Dict({"sensors": spaces.Box(0, 1, (5,))})
    >>> GenomePolicy(sensors, spaces.Box(-1, 1, (2,))).genome_size
    63
    """

    genome: Tensor

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        hidden: int = 5,
        num_layers: int = 2,
    ):
        super().__init__()
        if min(hidden, num_layers) < 1:
            raise ValueError(f"hidden is {hidden} and num_layers {num_layers}, expected 1 or more")
        if MASK in obs_space.spaces:
            raise ValueError(f"a network of a search takes no {MASK!r}: use another learner")
        self.obs_space, self.act_space = obs_space, act_space
        self._choices = [] if isinstance(act_space, spaces.Box) else choices(act_space)
        if not isinstance(act_space, spaces.Box) and not self._choices:
            raise ValueError(f"no network of a search for actions of {act_space}")
        inputs = sum(math.prod(space.shape or ()) for space in obs_space.spaces.values())
        outputs = sum(self._choices) if self._choices else math.prod(act_space.shape or ())
        self.sizes = np.array([inputs, *[hidden] * num_layers, outputs], np.int64)
        if isinstance(act_space, spaces.Box):
            centre, half = action_range(act_space)
            self._centre, self._half = centre.reshape(-1), half.reshape(-1)
        self.register_buffer("genome", torch.zeros(self.genome_size, dtype=torch.float64))

    @property
    def genome_size(self) -> int:
        """`G`, the number of weights and biases."""
        return int((self.sizes[:-1] * self.sizes[1:] + 1).sum())

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each observation field."""
        return dict.fromkeys(self.obs_space.spaces, "as it is")

    def initial_state(self, num_envs: int) -> State:
        """Return no state."""
        return {}

    def forward(self, obs: Obs, state: State, is_first: Tensor) -> PolicyOutput:
        """Compute the actions of the network `genome`, see `Policy.forward`."""
        T, N = is_first.shape
        flat = {name: field.flatten(0, 1) for name, field in obs.items()}
        action = self.act(self.genome.cpu().numpy()[None], flat)
        action = action.unflatten(0, (T, N)).to(is_first.device)
        value = torch.zeros((T, N, self.num_streams), device=is_first.device)
        return PolicyOutput(PointMass(action, 2), value, {})

    def act(self, genomes: np.ndarray, obs: Mapping[str, Tensor]) -> Tensor:
        """Compute an action for each observation.

        Args:
            genomes: [B, G] float64, or [1, G] for one network.
            obs: fields [B, ...].

        Returns:
            [B, *action], int64 or float32.
        """
        fields = [obs[name].cpu() for name in self.obs_space.spaces]
        inputs = torch.cat([field.reshape(len(field), -1).double() for field in fields], 1).numpy()
        outputs = np.empty((len(inputs), int(self.sizes[-1])))
        respond_all(genomes, self.sizes, inputs, outputs)
        shape = self.act_space.shape or ()
        if not self._choices:
            scaled = (self._centre + self._half * outputs).astype(np.float32)
            return torch.from_numpy(scaled.reshape(len(scaled), *shape))
        parts = np.split(outputs, np.cumsum(self._choices)[:-1], 1)
        chosen = np.stack([part.argmax(1) for part in parts], 1)
        return torch.from_numpy(chosen.reshape(len(chosen), *shape))
