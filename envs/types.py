"""Shape and dtype law of firstlight, and the data classes `Step`, `Snapshot` and `Rollout`.

Everything is time-major. Axis letters, used in every docstring of the project:

=====  =====================================================================
``T``  steps in a rollout
``N``  environments
``K``  reward streams (value heads)
``A``  size of a continuous action of one axis; any action has the shape of its space
``D``  episode ends inside a rollout whose last observation autoreset hid
``P``  parameters of an action distribution
=====  =====================================================================

Observations keep the dtype of the environment (``uint8``, ``int64`` for Discrete, ``float32``)
until an encoder casts them. Rewards, values and log-probabilities are ``float32``, flags are
``bool``, discrete actions are ``int64``. There are no trailing axes of size one. `obs`, `reward`
(the environment's), `bonus` (a module's), `value`, `advantage`, `terminated` and `truncated` mean
the same everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Obs = dict[str, Tensor]
"""Named fields, each [..., *field]. A plain Box is ``{"obs": ...}``; "action_mask" is reserved."""

State = dict[str, Tensor]
"""Recurrent state of a policy, each [N, ...]; empty for a feed-forward policy."""

_NO_IDS = torch.zeros(0, dtype=torch.int64)


def map_obs(function: Callable[[Tensor], Tensor], obs: Mapping[str, Tensor]) -> Obs:
    """Apply `function` to every field."""
    return {name: function(field) for name, field in obs.items()}


def take(obs: Mapping[str, Tensor], rows: Tensor, dim: int = 0) -> Obs:
    """Select `rows` [*] int64 of every field along axis `dim`."""
    return {name: field.index_select(dim, rows) for name, field in obs.items()}


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one step of a vector environment.

    Args:
        obs: [N, ...] what the policy sees next.
        info: [N, ...] side channels for reward modules, never for policies.
        reward: [N] the environment's reward, untouched.
        terminated: [N] bool, the episode reached a terminal state.
        truncated: [N] bool, the episode was cut off, for example by a time limit.
        valid: [N] bool, False where the environment only reset itself (next-step autoreset).
        is_first: [N] bool, `obs` is the first observation of an episode.
        final_ids: [D] int64, environments whose last observation is in `final_obs`, not in `obs`.
        final_obs: [D, ...] those last observations.
        final_info: [D, ...] their side channels.
        crashed_ids: [C] int64, environments whose episode was lost because they raised or their
            process died: this row is not `valid`, `obs` is the first of a new episode, and the row
            before counts as truncated.
    """

    obs: Obs
    info: Obs
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    is_first: Tensor
    final_ids: Tensor
    final_obs: Obs
    final_info: Obs
    crashed_ids: Tensor = _NO_IDS


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of one environment, for `VecEnv.restore`: saved arrays, or a seed and actions since.

    Args:
        seed: seed of the reset that opened the episode, for environments restored by replay.
        actions: [L, ...] actions taken since then, as the environment got them.
        digest: checksum of all that the environment returned since then; a replay must match it.
        arrays: state of one environment, for environments that save arrays.
    """

    seed: int | None = None
    actions: Tensor | None = None
    digest: int | None = None
    arrays: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """`T` steps of `N` environments under one policy, with the environment's reward untouched.

    Termination, truncation and autoreset are data here: a step whose episode ended has `terminated`
    or `truncated`; where autoreset replaced the last observation, the original is in `final_obs`;
    where the environment used a call to reset itself, the row is not `valid`, and every loss, mean,
    normaliser and memory must skip it.

    Args:
        obs: [T+1, N, ...] ``obs[t+1]`` is what the policy saw after step t.
        info: [T+1, N, ...] side channels for reward modules (position, success, ...).
        action: [T, N, *action] int64 for discrete spaces, float32 for a Box.
        log_prob: [T, N] under the policy that acted.
        value: [T+1, N, K] as predicted when acting; row T bootstraps.
        dist_params: [T, N, P] parameters of the action distribution; None unless requested.
        reward: [T, N] the environment's.
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        valid: [T, N] bool.
        is_first: [T+1, N] bool, ``obs[t]`` is the first observation of an episode.
        final_at: [D, 2] int64, (t, n) of each end whose last observation is in `final_obs`.
        final_obs: [D, ...].
        final_info: [D, ...].
        final_state: [D, ...] recurrent state before `final_obs`.
        state: [N, ...] recurrent state before ``obs[0]``.
        env_ids: [N] int64, the environment of each column; the key of per-environment memories.
        version: version of the policy that acted.
        lag: by how many versions the policy that learns is newer, an int or [N] int64 of each
            column; set by the trainer.
        crashed: [T, N] bool, rows that count as truncated only because their environment crashed
            after them (episode statistics leave those out); None if none did.
        states: [T, N, ...] recurrent state before each step, cleared nowhere; None unless
            requested.
    """

    obs: Obs
    info: Obs
    action: Tensor
    log_prob: Tensor
    value: Tensor
    dist_params: Tensor | None
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    is_first: Tensor
    final_at: Tensor
    final_obs: Obs
    final_info: Obs
    final_state: State
    state: State
    env_ids: Tensor
    version: int = 0
    crashed: Tensor | None = None
    states: State | None = None
    lag: int | Tensor = 0

    @property
    def num_steps(self) -> int:
        """`T`."""
        return self.reward.shape[0]

    @property
    def num_envs(self) -> int:
        """`N`."""
        return self.reward.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.reward.device

    def to(self, device: torch.device | str) -> Rollout:
        """Move to `device`; returns the rollout itself if it is there already."""
        if torch.device(device) == self.device:
            return self

        def move(value):
            if isinstance(value, dict):
                return map_obs(move, value)
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        fields = (f.name for f in dataclasses.fields(self))
        return Rollout(**{name: move(getattr(self, name)) for name in fields})

    def next_obs(self) -> Obs:
        """True next observations [T, N, ...]: ``obs[1:]`` with the hidden last ones put back."""
        return {k: self.successors(v, self.final_obs[k]) for k, v in self.obs.items()}

    def next_info(self) -> Obs:
        """Side channels [T, N, ...] of the true next observations."""
        return {k: self.successors(v, self.final_info[k]) for k, v in self.info.items()}

    def successors(self, values: Tensor, final: Tensor) -> Tensor:
        """Values of each step's true successor, also where autoreset hid the last observation.

        Args:
            values: [T+1, N, ...] of `obs` or `info`, or computed from them.
            final: [D, ...] the same of `final_obs` or `final_info`.

        Returns:
            [T, N, ...], a view of `values` if nothing was hidden.
        """
        if len(self.final_at) == 0:
            return values[1:]
        t, n = self.final_at.to(values.device).unbind(1)
        out = values[1:].clone()
        out[t, n] = final
        return out

    def slice(self, start: int, stop: int) -> Rollout:
        """Cut out steps `start` to `stop` as a rollout.

        Raises:
            ValueError: for a recurrent policy and a `start` after 0, without `states`.
        """
        state = self.state
        if state and start > 0:
            if self.states is None:
                raise ValueError(f"start is {start}, expected 0: the rollout of a recurrent policy")
            state = map_obs(lambda field: field[start], self.states)
        rows, bound = slice(start, stop), slice(start, stop + 1)
        here = (self.final_at[:, 0] >= start) & (self.final_at[:, 0] < stop)
        return dataclasses.replace(
            self,
            obs=map_obs(lambda field: field[bound], self.obs),
            info=map_obs(lambda field: field[bound], self.info),
            action=self.action[rows],
            log_prob=self.log_prob[rows],
            value=self.value[bound],
            dist_params=None if self.dist_params is None else self.dist_params[rows],
            reward=self.reward[rows],
            terminated=self.terminated[rows],
            truncated=self.truncated[rows],
            valid=self.valid[rows],
            is_first=self.is_first[bound],
            final_at=self.final_at[here] - torch.tensor([start, 0], device=self.device),
            final_obs=map_obs(lambda field: field[here], self.final_obs),
            final_info=map_obs(lambda field: field[here], self.final_info),
            final_state=map_obs(lambda field: field[here], self.final_state),
            state=state,
            crashed=None if self.crashed is None else self.crashed[rows],
            states=None if self.states is None else map_obs(lambda f: f[rows], self.states),
        )


def check(rollout: Rollout) -> Rollout:
    """Check the shape and dtype law on a rollout, and return the rollout.

    Raises:
        ValueError: names the first field that breaks the law, its shape and the expected one.
    """
    if rollout.reward.dim() != 2:
        raise ValueError(f"rollout.reward has shape {tuple(rollout.reward.shape)}, expected [T, N]")
    T, N = rollout.reward.shape
    D = len(rollout.final_at)

    def demand(name: str, field: Tensor, *law: int | str, dtype: torch.dtype | None = None) -> None:
        """Compare with `law`: a letter is any size, a last "..." any further axes."""
        shape = tuple(field.shape)
        exact = law if law[-1] != "..." else (*law[:-1], *shape[len(law) - 1 :])
        if len(shape) != len(exact) or any(
            isinstance(wanted, int) and wanted != size
            for size, wanted in zip(shape, exact, strict=True)
        ):
            raise ValueError(
                f"rollout.{name} has shape {shape}, expected ({', '.join(map(str, law))})"
            )
        if dtype is not None and field.dtype != dtype:
            raise ValueError(f"rollout.{name} is {field.dtype}, expected {dtype}")

    demand("reward", rollout.reward, T, N, dtype=torch.float32)
    demand("log_prob", rollout.log_prob, T, N, dtype=torch.float32)
    demand("value", rollout.value, T + 1, N, "K", dtype=torch.float32)
    for name in ("terminated", "truncated", "valid"):
        demand(name, getattr(rollout, name), T, N, dtype=torch.bool)
    demand("is_first", rollout.is_first, T + 1, N, dtype=torch.bool)
    discrete = rollout.action.dtype == torch.int64
    demand("action", rollout.action, T, N, "...", dtype=None if discrete else torch.float32)
    if rollout.dist_params is not None:
        demand("dist_params", rollout.dist_params, T, N, "P")
    if rollout.crashed is not None:
        demand("crashed", rollout.crashed, T, N, dtype=torch.bool)
    demand("final_at", rollout.final_at, D, 2, dtype=torch.int64)
    demand("env_ids", rollout.env_ids, N, dtype=torch.int64)
    for group, lead in (
        ("obs", (T + 1, N)),
        ("info", (T + 1, N)),
        ("final_obs", (D,)),
        ("final_info", (D,)),
        ("final_state", (D,)),
        ("state", (N,)),
        ("states", (T, N)),
    ):
        for name, field in (getattr(rollout, group) or {}).items():
            demand(f"{group}[{name!r}]", field, *lead, "...")
    if bool((rollout.terminated & rollout.truncated).any()):
        raise ValueError(
            "a step is both terminated and truncated; where both hold, set terminated only"
        )
    return rollout
