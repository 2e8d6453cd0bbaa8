"""The natural gradient: a step measured by how much it changes what a policy does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from firstlight.networks.distributions import Categorical, DiagGaussian, Distribution

_REACH = 1e-3  # of a finite difference, in norms of the parameters


def fisher_product(
    says: Callable[[], Distribution],
    parameters: Sequence[nn.Parameter],
    vector: Tensor,
    rows: Tensor,
) -> Tensor:
    """The Fisher matrix of a policy times a vector, ``Jᵀ M J v / B``, without the matrix.

    J is the Jacobian of the distribution's `params` over the `B` rows, and M the Fisher matrix of
    those: the probabilities for log-probabilities; 1 / variance and 2 for a normal's mean and log
    deviation. ``J v`` is a central difference of two forward passes, so that layers whose
    gradients have no gradient of their own will do; ``Jᵀ u`` is a backward pass.

    Args:
        says: the policy's distributions over all rows, as the parameters now are.
        parameters: with P numbers in all; as they were afterwards.
        vector: [P].
        rows: [...] bool, of which distributions count; `B` of them.

    Returns:
        [P]

    Raises:
        ValueError: for a distribution of which no Fisher matrix is known here.
    """
    here = [p.detach().clone() for p in parameters]
    size = torch.cat([p.flatten() for p in here]).norm().clamp(min=1.0)
    step = _REACH * size / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
    sides = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            _put(parameters, here, sign * step * vector)
            sides.append(says().params)
        for p, value in zip(parameters, here, strict=True):
            p.copy_(value)
    dist = says()
    metric = _metric(dist)
    moved = torch.where(metric > 0, metric * (sides[0] - sides[1]) / (2 * step), 0.0)
    moved = moved * rows[..., None] / rows.sum()
    parts = torch.autograd.grad(
        dist.params, list(parameters), moved, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


def natural_gradient(
    says: Callable[[], Distribution],
    parameters: Sequence[nn.Parameter],
    gradient: Tensor,
    *,
    rows: Tensor,
    damping: float = 0.1,
    steps: int = 10,
) -> Tensor:
    """Solve ``(F + damping I) x = gradient`` by conjugate gradients (Kakade 2001).

    Args:
        says: see `fisher_product`.
        parameters: of the policy.
        gradient: [P].
        rows: see `fisher_product`.
        damping: above 0; large, x is the gradient over `damping`.
        steps: of conjugate gradients, at most.

    Returns:
        [P]
    """
    x = torch.zeros_like(gradient)
    rest, way = gradient.clone(), gradient.clone()
    square = rest.dot(rest)
    for _ in range(steps):
        if float(square) <= 1e-12 * float(gradient.dot(gradient)):
            break
        product = fisher_product(says, parameters, way, rows) + damping * way
        along = square / way.dot(product)
        x, rest = x + along * way, rest - along * product
        square, before = rest.dot(rest), square
        way = rest + square / before * way
    return x


def _put(parameters: Sequence[nn.Parameter], here: Sequence[Tensor], shift: Tensor) -> None:
    """Set the parameters to where they were, moved by `shift` [P]."""
    sizes = [value.numel() for value in here]
    for p, value, part in zip(parameters, here, shift.split(sizes), strict=True):
        p.copy_(value + part.view_as(value))


def _metric(dist: Distribution) -> Tensor:
    """Diagonal [..., P] of the Fisher matrix of the distribution's own parameters."""
    params = dist.params.detach()
    if isinstance(dist, Categorical):
        return params.exp()
    if isinstance(dist, DiagGaussian):
        log_std = params.chunk(2, -1)[1]
        return torch.cat([(-2 * log_std).exp(), torch.full_like(log_std, 2.0)], -1)
    raise ValueError(f"no natural gradient for a {type(dist).__name__}")
