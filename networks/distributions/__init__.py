"""Action distributions, and what makes them from the outputs of a policy's last layer."""

from firstlight.networks.distributions.base import Distribution
from firstlight.networks.distributions.discrete import (
    Categorical,
    ComponentLayout,
    JointCategorical,
    MultiBernoulli,
    MultiCategorical,
)
from firstlight.networks.distributions.gaussian import DiagGaussian, SquashedGaussian
from firstlight.networks.distributions.heads import (
    LOG_STD_RANGE,
    MAX_COMBINATIONS,
    ActionHead,
    CategoricalHead,
    distribution_for,
)

__all__ = [
    "LOG_STD_RANGE",
    "MAX_COMBINATIONS",
    "ActionHead",
    "Categorical",
    "CategoricalHead",
    "ComponentLayout",
    "DiagGaussian",
    "Distribution",
    "JointCategorical",
    "MultiBernoulli",
    "MultiCategorical",
    "SquashedGaussian",
    "distribution_for",
]
