"""Auxiliaries: additional losses of a learner, see `firstlight.agents.learner`."""

from firstlight.agents.algorithms.auxiliaries.adversary import Adversary
from firstlight.agents.algorithms.auxiliaries.auxiliary_group import Auxiliaries
from firstlight.agents.algorithms.auxiliaries.lucy import RewardPrediction, StateReconstruction
from firstlight.agents.algorithms.auxiliaries.rapid import Rapid

__all__ = ["Adversary", "Auxiliaries", "Rapid", "RewardPrediction", "StateReconstruction"]
