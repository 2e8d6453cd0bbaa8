"""The reward mixer: combines the environment's reward and all bonuses into reward streams."""

from firstlight.intrinsic.mixer.budgets import EpisodeCap, ShareCap
from firstlight.intrinsic.mixer.combine import (
    Combine,
    Heads,
    Joint,
    Stream,
    Streams,
    Sum,
)
from firstlight.intrinsic.mixer.combine_and import Krc, Product
from firstlight.intrinsic.mixer.combine_lagrangian import Lagrangian
from firstlight.intrinsic.mixer.mixer import RewardMixer
from firstlight.intrinsic.mixer.potentials import Delta, Potential
from firstlight.intrinsic.mixer.reduces import Blend, Pessimism, SoftMin
from firstlight.intrinsic.mixer.rewards import Component, Rewards
from firstlight.intrinsic.mixer.schedules import Exponential, Linear
from firstlight.intrinsic.mixer.terms import Budget, Reduce, Schedule, Term, Transform
from firstlight.intrinsic.mixer.thresholds import ThresholdSearch
from firstlight.intrinsic.mixer.transforms import (
    Chained,
    Clip,
    LogSigmoid,
    MinMax,
    ParSigmoid,
    ZScore,
)

__all__ = [
    "Blend",
    "Budget",
    "Chained",
    "Clip",
    "Combine",
    "Component",
    "Delta",
    "EpisodeCap",
    "Exponential",
    "Heads",
    "Joint",
    "Krc",
    "Lagrangian",
    "Linear",
    "LogSigmoid",
    "MinMax",
    "ParSigmoid",
    "Pessimism",
    "Potential",
    "Product",
    "Reduce",
    "RewardMixer",
    "Rewards",
    "Schedule",
    "ShareCap",
    "SoftMin",
    "Stream",
    "Streams",
    "Sum",
    "Term",
    "ThresholdSearch",
    "Transform",
    "ZScore",
]
