"""Collect rollouts from a vector environment and an actor."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs import seeding
from firstlight.envs.action_spaces import MASK, ActionMask
from firstlight.envs.check_rows import check_first_row
from firstlight.envs.faults import EnvironmentFaultError, class_name, raise_for_environment
from firstlight.envs.finite import nan_to_zero
from firstlight.envs.random_actions import RandomBox, RandomChoices
from firstlight.envs.types import Obs, Rollout, State, Step, map_obs, take
from firstlight.envs.vec import VecEnv, check_reported

log = logging.getLogger(__name__)


class Actor(Protocol):
    """Interface of a policy that a runner calls."""

    def initial_state(self, num_envs: int) -> State:
        """Recurrent state at the first observation, each [N, ...]."""
        ...

    def __call__(self, obs: Obs, state: State, is_first: Tensor) -> Any:
        """Map obs [1, N, ...], state [N, ...], is_first [1, N] to `dist`, `value` and `state`."""
        ...


Collecting = Generator[None, None, Rollout]
"""A rollout that is being collected: pauses whenever a step is under way, and returns it."""


class Runner:
    """Collect rollouts; episodes and recurrent states continue from one rollout to the next.

    Args:
        vec: the environments.
        seed: of the environments and of the sampled actions.
        device: of the actor's parameters.
        keep_dist_params: fill `Rollout.dist_params`.
        keep_states: fill `Rollout.states`.
        generator: for sampled actions, on `device`; default one derived from `seed`.

    Attributes:
        resume: how open episodes continue after a checkpoint is loaded, see `VecEnv`.

    Raises:
        ValueError: if `vec` reports a channel that is not one number.
    """

    def __init__(
        self,
        vec: VecEnv,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        keep_dist_params: bool = False,
        keep_states: bool = False,
        generator: torch.Generator | None = None,
    ):
        self.vec, self.seed, self.device = vec, seed, torch.device(device)
        self.keep_dist_params, self.keep_states = keep_dist_params, keep_states
        check_reported(vec)
        self.resume = vec.resume
        self.generator = generator or seeding.generator(seed, "actions", self.device)
        self._resets, self._unchecked, self._mask_checked = 0, True, False
        self._obs: Obs | None = None
        self._info: Obs = {}
        self._is_first = torch.ones(vec.num_envs, dtype=torch.bool)
        self._state: State | None = None

    def collect(self, actor: Actor, num_steps: int, version: int = 0) -> Rollout:
        """Step `num_steps` times. Returns a rollout of fresh CPU tensors.

        Call `restart_state` before collecting with another actor.

        Raises:
            EnvironmentFaultError: if the first reset or step breaks the contract of `VecEnv`, or
                the masks of a whole first rollout forbid every action.
            EnvironmentRaisedError: if an environment's code raised an exception.
        """
        collecting = self.collecting(actor, num_steps, version)
        while True:
            try:
                next(collecting)
            except StopIteration as end:
                return end.value

    def collecting(self, actor: Actor, num_steps: int, version: int = 0) -> Collecting:
        """Collect as `collect` does, and pause after each step is begun, before it is waited for.

        Yields:
            None, `num_steps` times. The rollout is the generator's return value.
        """
        N = self.vec.num_envs
        if self._obs is None:
            self._obs, self._info = self._reset()
            self._is_first = torch.ones(N, dtype=torch.bool)
        if self._state is None:
            self._state = actor.initial_state(N)
        state = map_obs(torch.clone, self._state)
        opened = self._obs, self._info, self._is_first
        steps: list[Step] = []
        outs: list[Any] = []
        actions, log_probs = [], []
        for _ in range(num_steps):
            with torch.inference_mode():
                out = self._act(actor)
                action, log_prob = out.dist.draw(self.generator)  # [1, N]
            actions.append(action[0].cpu())
            self._send(actions[-1])
            log_probs.append(log_prob[0])
            outs.append(out)
            yield
            step = self._recv()
            steps.append(step)
            self._obs, self._info, self._is_first = step.obs, step.info, step.is_first
            self._state = out.state
        with torch.inference_mode():
            bootstrap = self._act(actor).value  # the next rollout acts on this observation
        obs = _stack([opened[0], *(step.obs for step in steps)])
        info = _stack([opened[1], *(step.info for step in steps)])
        final_at, final_obs, final_info, final_state = _ends(steps, outs, obs, info, state)
        truncated = torch.stack([step.truncated for step in steps])
        crashed = _cut_crashed(steps, truncated)
        valid = torch.stack([step.valid for step in steps])
        if MASK in obs and not self._mask_checked:
            self._check_mask(obs[MASK][:-1], valid)
        params = [out.dist.params[0] for out in outs] if self.keep_dist_params else None
        before = [state, *(out.state for out in outs[:-1])]
        return Rollout(
            obs=obs,
            info=info,
            action=torch.stack(actions),
            log_prob=torch.stack(log_probs).cpu(),
            value=torch.cat([*(out.value for out in outs), bootstrap]).cpu(),
            dist_params=torch.stack(params).cpu() if params else None,
            reward=torch.stack([step.reward for step in steps]),
            terminated=torch.stack([step.terminated for step in steps]),
            truncated=truncated,
            valid=valid,
            is_first=torch.stack([opened[2], *(step.is_first for step in steps)]),
            final_at=final_at,
            final_obs=final_obs,
            final_info=final_info,
            final_state=final_state,
            state=state,
            env_ids=torch.arange(N),
            version=version,
            crashed=crashed,
            states=_stack(before) if self.keep_states else None,
        )

    def restart_state(self) -> None:
        """Begin the next rollout with the actor's initial recurrent state; episodes continue."""
        self._state = None

    def cut(self, rollout: Rollout) -> Rollout:
        """End every open episode: the next rollout begins with a reset, from another seed.

        Args:
            rollout: the last one collected.

        Returns:
            The same, with open episodes marked as truncated in the last row.
        """
        self.close_episodes()
        open_rows = rollout.valid[-1] & ~rollout.terminated[-1] & ~rollout.is_first[-1]
        truncated = rollout.truncated.clone()
        truncated[-1] |= open_rows
        return dataclasses.replace(rollout, truncated=truncated)

    def close_episodes(self) -> None:
        """Begin the next rollout with a reset, from another seed."""
        self._resets, self._obs, self._state = self._resets + 1, None, None

    def state_dict(self) -> dict[str, Any]:
        """Random state, recurrent state, and that of the environments if they can save it."""
        opened = self._obs is not None
        state = {
            "generator": self.generator.get_state(),
            "resets": self._resets + opened,  # number of the next reset
            "open": opened,
            "envs": None,
            "kept": self.vec.persistent_state(),
        }
        if opened and self.resume != "dropped":
            state["envs"] = self.vec.state_dict()
            state |= {"is_first": self._is_first, "state": self._state or {}}
        return state

    def load_state_dict(self, state: dict[str, Any], *, new_actions: bool = False) -> Tensor:
        """Load what `state_dict` returned.

        Args:
            state: of this runner, or of one in another process.
            new_actions: draw actions from a generator derived from `seed`, not from the saved one.

        Returns:
            [M] int64, environments whose open episodes could not be restored: they begin new
            episodes, with seeds that the run has not used yet.
        """
        if "parts" in state:
            raise ValueError(
                f"the checkpoint has environments in {len(state['parts'])} parts, expected one: "
                "set alternate as it was"
            )
        if new_actions:
            seed = seeding.derive(self.seed, "actions", state["resets"])
            self.generator = seeding.generator(seed, "resumed", self.device)
        else:
            self._set_generator(state["generator"], state["resets"])
        self._resets, self._obs, self._state = state["resets"], None, None
        if state.get("kept"):
            self.vec.load_persistent_state(state["kept"])
        if not state["open"] or state["envs"] is None or self.resume == "dropped":
            return torch.arange(self.vec.num_envs if state["open"] else 0)
        self._resets -= 1
        self._unchecked = False  # the next row may be after the end of an episode
        self._obs, self._info, restarted = self.vec.load_state_dict(state["envs"])
        self._is_first = state["is_first"] | restarted
        # an empty state comes from a feed-forward or random actor: the next may be recurrent
        self._state = map_obs(lambda field: field.to(self.device), state["state"]) or None
        return restarted.nonzero()[:, 0]

    def _set_generator(self, state: Tensor, resets: int) -> None:
        try:
            self.generator.set_state(state)
        except RuntimeError:  # the state is of another kind of device
            log.warning(
                "the random state was saved on another kind of device than %s: actions are sampled "
                "from a new generator",
                self.device,
            )
            seed = seeding.derive(self.seed, "actions", resets)
            self.generator = seeding.generator(seed, "device", self.device)

    def _reset(self) -> tuple[Obs, Obs]:
        try:
            result = self.vec.reset(seeding.derive(self.seed, "envs", self._resets))
        except Exception as error:
            raise_for_environment(error, class_name(self.vec), "in reset")
        if self._unchecked:
            check_first_row(self.vec, result)
        return result

    def _send(self, action: Tensor) -> None:
        try:
            self.vec.send(action)
        except Exception as error:
            raise_for_environment(error, class_name(self.vec), "in step")

    def _recv(self) -> Step:
        try:
            step = self.vec.recv()
        except Exception as error:
            raise_for_environment(error, class_name(self.vec), "in step")
        if self._unchecked:
            check_first_row(self.vec, step)
            self._unchecked = False
        return step

    def _check_mask(self, field: Tensor, used: Tensor) -> None:
        """Refuse masks [T, N, ...] of a first rollout that never allow anything; warn of some."""
        self._mask_checked = True
        mask = ActionMask.find(self.vec.act_space, self.vec.obs_space)
        if mask is None:
            return
        share = mask.forbidden(field, used)
        worst = int(share.argmax())
        part = f" of component {worst}" if len(share) > 1 else ""
        if share[worst] == 1:
            raise EnvironmentFaultError(
                f"{class_name(self.vec)}: the observation {MASK!r} forbids every action{part} in "
                "each step of the first rollout, expected a value other than 0 for what is allowed"
            )
        if share[worst] > 0:
            log.warning(
                "%r forbids every action%s in %.2g %% of the steps of the first rollout: any "
                "action is taken there",
                MASK,
                part,
                100 * float(share[worst]),
            )

    def _act(self, actor: Actor) -> Any:
        assert self._obs is not None
        assert self._state is not None
        obs = map_obs(lambda field: nan_to_zero(field[None]).to(self.device), self._obs)
        return actor(obs, self._state, self._is_first[None].to(self.device))


