"""Natural gradients of a policy, by conjugate gradients on Fisher-vector products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from firstlight.networks.distributions import Distribution

_RELATIVE_STEP = 1e-3  # of the finite difference, in norms of the parameters


def fisher_product(
    distribution: Callable[[], Distribution],
    parameters: Sequence[nn.Parameter],
    vector: Tensor,
    rows: Tensor,
) -> Tensor:
    """Multiply the Fisher matrix of a policy by a vector, ``Jᵀ M J v / B``, without forming it.

    J is the Jacobian of the distribution's `params` over the `B` rows, and M the Fisher matrix of
    those, see `Distribution.fisher_diagonal`: the probabilities for log-probabilities; 1 / variance
    and 2 for a normal's mean and log standard deviation. ``J v`` is a central difference of two
    forward passes, so layers without second derivatives work too; ``Jᵀ u`` is a backward pass.

    Args:
        distribution: computes the policy's distributions over all rows with its current parameters.
        parameters: P numbers in all; changed during the call and restored.
        vector: [P].
        rows: [...] bool, which of the distributions count; `B` of them.

    Returns:
        [P]

    Raises:
        ValueError: for a distribution without a `fisher_diagonal`.
    """
    values = [p.detach().clone() for p in parameters]
    size = torch.cat([p.flatten() for p in values]).norm().clamp(min=1.0)
    step = _RELATIVE_STEP * size / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
    sides = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            _shift(parameters, values, sign * step * vector)
            sides.append(distribution().params)
        for p, value in zip(parameters, values, strict=True):
            p.copy_(value)
    dist = distribution()
    metric = dist.fisher_diagonal()
    weighted = torch.where(metric > 0, metric * (sides[0] - sides[1]) / (2 * step), 0.0)
    weighted = weighted * rows[..., None] / rows.sum()
    parts = torch.autograd.grad(
        dist.params, list(parameters), weighted, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


def natural_gradient(
    distribution: Callable[[], Distribution],
    parameters: Sequence[nn.Parameter],
    gradient: Tensor,
    *,
    rows: Tensor,
    damping: float = 0.1,
    steps: int = 10,
) -> Tensor:
    """Solve ``(F + damping I) x = gradient`` by conjugate gradients (Kakade 2001).

    Args:
        distribution: see `fisher_product`.
        parameters: of the policy.
        gradient: [P].
        rows: see `fisher_product`.
        damping: above 0; for large values x approaches ``gradient / damping``.
        steps: maximum number of conjugate gradient steps.

    Returns:
        [P]
    """
    x = torch.zeros_like(gradient)
    residual, direction = gradient.clone(), gradient.clone()
    square = residual.dot(residual)
    for _ in range(steps):
        if float(square) <= 1e-12 * float(gradient.dot(gradient)):
            break
        product = fisher_product(distribution, parameters, direction, rows) + damping * direction
        length = square / direction.dot(product)
        x, residual = x + length * direction, residual - length * product
        square, before = residual.dot(residual), square
        direction = residual + square / before * direction
    return x


def _shift(parameters: Sequence[nn.Parameter], values: Sequence[Tensor], shift: Tensor) -> None:
    """Set the parameters to `values` plus `shift` [P]."""
    sizes = [value.numel() for value in values]
    for p, value, part in zip(parameters, values, shift.split(sizes), strict=True):
        p.copy_(value + part.view_as(value))
