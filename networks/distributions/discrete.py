"""Distributions of discrete actions: one choice, several, combinations, and switches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight.networks.distributions.base import Distribution
from firstlight.networks.distributions.draw_kernel import draw_categorical

_MASKED, _PADDED = -1e20, -1e30
"""Logits without probability; float32's minimum would overflow in the gradient of an entropy."""


class Categorical(Distribution):
    """One of `A` actions.

    Args:
        logits: [..., A], unnormalised.
        allowed: [..., A] bool, actions with a probability above 0; where nothing is allowed, all
            are as likely.
    """

    def __init__(self, logits: Tensor, allowed: Tensor | None = None):
        if allowed is not None:
            logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
        self.logits = logits
        self._log_probs: Tensor | None = None

    @property
    def params(self) -> Tensor:  # type: ignore[override]
        """Log-probabilities [..., A]."""
        if self._log_probs is None:
            self._log_probs = torch.log_softmax(self.logits, -1)
        return self._log_probs

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw [...] int64: on the CPU from the cumulative probabilities, else by a race."""
        if self.logits.device.type == "cpu":
            return self.draw(generator)[0]
        race = torch.empty_like(self.params).exponential_(generator=generator)
        return self.params.exp().div_(race).argmax(-1)

    def draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw actions, see `Distribution.draw`; on the CPU without gradients."""
        if self.logits.device.type != "cpu":
            return super().draw(generator)
        *lead, number = self.logits.shape
        uniform = torch.rand(lead, generator=generator)
        logits = self.logits.detach().float().reshape(-1, number)
        action, log_prob = draw_categorical(logits.numpy(), uniform.view(-1).numpy())
        return torch.from_numpy(action).view(lead), torch.from_numpy(log_prob).view(lead)

    def mode(self) -> Tensor:
        """Return [...] int64."""
        return self.params.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...] for `action` [...] int64."""
        return self.params.gather(-1, action[..., None]).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        return -(self.params.exp() * self.params).sum(-1)

    def fisher_diagonal(self) -> Tensor:
        """Return the probabilities [..., A]."""
        return self.params.detach().exp()


class ComponentLayout:
    """Where the choices of several components are, in a row and padded to the largest.

    Args:
        sizes: number of choices of each of `M` components; `S` in all.
        shape: of an action, of `M` elements.
    """

    def __init__(self, sizes: Sequence[int], shape: tuple[int, ...]):
        self.sizes, self.shape = tuple(sizes), shape
        self.equal = len({*sizes}) == 1
        starts = np.cumsum((0, *sizes))
        index = np.full((len(sizes), max(sizes)), starts[-1])  # of a column without probability
        for row, start, n in zip(index, starts[:-1], sizes, strict=True):
            row[:n] = start + np.arange(n)
        self._index = torch.from_numpy(index.ravel())
        self._places = torch.from_numpy(np.flatnonzero(index.ravel() < starts[-1]))

    def padded(self, logits: Tensor) -> Tensor:
        """Arrange logits [..., S] as [..., M, n], padded with logits of probability 0."""
        if not self.equal:
            wider = F.pad(logits, (0, 1), value=_PADDED)
            logits = wider.index_select(-1, self._on(logits.device)[0])
        return logits.unflatten(-1, (len(self.sizes), -1))

    def unpadded(self, table: Tensor) -> Tensor:
        """Arrange [..., M, n] as [..., S] again."""
        flat = table.flatten(-2)
        return flat if self.equal else flat.index_select(-1, self._on(flat.device)[1])

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._index.device != device:
            self._index, self._places = self._index.to(device), self._places.to(device)
        return self._index, self._places


class MultiCategorical(Distribution):
    """Independent choices, one for each of `M` components.

    Components are padded to the largest, so that all are computed together.

    Args:
        logits: [..., S], unnormalised, of each component after the other.
        layout: sizes of the components.
        allowed: [..., S] bool; a component of which nothing is allowed is uniform.
    """

    def __init__(self, logits: Tensor, layout: ComponentLayout, allowed: Tensor | None = None):
        self.layout = layout
        if allowed is not None:
            logits = logits.masked_fill(~allowed, _MASKED)
        self._log_probs = torch.log_softmax(layout.padded(logits), -1)  # [..., M, n]

    @property
    def params(self) -> Tensor:  # type: ignore[override]
        """Log-probabilities [..., S]."""
        return self.layout.unpadded(self._log_probs)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw [..., *shape] int64, by one exponential race for each component."""
        race = torch.empty_like(self._log_probs).exponential_(generator=generator)
        return self._shaped(self._log_probs.exp().div_(race).argmax(-1))

    def mode(self) -> Tensor:
        """Return [..., *shape] int64."""
        return self._shaped(self._log_probs.argmax(-1))

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...] for `action` [..., *shape] int64."""
        choice = action.reshape(*self._log_probs.shape[:-1], 1)
        return self._log_probs.gather(-1, choice).squeeze(-1).sum(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats, the sum over components."""
        return -(self._log_probs.exp() * self._log_probs).sum((-2, -1))

    def fisher_diagonal(self) -> Tensor:
        """Return the probabilities [..., S]."""
        return self.params.detach().exp()

    def _shaped(self, action: Tensor) -> Tensor:
        shape = self.layout.shape
        return action if len(shape) == 1 else action.unflatten(-1, shape)