def _stack(moments: list[Obs]) -> Obs:
    """Stack the fields [N, ...] of each time step to [T+1, N, ...]."""
    return {name: torch.stack([moment[name] for moment in moments]) for name in moments[0]}


def _cut_crashed(steps: list[Step], truncated: Tensor) -> Tensor | None:
    """Mark as truncated [T, N] each open episode's last row before its environment crashed.

    After a crash in row 0 that row is in the rollout before, which bootstraps there anyway.

    Returns:
        [T, N] bool, the rows so marked; None if nothing crashed.
    """
    crashes = [(t, step.crashed_ids) for t, step in enumerate(steps) if len(step.crashed_ids)]
    if not crashes:
        return None
    crashed = torch.zeros_like(truncated)
    for t, ids in crashes:
        if t > 0:
            before = steps[t - 1]
            crashed[t - 1, ids] = (before.valid & ~before.terminated & ~before.truncated)[ids]
    truncated |= crashed
    return crashed


def _ends(
    steps: list[Step], outs: list[Any], obs: Obs, info: Obs, state: State
) -> tuple[Tensor, Obs, Obs, State]:
    """Last observations that autoreset hid: (t, n) [D, 2], and obs, info and state [D, ...]."""
    ends = [(t, step) for t, step in enumerate(steps) if len(step.final_ids)]
    at = [torch.stack([torch.full_like(s.final_ids, t), s.final_ids], 1) for t, s in ends]
    states = [take(outs[t].state, step.final_ids) for t, step in ends]

    def join(parts: list[Obs], like: Obs) -> Obs:
        return {n: torch.cat([p[n] for p in parts]) if parts else f[:0] for n, f in like.items()}

    return (
        torch.cat(at) if at else torch.zeros((0, 2), dtype=torch.int64),
        join([step.final_obs for _, step in ends], map_obs(lambda field: field[0], obs)),
        join([step.final_info for _, step in ends], map_obs(lambda field: field[0], info)),
        join(states, state),
    )


class RandomActor:
    """Samples uniform actions, for the warmup of modules and as a baseline.

    Actions that an observation field "action_mask" forbids are not taken. Elements of a Box without
    usable bounds (`is_bounded`) are drawn from a standard normal distribution.

    Args:
        act_space: Discrete, MultiDiscrete, MultiBinary or Box.
        num_streams: `K`; all values are 0.
    """

    def __init__(self, act_space: spaces.Space, num_streams: int = 1):
        self.act_space, self.num_streams = act_space, num_streams

    def initial_state(self, num_envs: int) -> State:
        """Empty state."""
        return {}

    def __call__(self, obs: Obs, state: State, is_first: Tensor) -> Any:
        """Return a uniform distribution of actions [1, N] and values of 0."""
        dist: RandomBox | RandomChoices
        if isinstance(self.act_space, spaces.Box):
            dist = RandomBox(self.act_space, is_first)
        else:
            dist = RandomChoices(self.act_space, is_first, obs.get(MASK))
        value = torch.zeros((*is_first.shape, self.num_streams), device=is_first.device)
        return _RandomOutput(dist, value, {})


class _RandomOutput(NamedTuple):
    dist: RandomBox | RandomChoices
    value: Tensor
    state: State
