"""Our reward modules and mixer inside training loops of other libraries.

`RecordRollouts` and `IntrinsicRewards` are for loops over Gymnasium's vector environments. The
callback for Stable-Baselines3 is in `firstlight.agents.adapters.sb3`, which imports that library.
"""

from firstlight.agents.adapters.fields import field_spaces
from firstlight.agents.adapters.gym_vector import RecordRollouts
from firstlight.agents.adapters.intrinsic_rewards import IntrinsicRewards

__all__ = ["IntrinsicRewards", "RecordRollouts", "field_spaces"]
