"""Set functions of the tasks of Submodular RL (Prajapat et al. 2024), for `Walks` and `Race`.

Constants of the walks are those of the authors' released configuration. Their stored random draws
(the fields, the places of the items) are drawn or laid out again here, so returns are comparable to
theirs in kind, but not in number. Cells are numbered ``x * height + y``; the start is cell 34.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from firstlight.envs.worlds.race import CELL
from firstlight.intrinsic.submodular.collection import Collection
from firstlight.intrinsic.submodular.coverage import Coverage
from firstlight.intrinsic.submodular.facility import FacilityLocation
from firstlight.intrinsic.submodular.gaussian_process import Matern, Rbf, gp_mean, gp_sample
from firstlight.intrinsic.submodular.logdet import LogDet

TWO_ROOMS = (
    *("....######....",) * 2,
    *("..............",) * 2,
    *("....######....",) * 3,
)
"""Two rooms and the passage between them, where walks begin: a `plan` of `Walks`."""

ITEM_COUNTS = (18, 14, 13, 16, 18, 14)
ITEM_LIMITS = (3, 2, 3, 4, 6, 3)

_NESTS = ((6, 13), (8, 17), (10, 15), (7, 20), (21, 9), (23, 12), (25, 8), (16, 13))
_NESTED = (0.8, 1.0, 0.7, 0.6, 0.9, 1.0, 0.6, 0.3)
_NO_NESTS = ((0, 27), (14, 2), (29, 0), (29, 29), (16, 26), (29, 18))


def uniform_coverage(width: int = 30, height: int = 30) -> Coverage:
    """Number of cells that a walk has sensed, a `block` from each cell. The paper's H is 80."""
    return Coverage(width * height, senses=block(width, height))


def gp_coverage(
    seed: int = 0, width: int = 30, height: int = 30, length_scale: float = 10.0
) -> Coverage:
    """Coverage weighted with a draw of a Gaussian process, Matérn 5/2.

    Args:
        seed: of the draw; the paper has ten environments.
        width: of the grid.
        height: of the grid.
        length_scale: in cells; the paper's is 1, and its cells are 0.1 apart.
    """
    weights = gp_sample(places(width, height), Matern(length_scale, nu=2.5), seed=seed)
    return Coverage(width * height, weights=weights, senses=block(width, height))


def gorilla_coverage(length_scale: float = 5.0) -> Coverage:
    """Coverage weighted with where animals nest, on 30 x 30 cells.

    A stand-in: the paper interpolates counts of gorillas' nests, which we do not have. This field
    is inferred from made-up ones, two nesting grounds, the better one farther from the start.

    Args:
        length_scale: of the Gaussian process that infers it, in cells.
    """
    seen, values = (*_NESTS, *_NO_NESTS), (*_NESTED, *[0.0] * len(_NO_NESTS))
    weights = gp_mean(places(30, 30), Rbf(length_scale), seen=seen, values=values)
    return Coverage(900, weights=weights, senses=block(30, 30))


def bimodal_coverage(width: int = 30, height: int = 30) -> Coverage:
    """Coverage weighted with the logistic of x y, each from -1 to 1: two good corners of four."""
    x, y = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (width, height))
    weights = torch.sigmoid(torch.outer(x, y)).flatten()
    return Coverage(width * height, weights=weights, senses=block(width, height))


def d_design(length_scale: float = 10.0, noise: float = 1e-3) -> LogDet:
    """Information of measurements along a walk about a Gaussian process, Matérn 5/2.

    Its items are positions, x and y; each step is a measurement, also of a cell measured before.

    Args:
        length_scale: in cells; the paper's is 1, and its cells are 0.1 apart.
        noise: standard deviation of a measurement.
    """
    return LogDet(Matern(length_scale, nu=2.5), dim=2, noise=noise)


def item_collection(limits: Sequence[float] = ITEM_LIMITS) -> Collection:
    """Number of items collected of six kinds, each up to a limit, in patches on 7 x 15 cells.

    Numbers of items and limits are the authors'; the patches are ours, three in a row on each side.

    Args:
        limits: one for each kind.
    """
    at, taken = places(7, 15), torch.zeros(105, dtype=torch.bool)
    groups = torch.zeros(len(ITEM_COUNTS), 105, dtype=torch.float64)
    for group, count in enumerate(ITEM_COUNTS):
        centre = at.new_tensor([(1, 5)[group % 2], (1, 7, 13)[group // 2]])
        distance = (at - centre).square().sum(1).masked_fill(taken, torch.inf)
        nearest = distance.argsort(stable=True)[:count]
        groups[group, nearest], taken[nearest] = 1, True
    return Collection(groups, list(limits))


def steiner() -> Collection:
    """Group Steiner tour: one item of each kind of `item_collection`."""
    return item_collection([1.0] * len(ITEM_COUNTS))


def two_rooms(plan: Sequence[str] = TWO_ROOMS) -> Coverage:
    """Number of free cells of a building that a walk has sensed, by `block`.

    Args:
        plan: as of `Walks`.
    """
    walls = torch.tensor([[character == "#" for character in row] for row in plan])
    senses = block(*walls.shape)
    hidden = walls.flatten()[senses.clamp(min=0)]
    return Coverage(walls.numel(), senses=senses.masked_fill(hidden, -1))


def ant() -> Coverage:
    """Number of cells of 100 x 100 that an ant has painted, 5 x 5 around each place."""
    return Coverage(10_000, senses=block(100, 100, -2, 2))


def race(finish: float = 16.4) -> FacilityLocation:
    """Set function of the race: the farthest progress of a car, in metres; items are `progress`.

    Facility location with one client, so that a gain is the progress beyond the farthest so far;
    a single place has its s as value, as in the released code.

    Args:
        finish: that of the race, in metres.
    """
    cells = torch.arange(math.ceil(finish / CELL), dtype=torch.float64)
    return FacilityLocation(CELL * cells[None])


def block(width: int, height: int, low: int = 0, high: int = 1) -> Tensor:
    """Cells sensed from each cell: by default itself, the next in x, in y, and in both.

    Args:
        width: of the grid.
        height: of the grid.
        low: the first cell sensed, in x and in y, counted from the cell itself.
        high: the last one.

    Returns:
        [width * height, (high - low + 1)^2] int64, -1 where there is none.
    """
    at, reach = places(width, height).long(), torch.arange(low, high + 1)
    cells = at[:, None] + torch.cartesian_prod(reach, reach)
    inside = ((cells >= 0) & (cells < torch.tensor([width, height]))).all(-1)
    return torch.where(inside, cells[..., 0] * height + cells[..., 1], -1)


def places(width: int, height: int) -> Tensor:
    """The x and y of each cell [width * height, 2] float64."""
    x, y = torch.arange(width).double(), torch.arange(height).double()
    return torch.cartesian_prod(x, y)
