"""Adam with gradients clipped by their norm; on the CPU in one pass over each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor, nn


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
        gradients = [p.grad.contiguous().view(-1) for p in used]  # type: ignore[union-attr]
        norm = math.sqrt(sum(torch.dot(gradient, gradient).item() for gradient in gradients))
        if not math.isfinite(norm):
            self.zero_grad()
            return torch.tensor(norm)
        factor = min(1.0, max_norm / (norm + 1e-6))
        beta1, beta2 = group["betas"]
        for parameter, gradient in zip(used, gradients, strict=True):
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
            _step(
                parameter.view(-1).numpy(),
                gradient.numpy(),
                state["exp_avg"].view(-1).numpy(),
                state["exp_avg_sq"].view(-1).numpy(),
                factor,
                beta1,
                beta2,
                group["lr"],
                group["eps"],
                state["step"].item(),
            )
        self.zero_grad()
        return torch.tensor(norm)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _step(parameter, gradient, mean, square, factor, beta1, beta2, lr, eps, step):
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
