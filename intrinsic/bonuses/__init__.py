"""Bonuses, one method per file."""

from firstlight.intrinsic.bonuses.agac import AGAC
from firstlight.intrinsic.bonuses.count import HashCount
from firstlight.intrinsic.bonuses.deir import DEIR
from firstlight.intrinsic.bonuses.e3b import E3B
from firstlight.intrinsic.bonuses.etd import ETD
from firstlight.intrinsic.bonuses.map_change import MapChange
from firstlight.intrinsic.bonuses.ngu import NGU
from firstlight.intrinsic.bonuses.noveld import NovelD
from firstlight.intrinsic.bonuses.ride import RIDE
from firstlight.intrinsic.bonuses.rnd import RND
from firstlight.intrinsic.bonuses.submodular import Submodular

__all__ = [
    "AGAC",
    "DEIR",
    "E3B",
    "ETD",
    "NGU",
    "RIDE",
    "RND",
    "HashCount",
    "MapChange",
    "NovelD",
    "Submodular",
]
