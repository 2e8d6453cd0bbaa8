"""Bonuses, one method per file."""

from firstlight.intrinsic.bonuses.count import HashCount
from firstlight.intrinsic.bonuses.map_change import MapChange
from firstlight.intrinsic.bonuses.rnd import RND
from firstlight.intrinsic.bonuses.submodular import Submodular

__all__ = ["RND", "HashCount", "MapChange", "Submodular"]
