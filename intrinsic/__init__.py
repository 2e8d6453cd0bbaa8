"""Intrinsic rewards: the reward modules, and the mixer that combines all rewards."""

if __name__ != "firstlight.intrinsic":
    raise ImportError(
        f"{__name__!r} is a folder of the firstlight repository, not a package of its own: "
        "import it as 'firstlight.intrinsic'."
    )

from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.behaviour.behaviour_novelty import BehaviourNovelty
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
from firstlight.intrinsic.check import check_module
from firstlight.intrinsic.design.program_reward import ProgramReward
from firstlight.intrinsic.language.ellm.ellm import ELLM
from firstlight.intrinsic.language.motif import Motif
from firstlight.intrinsic.language.oni import ONI
from firstlight.intrinsic.mixer import (
    Exponential,
    Heads,
    Linear,
    RewardMixer,
    Rewards,
    Streams,
    Sum,
    Term,
)
from firstlight.intrinsic.norm import RecentScale, ReturnScale, RewardScale
from firstlight.intrinsic.subgoals.amigo import AMIGo
from firstlight.intrinsic.subgoals.beacons import Beacons
from firstlight.intrinsic.subgoals.calm import CALM
from firstlight.intrinsic.subgoals.lamigo import LAMIGo

__all__ = [
    "AGAC",
    "CALM",
    "DEIR",
    "DRND",
    "E3B",
    "ELLM",
    "ETD",
    "ICM",
    "NGU",
    "ONI",
    "RE3",
    "RIDE",
    "RND",
    "AMIGo",
    "Beacons",
    "BehaviourNovelty",
    "Disagreement",
    "Exponential",
    "HashCount",
    "Heads",
    "IntrinsicModule",
    "LAMIGo",
    "Linear",
    "MapChange",
    "Motif",
    "NovelD",
    "ProgramReward",
    "PseudoCounts",
    "RecentScale",
    "ReturnScale",
    "RewardMixer",
    "RewardScale",
    "Rewards",
    "Streams",
    "Submodular",
    "Sum",
    "Term",
    "check_module",
]
