"""Log-determinants: information gain of a set of measurements, in nats."""

from __future__ import annotations

import torch
from torch import Tensor

from firstlight.intrinsic.submodular.base import SetFunction
from firstlight.intrinsic.submodular.gaussian_process import Kernel

_START = 16


class LogDet(SetFunction):
    """``F(S) = ½ log det(I + K_S / noise²)``: information about a Gaussian process, in nats.

    An item is a point [dim], measured with normal noise. A repeated point is a second measurement
    and adds information.

    The gain of a point x is ``½ log(1 + v / noise²)``, v its variance given the measurements so
    far, from a Cholesky factor with one row per point: O(n²) for the n-th point of an episode, and
    n² numbers per environment. With a linear kernel and long episodes use `DDesign`.

    The released code of Submodular RL computes ``½ ln det(K + 1e-6 I)`` plus ``log2(1000)`` per
    point. This is the same with noise 1e-3, except that the constant should be ``ln(1000)``.

    Args:
        kernel: covariance, such as `Rbf` or `Matern`.
        dim: of a point.
        noise: standard deviation of a measurement, above 0.

    Raises:
        ValueError: for a `noise` or `dim` that is not above 0.
    """

    item_dtype = torch.float64
    points: Tensor
    factor: Tensor
    count: Tensor

    def __init__(self, kernel: Kernel, *, dim: int, noise: float = 1.0):
        super().__init__()
        if not (noise > 0 and dim > 0):
            raise ValueError(f"noise is {noise} and dim is {dim}, expected above 0")
        self.kernel, self.noise, self.item_shape = kernel, noise, (dim,)
        self.register_rows("points", (_START, dim))
        self.register_rows("factor", (_START, _START))
        self.register_rows("count", (), torch.int64)

    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """See `SetFunction.marginal`."""
        count = self.count[rows]  # [M]
        n = int(count.max()) if len(rows) else 0
        used = torch.arange(n) < count[:, None]  # [M, n]
        covariance = self.kernel(self.points[rows, :n], items[:, None])[..., 0] * used
        factor = self.factor[rows, :n, :n]
        factor = factor + torch.diag_embed((~used).double())
        row = torch.linalg.solve_triangular(factor, covariance[..., None], upper=False)[..., 0]
        prior = self.kernel(items[:, None], items[:, None])[:, 0, 0]
        variance = (prior - row.square().sum(1)).clamp(min=0)
        if write:
            if n == self.factor.shape[1]:
                self._grow_points()
            self.points[rows, count] = items
            self.factor[rows, count, :n] = row
            self.factor[rows, count, count] = (variance + self.noise**2).sqrt()
            self.count[rows] = count + 1
        return 0.5 * torch.log1p(variance / self.noise**2)

    def _grow_points(self) -> None:
        """Make room for twice as many points."""
        E, n, d = self.points.shape
        points, factor = self.points.new_zeros(E, 2 * n, d), self.factor.new_zeros(E, 2 * n, 2 * n)
        points[:, :n], factor[:, :n, :n] = self.points, self.factor
        self.points, self.factor = points, factor


class DDesign(SetFunction):
    """``F(S) = ½ log det(I + Φᵀ Φ / ridge)``, Φ the features of S in rows: Bayesian D-design.

    An item is a feature vector [dim]. This is `LogDet` with a linear kernel and ``noise² = ridge``,
    from an updated inverse (Sherman & Morrison 1950): O(dim²) for any length of the episode.

    Args:
        dim: of the features.
        ridge: above 0.

    Raises:
        ValueError: for a `ridge` or `dim` that is not above 0.

    >>> design = DDesign(2, ridge=1.0)
    >>> (2 * design.value([torch.eye(2)])).exp()
    tensor([4.], dtype=torch.float64)
    """

    item_dtype = torch.float64
    removed: Tensor

    def __init__(self, dim: int, *, ridge: float = 1.0):
        super().__init__()
        if not (ridge > 0 and dim > 0):
            raise ValueError(f"ridge is {ridge} and dim is {dim}, expected above 0")
        self.ridge, self.item_shape = ridge, (dim,)
        self.register_rows("removed", (dim, dim))  # (I - inverse of (I + Φᵀ Φ / ridge))

    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """See `SetFunction.marginal`."""
        x = items / self.ridge**0.5
        after = x - (self.removed[rows] @ x[..., None])[..., 0]  # inverse times x
        surprise = (x * after).sum(1).clamp(min=0)
        if write:
            outer = after[:, :, None] * after[:, None, :]
            self.removed[rows] += outer / (1 + surprise)[:, None, None]
        return 0.5 * torch.log1p(surprise)
