"""NetHack's bottom line as a sentence."""

from __future__ import annotations

import numpy as np
from nle import nethack

from firstlight.envs.nethack.tasks import DEPTH, EXPERIENCE, GOLD

_HP, _MAX_HP, _HUNGER = nethack.NLE_BL_HP, nethack.NLE_BL_HPMAX, nethack.NLE_BL_HUNGER
_HUNGERS = ("satiated", "not hungry", "hungry", "weak", "fainting", "fainted", "starved")


def describe_status(blstats: np.ndarray) -> str:
    """Describe depth, gold, health, experience and hunger, as Motif shows them to a judge.

    Args:
        blstats: [27] int64, the bottom line.

    >>> describe_status(np.array([0] * 10 + [12, 14, 3, 40, 0, 0, 0, 0, 2, 0, 0, 1] + [0] * 5))
    'depth 3, gold 40, HP 12 of 14, experience level 2, not hungry'
    """
    hunger = _HUNGERS[int(blstats[_HUNGER])] if 0 <= blstats[_HUNGER] < len(_HUNGERS) else "hungry"
    return (
        f"depth {blstats[DEPTH]}, gold {blstats[GOLD]}, HP {blstats[_HP]} of {blstats[_MAX_HP]}, "
        f"experience level {blstats[EXPERIENCE]}, {hunger}"
    )
