"""Set functions whose marginal gains are rewards (Submodular RL, Prajapat et al. 2024)."""

from firstlight.envs.minigrid.seen_cells import SeenCells
from firstlight.intrinsic.submodular.base import SetFunction
from firstlight.intrinsic.submodular.bounds import Greedy, best_set, best_walk, greedy, greedy_walk
from firstlight.intrinsic.submodular.callable_set_function import CallableSetFunction
from firstlight.intrinsic.submodular.check import check_set_function
from firstlight.intrinsic.submodular.collection import Collection
from firstlight.intrinsic.submodular.coverage import Coverage, disc, line_of_sight
from firstlight.intrinsic.submodular.entropy import RegionEntropy
from firstlight.intrinsic.submodular.facility import FacilityLocation
from firstlight.intrinsic.submodular.gaussian_process import (
    LinearKernel,
    Matern,
    Rbf,
    gp_mean,
    gp_sample,
)
from firstlight.intrinsic.submodular.items import (
    Binned,
    ExploredTiles,
    Field,
    Items,
)
from firstlight.intrinsic.submodular.logdet import DDesign, LogDet

__all__ = [
    "Binned",
    "CallableSetFunction",
    "Collection",
    "Coverage",
    "DDesign",
    "ExploredTiles",
    "FacilityLocation",
    "Field",
    "Greedy",
    "Items",
    "LinearKernel",
    "LogDet",
    "Matern",
    "Rbf",
    "RegionEntropy",
    "SeenCells",
    "SetFunction",
    "best_set",
    "best_walk",
    "check_set_function",
    "disc",
    "gp_mean",
    "gp_sample",
    "greedy",
    "greedy_walk",
    "line_of_sight",
]
