"""Environments that write observations into arrays given to them, such as rows of shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import gymnasium
import numpy as np

_TRANSPARENT = ("OrderEnforcing", "PassiveEnvChecker", "TimeLimit")  # `gymnasium.make` adds these


@runtime_checkable
class BufferedEnv(Protocol):
    """A Gymnasium environment that can write its observations into given arrays.

    `PoolVec` gives such an environment its rows of shared memory. An observation that is returned
    as these very arrays is not copied.
    """

    def set_buffers(self, views: Mapping[str, np.ndarray]) -> None:
        """Write observations into `views` from now on.

        Args:
            views: by name of the field in `VecEnv.obs_space`, arrays of its shape and dtype.
        """
        ...


def attach_buffers(env: gymnasium.Env, views: Mapping[str, np.ndarray]) -> bool:
    """Set `views` as the buffers of a `BufferedEnv`; do nothing for another environment.

    The environment may be under the wrappers of `gymnasium.make`. Under any other wrapper it is not
    looked for, because that wrapper may change what is written.

    Returns:
        Whether `env` took them.
    """
    # of the class: an instance check also finds methods that a wrapper only forwards
    while not issubclass(type(env), BufferedEnv) and type(env).__name__ in _TRANSPARENT:
        assert isinstance(env, gymnasium.Wrapper)
        env = env.env
    if not issubclass(type(env), BufferedEnv):
        return False
    assert isinstance(env, BufferedEnv)
    env.set_buffers(views)
    return True
