"""State of reward modules: own random numbers, per-environment rows that grow, an optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.envs.finite import NonFiniteError
from firstlight.envs.seeding import generator
from firstlight.networks import collective
from firstlight.networks.clipped_adam import ClippedAdam


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block and restore its state afterwards.

    For building networks: a run with a module at weight 0 must equal a run without the module.

    >>> with isolated_rng(0):
    ...     net = nn.Linear(3, 2)
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def grow_rows(memory: Tensor, env_ids: Tensor) -> Tensor:
    """Append rows of zeros to `memory` [E, ...] until every id in `env_ids` [*] int64 has a row.

    Returns `memory` itself if it is long enough.
    """
    missing = int(env_ids.max()) + 1 - len(memory) if len(env_ids) else 0
    if missing <= 0:
        return memory
    return torch.cat([memory, memory.new_zeros(missing, *memory.shape[1:])])


def read_rows(memory: Tensor, env_ids: Tensor) -> Tensor:
    """Copy the rows of `env_ids` [N] int64 out of `memory` [E, ...]; zeros for unknown ids."""
    return grow_rows(memory, env_ids)[env_ids]


def write_rows(memory: Tensor, env_ids: Tensor, rows: Tensor) -> Tensor:
    """Copy `memory` [E, ...], grow it if needed, and set `rows` [N, ...] at `env_ids` [N]."""
    grown = grow_rows(memory, env_ids)
    out = grown.clone() if grown is memory else grown
    out[env_ids] = rows
    return out


class GrowingBuffers(nn.Module):
    """A module whose buffers grow with experience: `load_state_dict` accepts any size.

    Attributes:
        on_host: keep the buffers on the CPU when the module is moved with `to`.
    """

    on_host: bool = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GrowingBuffers:
        return self if self.on_host else super()._apply(fn, recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = buffer.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Fitter(nn.Module):
    """Fits parameters by Adam over shuffled minibatches; resumes exactly from its `state_dict`.

    Adam's moments and the state of the random generator are part of the `state_dict`. In a run of
    several processes a minibatch is one of all their rows, of which each draws a part of its own;
    their gradients are added, so that the parameters stay the same.

    Args:
        parameters: to fit; saved and moved by the module that owns them.
        lr: Adam's step size.
        num_epochs: passes over the rows, each in a new order.
        num_minibatches: minibatches per pass, one gradient step each.
        minibatch_size: rows of a minibatch, about, of all processes; overrides `num_minibatches` if
            given.
        proportion: probability that a row is used in a pass (loss mask of Burda et al. 2018).
        seed: of the order and the choice of rows.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float = 1e-4,
        num_epochs: int = 1,
        num_minibatches: int = 1,
        minibatch_size: int | None = None,
        proportion: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        self.num_epochs, self.num_minibatches = num_epochs, num_minibatches
        self.minibatch_size, self.proportion = minibatch_size, proportion
        self.optimizer = ClippedAdam(list(parameters), lr=lr, eps=1e-8)
        self.generator = generator(seed, "fitter")

    def fit(self, num_rows: int, loss: Callable[[Tensor], Tensor]) -> float:
        """Minimise `loss`, one gradient step for each minibatch of each epoch.

        Args:
            num_rows: rows to learn from; if 0, no step is taken.
            loss: maps row numbers [B] int64 to their mean loss [].

        Returns:
            Mean loss over the steps.

        Raises:
            NonFiniteError: for a loss or gradient that is not finite; that step is not taken.
        """

        def gradient(rows: Tensor, share: float) -> Tensor:
            value = loss(rows)
            value = value if share == 1 else share * value
            value.backward()
            return value.detach()

        with torch.enable_grad():
            return self.fit_by_hand(num_rows, gradient)

    def fit_by_hand(self, num_rows: int, gradient: Callable[[Tensor, float], Tensor]) -> float:
        """Minimise a loss as `fit` does, whose gradients are given.

        Args:
            num_rows: rows to learn from; if 0, no step is taken.
            gradient: of row numbers [B] int64 and a factor: adds the gradient of factor × mean loss
                to `grad` of the parameters, and returns factor × mean loss, [], detached.

        Returns:
            Mean loss over the steps.

        Raises:
            NonFiniteError: for a loss or gradient that is not finite; that step is not taken.
        """
        losses, parameters = [], self._fitted_parameters()
        for rows, share in self._minibatches(num_rows):
            self.optimizer.zero_grad()
            value = gradient(rows, share) if len(rows) else parameters[0].new_zeros(())
            value = collective.sum_gradients(parameters, value[None])[0]
            if not math.isfinite(value.item()):
                raise NonFiniteError(f"the loss of a reward module is {value.item()}")
            if not math.isfinite(self.optimizer.clipped_step(math.inf).item()):
                raise NonFiniteError("the gradient of a reward module is not finite")
            losses.append(value)
        return torch.stack(losses).mean().item() if losses else 0.0

    def _minibatches(self, num_rows: int) -> Iterator[tuple[Tensor, float]]:
        """Yield this process's rows of each minibatch, and their share of all its rows."""
        device = self._fitted_parameters()[0].device
        parts = self.num_minibatches
        if self.minibatch_size is not None:
            parts = max(1, round(collective.total(num_rows) / self.minibatch_size))
        for _ in range(self.num_epochs):
            order = torch.randperm(num_rows, generator=self.generator)
            kept = torch.rand(num_rows, generator=self.generator) < self.proportion
            pairs = zip(order.chunk(parts), kept.chunk(parts), strict=True)
            chosen = [rows[keep] for rows, keep in pairs]
            chosen += [order[:0]] * (parts - len(chosen))  # as many in every process
            counts = collective.sum(torch.tensor([len(rows) for rows in chosen])).tolist()
            for rows, count in zip(chosen, counts, strict=True):
                if count:
                    yield rows.to(device), len(rows) / count

    def _fitted_parameters(self) -> list[nn.Parameter]:
        return self.optimizer.param_groups[0]["params"]

    def get_extra_state(self) -> dict[str, Any]:
        """Return Adam's moments, by position of the parameter, and the generator's state."""
        moments = self.optimizer.state
        fitted = enumerate(self._fitted_parameters())
        return {
            "adam": {str(i): dict(moments[p]) for i, p in fitted if p in moments},
            "generator": self.generator.get_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        adam = state.get("adam", {})
        self.optimizer.state.clear()
        for i, parameter in enumerate(self._fitted_parameters()):
            if saved := adam.get(str(i)):
                moved = {name: value.to(parameter.device).clone() for name, value in saved.items()}
                self.optimizer.state[parameter] = moved
        self.generator.set_state(state["generator"].cpu())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fitter:
        super()._apply(fn, recurse)
        for moments in self.optimizer.state.values():  # Adam created them on the old device
            moments.update({name: fn(value) for name, value in moments.items()})
        return self
