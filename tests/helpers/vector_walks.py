"""Random walks over states that look like vectors, for tests of bonuses with an embedding."""

import copy
import dataclasses
from collections.abc import Sequence

import hand_made
import numpy as np
import torch
from gymnasium import spaces

from firstlight.envs.types import Rollout, map_obs
from firstlight.intrinsic.base import IntrinsicModule

SIZE, NUM_STATES = 5, 12
OBS_SPACE = spaces.Dict({"obs": spaces.Box(-9, 9, (SIZE,), np.float32)})
ACT_SPACE = spaces.Discrete(3)
TABLE = torch.randn(NUM_STATES, SIZE, generator=torch.Generator().manual_seed(7))


def rollouts(number: int = 3, *, T: int = 16, N: int = 4, opens: float = 0.2) -> list[Rollout]:
    """Make random walks with hidden ends, openings, rows that are not valid and moved columns."""
    numbers = torch.Generator().manual_seed(0)
    out = []
    for _ in range(number):
        numbered = hand_made.random_rollout(numbers, T, N, NUM_STATES, opens=opens)
        action = torch.randint(int(ACT_SPACE.n), (T, N), generator=numbers)
        out.append(with_vectors(numbered, action))
    return out


def with_vectors(numbered: Rollout, action: torch.Tensor | None = None) -> Rollout:
    """Replace numbers of states by their vectors."""
    return dataclasses.replace(
        numbered,
        obs=map_obs(lambda field: TABLE[field], numbered.obs),
        final_obs=map_obs(lambda field: TABLE[field], numbered.final_obs),
        action=numbered.action if action is None else action,
    )


def walk(*states: int, is_first: Sequence[int] | None = None) -> Rollout:
    """Make one environment's walk through numbered states."""
    first = None if is_first is None else torch.tensor(is_first).bool()[:, None]
    return with_vectors(hand_made.rollout({"obs": torch.tensor(states)[:, None]}, is_first=first))


def check_saved(kept: IntrinsicModule, loaded: IntrinsicModule) -> None:
    """Check that a module of another seed gives what the one gives whose state it loads."""
    one, two, three = rollouts()
    kept.warmup(three)
    kept.compute(one)
    kept.update(one)
    loaded.load_state_dict(copy.deepcopy(kept.state_dict()))
    for rollout in (two, three):
        assert torch.equal(kept.compute(rollout), loaded.compute(rollout))
        assert kept.update(rollout) == loaded.update(rollout)
