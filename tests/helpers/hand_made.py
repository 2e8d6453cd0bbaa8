"""Rollouts made by hand, for tests of reward modules."""

from collections.abc import Mapping

import torch
from torch import Tensor

from firstlight.envs.types import Obs, Rollout, check


def rollout(
    obs: Obs,
    *,
    info: Obs | None = None,
    is_first: Tensor | None = None,
    valid: Tensor | None = None,
    finals: Mapping[tuple[int, int], Obs] | None = None,
    env_ids: Tensor | None = None,
) -> Rollout:
    """Build a rollout with observations `obs` [T+1, N, ...].

    Args:
        obs: observations.
        info: info channels.
        is_first: [T+1, N] bool; default only the first row.
        valid: [T, N] bool; default all.
        finals: (t, n) to the true last observation of an episode that is truncated there.
        env_ids: [N]; default 0 to N-1.
    """
    T, N = next(iter(obs.values())).shape[:2]
    T -= 1
    finals = dict(sorted((finals or {}).items()))
    if is_first is None:
        is_first = torch.zeros(T + 1, N, dtype=torch.bool)
        is_first[0] = True
    truncated = torch.zeros(T, N, dtype=torch.bool)
    for t, n in finals:
        truncated[t, n] = is_first[t + 1, n] = True
    ends = list(finals.values())
    info = info or {}
    return check(
        Rollout(
            obs=obs,
            info=info,
            action=torch.zeros(T, N, dtype=torch.int64),
            log_prob=torch.zeros(T, N),
            value=torch.zeros(T + 1, N, 1),
            dist_params=None,
            reward=torch.zeros(T, N),
            terminated=torch.zeros(T, N, dtype=torch.bool),
            truncated=truncated,
            valid=torch.ones(T, N, dtype=torch.bool) if valid is None else valid,
            is_first=is_first,
            final_at=torch.tensor(list(finals), dtype=torch.int64).reshape(-1, 2),
            final_obs={
                k: torch.stack([e[k] for e in ends]) if ends else f[0, :0] for k, f in obs.items()
            },
            final_info={k: f[0, : len(ends)] for k, f in info.items()},
            final_state={},
            state={},
            env_ids=torch.arange(N) if env_ids is None else env_ids,
        )
    )


def random_rollout(
    numbers: torch.Generator, T: int, N: int, num_states: int, *, opens: float = 0.1
) -> Rollout:
    """Build a random walk over numbered states, with episode ends, resets and invalid rows."""

    def chance(p: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=numbers) < p

    states = torch.randint(num_states, (T + 1, N), generator=numbers)
    hidden = chance(opens / 2, T, N)
    finals = {
        (t, n): {"obs": torch.randint(num_states, (), generator=numbers)}
        for t, n in hidden.nonzero().tolist()
    }
    valid = ~chance(0.1, T, N) | hidden
    is_first = chance(opens / 2, T + 1, N)
    env_ids = torch.randperm(N + 3, generator=numbers)[:N]
    return rollout({"obs": states}, is_first=is_first, valid=valid, finals=finals, env_ids=env_ids)


def state_of(x: Tensor) -> Obs:
    """Observations with the key of a plain Box space."""
    return {"obs": x}


def noise(rollout: Rollout, seed: int = 0, low: float = 0.0) -> Tensor:
    """Uniform random bonuses [T, N] between `low` and 1."""
    numbers = torch.Generator().manual_seed(seed)
    return low + (1 - low) * torch.rand(rollout.reward.shape, generator=numbers)