class JointCategorical(Distribution):
    """One of all combinations of the choices of `M` components.

    Args:
        logits: [..., S], unnormalised, of each combination; the last component varies fastest.
        sizes: of the components, with a product of `S`.
        shape: of an action, of `M` elements.
        allowed: [..., S] bool.
    """

    def __init__(
        self,
        logits: Tensor,
        sizes: Sequence[int],
        shape: tuple[int, ...],
        allowed: Tensor | None = None,
    ):
        self.sizes, self.shape = tuple(sizes), shape
        self.combination = Categorical(logits, allowed)

    @property
    def params(self) -> Tensor:  # type: ignore[override]
        """Log-probabilities [..., S]."""
        return self.combination.params

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw [..., *shape] int64."""
        return self._components(self.combination.sample(generator))

    def mode(self) -> Tensor:
        """Return [..., *shape] int64."""
        return self._components(self.combination.mode())

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...] for `action` [..., *shape] int64."""
        flat = action.reshape(*self.combination.logits.shape[:-1], len(self.sizes))
        index = flat[..., 0]
        for m, size in enumerate(self.sizes[1:], 1):
            index = index * size + flat[..., m]
        return self.combination.log_prob(index)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        return self.combination.entropy()

    def fisher_diagonal(self) -> Tensor:
        """Return the probabilities [..., S]."""
        return self.combination.fisher_diagonal()

    def _components(self, index: Tensor) -> Tensor:
        return torch.stack(torch.unravel_index(index, self.sizes), -1).unflatten(-1, self.shape)


class MultiBernoulli(Distribution):
    """Independent switches, 0 or 1.

    Args:
        logits: [..., S], of a 1.
        shape: of an action, of `S` elements.
        allowed: [..., S, 2] bool, whether an element may be 0 and whether it may be 1.
    """

    def __init__(self, logits: Tensor, shape: tuple[int, ...], allowed: Tensor | None = None):
        self.shape = shape
        if allowed is not None:
            logits = logits.masked_fill(~allowed[..., 0], -_MASKED)
            logits = logits.masked_fill(~allowed[..., 1], _MASKED)
        self.params = logits

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw [..., *shape] int64."""
        noise = torch.empty_like(self.params).uniform_(generator=generator)  # in [0, 1)
        return self._shaped((noise < self.params.sigmoid()).long())

    def mode(self) -> Tensor:
        """Return [..., *shape] int64."""
        return self._shaped((self.params > 0).long())

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...] for `action` [..., *shape] int64."""
        sign = 2 * action.reshape(self.params.shape) - 1
        return F.logsigmoid(sign * self.params).sum(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats, the sum over elements."""
        one, x = self.params.sigmoid(), self.params
        return -(one * F.logsigmoid(x) + (1 - one) * F.logsigmoid(-x)).sum(-1)

    def fisher_diagonal(self) -> Tensor:
        """Return the variances [..., S]."""
        one = self.params.detach().sigmoid()
        return one * (1 - one)

    def _shaped(self, action: Tensor) -> Tensor:
        return action if len(self.shape) == 1 else action.unflatten(-1, self.shape)
