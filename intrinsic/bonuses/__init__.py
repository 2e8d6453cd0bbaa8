"""Bonuses, one method per file."""

from firstlight.intrinsic.bonuses.agac import AGAC
from firstlight.intrinsic.bonuses.count import HashCount
from firstlight.intrinsic.bonuses.deir import DEIR
from firstlight.intrinsic.bonuses.disagreement import Disagreement
from firstlight.intrinsic.bonuses.drnd import DRND
from firstlight.intrinsic.bonuses.e3b import E3B
from firstlight.intrinsic.bonuses.etd import ETD
from firstlight.intrinsic.bonuses.icm import ICM
from firstlight.intrinsic.bonuses.map_change import MapChange
from firstlight.intrinsic.bonuses.ngu import NGU
from firstlight.intrinsic.bonuses.noveld import NovelD
from firstlight.intrinsic.bonuses.pseudo_counts import PseudoCounts
from firstlight.intrinsic.bonuses.re3 import RE3
from firstlight.intrinsic.bonuses.ride import RIDE
from firstlight.intrinsic.bonuses.rnd import RND
from firstlight.intrinsic.bonuses.submodular import Submodular

__all__ = [
    "AGAC",
    "DEIR",
    "DRND",
    "E3B",
    "ETD",
    "ICM",
    "NGU",
    "RE3",
    "RIDE",
    "RND",
    "Disagreement",
    "HashCount",
    "MapChange",
    "NovelD",
    "PseudoCounts",
    "Submodular",
]
