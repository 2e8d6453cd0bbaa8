"""Auxiliaries: what a learner does beside its algorithm, see `firstlight.agents.learner`."""

from firstlight.agents.auxiliaries.group import Auxiliaries
from firstlight.agents.auxiliaries.lucy import RewardPrediction, StateReconstruction
from firstlight.agents.auxiliaries.rapid import Rapid

__all__ = ["Auxiliaries", "Rapid", "RewardPrediction", "StateReconstruction"]
