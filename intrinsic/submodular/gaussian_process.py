"""Gaussian processes: covariance functions, samples and posterior means over points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from firstlight.envs.seeding import generator

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Maps points [..., R, d] and [..., S, d] float64 to their covariances [..., R, S]."""

_JITTER = 1e-9


class Rbf:
    """Squared exponential covariance ``variance * exp(-r² / (2 * length_scale²))``.

    Args:
        length_scale: above 0.
        variance: above 0.
    """

    def __init__(self, length_scale: float = 1.0, variance: float = 1.0):
        self.length_scale, self.variance = _positive(length_scale, variance)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Kernel`."""
        return self.variance * (-0.5 * (_distance(a, b) / self.length_scale).square()).exp()


class Matern:
    """Matérn covariance of smoothness 1/2, 3/2 or 5/2 (Rasmussen & Williams 2006, §4.2).

    Args:
        length_scale: above 0.
        nu: 0.5, 1.5 or 2.5.
        variance: above 0.

    Raises:
        ValueError: for another `nu`.
    """

    def __init__(self, length_scale: float = 1.0, nu: float = 2.5, variance: float = 1.0):
        if nu not in (0.5, 1.5, 2.5):
            raise ValueError(f"nu is {nu}, expected 0.5, 1.5 or 2.5")
        self.length_scale, self.variance = _positive(length_scale, variance)
        self.nu = nu

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Kernel`."""
        r = math.sqrt(2 * self.nu) * _distance(a, b) / self.length_scale
        factor = torch.ones_like(r)
        if self.nu > 1:
            factor = 1 + r + (r.square() / 3 if self.nu > 2 else 0)
        return self.variance * factor * (-r).exp()


class LinearKernel:
    """Covariance ``variance * <a, b>`` of functions that are linear in the features.

    Args:
        variance: above 0.
    """

    def __init__(self, variance: float = 1.0):
        (self.variance,) = _positive(variance)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Kernel`."""
        return self.variance * a @ b.mT


def gp_sample(points: Sequence[Sequence[float]] | Tensor, kernel: Kernel, *, seed: int) -> Tensor:
    """Sample a Gaussian process at `points`, shifted so that the minimum is 0.

    As the weights of a `Coverage` this gives Gaussian-process-weighted coverage (Submodular RL,
    Prajapat et al. 2024).

    Args:
        points: [P, d].
        kernel: covariance.
        seed: of the sample.

    Returns:
        [P] float64, at least 0.
    """
    x = torch.as_tensor(points, dtype=torch.float64)
    covariance = kernel(x, x)
    scale = covariance.diagonal().mean()
    factor = torch.linalg.cholesky(covariance + _JITTER * scale * torch.eye(len(x)).double())
    noise = torch.randn(len(x), generator=generator(seed, "gp"), dtype=torch.float64)
    field = factor @ noise
    return field - field.min()


def gp_mean(
    points: Sequence[Sequence[float]] | Tensor,
    kernel: Kernel,
    *,
    seen: Sequence[Sequence[float]] | Tensor,
    values: Sequence[float] | Tensor,
    noise: float = 0.1,
) -> Tensor:
    """Posterior mean of a Gaussian process given measurements; negative values become 0.

    Args:
        points: [P, d], where to evaluate the mean.
        kernel: covariance.
        seen: [R, d], points of the measurements.
        values: [R], measured values.
        noise: standard deviation of a measurement.

    Returns:
        [P] float64, at least 0, for example as the weights of a `Coverage`.
    """
    x, at, y = (torch.as_tensor(v, dtype=torch.float64) for v in (points, seen, values))
    gram = kernel(at, at) + noise**2 * torch.eye(len(at), dtype=torch.float64)
    return (kernel(x, at) @ torch.linalg.solve(gram, y)).clamp(min=0)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [..., R, S]; from differences, so that equal points have distance 0."""
    return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1).sqrt()


def _positive(*values: float) -> tuple[float, ...]:
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"length scale and variance of a kernel are {values}, expected above 0")
    return values
