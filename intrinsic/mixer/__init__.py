"""The shared reward layer: every reward, the environment's and the modules', is joined here."""

from firstlight.intrinsic.mixer.combine import Combine, Heads, Stream, Streams, Sum
from firstlight.intrinsic.mixer.mixer import Part, RewardMixer, Rewards
from firstlight.intrinsic.mixer.schedules import Linear
from firstlight.intrinsic.mixer.terms import Budget, Schedule, Term, Transform

__all__ = [
    "Budget",
    "Combine",
    "Heads",
    "Linear",
    "Part",
    "RewardMixer",
    "Rewards",
    "Schedule",
    "Stream",
    "Streams",
    "Sum",
    "Term",
    "Transform",
]
