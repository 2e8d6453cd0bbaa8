"""What a reward module keeps to itself: random numbers, an optimiser, buffers that grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.envs.finite import NonFiniteError
from firstlight.envs.seeding import generator


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Inside, torch's CPU numbers follow from `seed`; afterwards they go on as if nothing had been.

    For making networks: a run with a module at weight 0 must equal a run without the module.

    >>> with isolated_rng(0):
    ...     net = nn.Linear(3, 2)
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


class GrowingBuffers(nn.Module):
    """A module whose buffers grow with experience: `load_state_dict` takes them in any size.

    Attributes:
        on_host: keep the buffers on the CPU wherever `to` sends the rest of the module.
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
    """Adam over shuffled minibatches; its moments and its random numbers are in `state_dict`.

    A module that holds one, saved and loaded, takes the very next step that it would have taken.

    Args:
        parameters: what is fitted; owned, saved and moved by whoever passes them.
        lr: Adam's step size.
        num_epochs: passes over the rows, each in a fresh order.
        num_minibatches: parts that a pass is cut into, one step each.
        proportion: chance of a row to count in a pass (Burda et al. 2018 mask the loss so).
        seed: of the order and the choice of rows.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float = 1e-4,
        num_epochs: int = 1,
        num_minibatches: int = 1,
        proportion: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        self.num_epochs, self.num_minibatches = num_epochs, num_minibatches
        self.proportion = proportion
        self.optimizer = torch.optim.Adam(list(parameters), lr=lr, fused=True)
        self.generator = generator(seed, "fitter")

    def fit(self, num_rows: int, loss: Callable[[Tensor], Tensor]) -> float:
        """Take ``num_epochs * num_minibatches`` steps down `loss`.

        Args:
            num_rows: rows to learn from; with none, no step is taken.
            loss: row numbers [B] int64 to their mean loss [].

        Returns:
            Mean loss over the steps.

        Raises:
            NonFiniteError: for a loss or a gradient that is not finite; that step is not taken.
        """
        losses = []
        with torch.enable_grad():
            for rows in self._minibatches(num_rows):
                value = loss(rows)
                if not bool(torch.isfinite(value)):
                    raise NonFiniteError(f"the loss of a reward module is {value.item()}")
                self.optimizer.zero_grad()
                value.backward()
                gradients = [p.grad for p in self._parameters_fitted() if p.grad is not None]
                if not bool(torch.isfinite(nn.utils.get_total_norm(gradients))):
                    raise NonFiniteError("the gradient of a reward module is not finite")
                self.optimizer.step()
                losses.append(value.detach())
        return torch.stack(losses).mean().item() if losses else 0.0

    def _minibatches(self, num_rows: int) -> Iterator[Tensor]:
        device = self._parameters_fitted()[0].device
        for _ in range(self.num_epochs):
            order = torch.randperm(num_rows, generator=self.generator)
            kept = torch.rand(num_rows, generator=self.generator) < self.proportion
            for rows, keep in zip(
                order.chunk(self.num_minibatches), kept.chunk(self.num_minibatches), strict=True
            ):
                if keep.any():
                    yield rows[keep].to(device)

    def _parameters_fitted(self) -> list[nn.Parameter]:
        return self.optimizer.param_groups[0]["params"]

    def get_extra_state(self) -> dict[str, Any]:
        """Adam's moments, by position of the parameter, and the state of the generator."""
        moments = self.optimizer.state
        fitted = enumerate(self._parameters_fitted())
        return {
            "adam": {str(i): dict(moments[p]) for i, p in fitted if p in moments},
            "generator": self.generator.get_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Undo `get_extra_state`."""
        adam = state.get("adam", {})
        self.optimizer.state.clear()
        for i, parameter in enumerate(self._parameters_fitted()):
            if saved := adam.get(str(i)):
                moved = {name: value.to(parameter.device).clone() for name, value in saved.items()}
                self.optimizer.state[parameter] = moved
        self.generator.set_state(state["generator"].cpu())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fitter:
        super()._apply(fn, recurse)
        for moments in self.optimizer.state.values():  # Adam made them where the parameters were
            moments.update({name: fn(value) for name, value in moments.items()})
        return self
