"""A project of its own: a learner, an encoder and a reward module for firstlight."""

from myproject.bonus import Distance
from myproject.encoder import Gated
from myproject.learner import A2C

__all__ = ["A2C", "Distance", "Gated"]
