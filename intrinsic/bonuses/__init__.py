"""Novelty bonuses, one method to a file."""

from firstlight.intrinsic.bonuses.count import HashCount
from firstlight.intrinsic.bonuses.map_change import MapChange
from firstlight.intrinsic.bonuses.rnd import RND

__all__ = ["RND", "HashCount", "MapChange"]
