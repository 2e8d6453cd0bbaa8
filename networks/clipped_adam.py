"""Adam with gradients clipped by their norm; on the CPU in one pass over each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

_Arrays = tuple[np.ndarray, ...]


class ClippedAdam(torch.optim.Adam):
    """Adam (Kingma & Ba 2015) whose `clipped_step` clips the norm of the gradient first.

    The state is that of `torch.optim.Adam`.

    Args:
        parameters: to optimise.
        lr: learning rate.
        eps: term added to the denominator.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, eps: float = 1e-5):
        super().__init__(parameters, lr=lr, eps=eps, fused=True)
        self._kept: dict[nn.Parameter, tuple[int, Tensor, _Arrays]] = {}

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return self.param_groups[0]["params"]  # attributes of our own would not survive a copy

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None, without the hooks of torch, which take most of its time."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def clipped_step(self, max_norm: float) -> Tensor:
        """Clip the norm of all gradients at `max_norm`, and step; gradients are None afterwards.

        Args:
            max_norm: of the gradients of all parameters together; infinity does not clip.

        Returns:
            The norm [] before it was clipped. If it is not finite, no step was made.
        """
        used = [p for p in self._parameters if p.grad is not None]
        if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in used):
            total = nn.utils.clip_grad_norm_(self._parameters, max_norm)
            # torch's fused step looks for this, as set by `torch.amp.GradScaler`
            self.found_inf = (~torch.isfinite(total)).float()
            self.step()
            self.zero_grad()
            return total
        group = self.param_groups[0]
        gradients = [p.grad.numpy().ravel() for p in used]  # type: ignore[union-attr]
        arrays = [self._arrays_of(p) for p in used]
        norm = math.sqrt(sum(_square(gradient) for gradient in gradients))
        if not math.isfinite(norm):
            self.zero_grad()
            return torch.tensor(norm)
        factor = min(1.0, max_norm / (norm + 1e-6))
        (beta1, beta2), rate, eps = group["betas"], group["lr"], group["eps"]
        for gradient, (values, mean, square, step) in zip(gradients, arrays, strict=True):
            step += 1  # in place, in the state as well
            _step(gradient, values, mean, square, factor, beta1, beta2, rate, eps, float(step))
        self.zero_grad()
        return torch.tensor(norm)

    def _arrays_of(self, parameter: nn.Parameter) -> _Arrays:
        """Return a parameter, its moments and its number of steps as arrays on the same memory.

        Making them takes longer than a step of a small parameter, so they are kept for as long as
        the memory is the same.
        """
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter)
        kept = self._kept.get(parameter)
        if kept is None or kept[0] != parameter.data_ptr() or kept[1] is not state["exp_avg"]:
            moments = _flat(state["exp_avg"]), _flat(state["exp_avg_sq"])
            arrays = _flat(parameter), *moments, state["step"].numpy()
            self._kept[parameter] = kept = parameter.data_ptr(), state["exp_avg"], arrays
        return kept[2]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which keeps no arrays of the original."""
        super().__setstate__(state)
        self._kept = {}


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().view(-1).numpy()  # an error, not a copy, for a strided tensor


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def _square(numbers):
    """Return the sum of squares of a flat float32 array; numpy's product would start threads."""
    total = np.float64(0.0)
    for start in range(0, len(numbers), 1024):
        part = np.float32(0.0)
        for i in range(start, min(start + 1024, len(numbers))):
            part += numbers[i] * numbers[i]
        total += np.float64(part)
    return total


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _step(gradient, parameter, mean, square, factor, beta1, beta2, lr, eps, step):
    """Make a step of Adam in place, on flat float32 arrays; the gradient is times `factor`."""
    scale, keep1, keep2 = np.float32(factor), np.float32(beta1), np.float32(beta2)
    add1, add2, small = np.float32(1 - beta1), np.float32(1 - beta2), np.float32(eps)
    rate = np.float32(lr / (1 - beta1**step))
    correct = np.float32(1 / math.sqrt(1 - beta2**step))
    for i in range(len(parameter)):
        g = gradient[i] * scale
        m = keep1 * mean[i] + add1 * g
        v = keep2 * square[i] + add2 * g * g
        mean[i], square[i] = m, v
        parameter[i] -= rate * m / (np.sqrt(v) * correct + small)
