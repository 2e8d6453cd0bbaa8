"""Turns a vector environment and an actor into rollouts."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive, generator
from firstlight.envs.types import Obs, Rollout, State, Step, map_obs, take
from firstlight.envs.vec import VecEnv


class Actor(Protocol):
    """What a runner needs of a policy."""

    def initial_state(self, num_envs: int) -> State:
        """Recurrent state at the first observation, each [N, ...]."""
        ...

    def __call__(self, obs: Obs, state: State, is_first: Tensor) -> Any:
        """Obs [1, N, ...], state [N, ...], is_first [1, N] to `dist`, `value` and `state`."""
        ...


class Runner:
    """Steps `vec` with an actor and keeps what happened; episodes run on from rollout to rollout.

    Args:
        vec: the environments.
        seed: of the environments and of the sampled actions.
        device: where the actor's parameters live.
        keep_dist_params: fill `Rollout.dist_params`.
    """

    def __init__(
        self,
        vec: VecEnv,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        keep_dist_params: bool = False,
    ):
        self.vec, self.seed, self.device = vec, seed, torch.device(device)
        self.keep_dist_params = keep_dist_params
        self.background = hasattr(type(vec), "send") and hasattr(type(vec), "recv")
        self.generator = generator(seed, "actions", self.device)
        self._resets = 0
        self._obs: Obs | None = None
        self._info: Obs = {}
        self._is_first = torch.ones(vec.num_envs, dtype=torch.bool)
        self._state: State | None = None
        self._actor: Actor | None = None

    def collect(self, actor: Actor, num_steps: int, version: int = 0) -> Rollout:
        """Step `num_steps` times. Returns a rollout of fresh CPU tensors."""
        N = self.vec.num_envs
        if self._obs is None:
            self._obs, self._info = self.vec.reset(derive(self.seed, "envs", self._resets))
            self._is_first = torch.ones(N, dtype=torch.bool)
        if self._state is None or actor is not self._actor:
            self._state, self._actor = actor.initial_state(N), actor
        vec: Any = self.vec  # one that steps in the background has `send` and `recv`
        state = map_obs(torch.clone, self._state)
        opened = self._obs, self._info, self._is_first
        steps: list[Step] = []
        outs: list[Any] = []
        actions, log_probs = [], []
        for _ in range(num_steps):
            with torch.inference_mode():
                out = self._act(actor)
                action = out.dist.sample(self.generator)  # [1, N]
            actions.append(action[0].cpu())
            if self.background:
                vec.send(actions[-1])
            with torch.inference_mode():
                log_probs.append(out.dist.log_prob(action)[0])
            outs.append(out)
            step = vec.recv() if self.background else vec.step(actions[-1])
            steps.append(step)
            self._obs, self._info, self._is_first = step.obs, step.info, step.is_first
            self._state = out.state
        with torch.inference_mode():
            bootstrap = self._act(actor).value  # acting on it is the next rollout's business
        obs = _stack([opened[0], *(step.obs for step in steps)])
        info = _stack([opened[1], *(step.info for step in steps)])
        final_at, final_obs, final_info, final_state = _ends(steps, outs, obs, info, state)
        params = [out.dist.params[0] for out in outs] if self.keep_dist_params else None
        return Rollout(
            obs=obs,
            info=info,
            action=torch.stack(actions),
            log_prob=torch.stack(log_probs).cpu(),
            value=torch.cat([*(out.value for out in outs), bootstrap]).cpu(),
            dist_params=torch.stack(params).cpu() if params else None,
            reward=torch.stack([step.reward for step in steps]),
            terminated=torch.stack([step.terminated for step in steps]),
            truncated=torch.stack([step.truncated for step in steps]),
            valid=torch.stack([step.valid for step in steps]),
            is_first=torch.stack([opened[2], *(step.is_first for step in steps)]),
            final_at=final_at,
            final_obs=final_obs,
            final_info=final_info,
            final_state=final_state,
            state=state,
            env_ids=torch.arange(N),
            version=version,
        )

    def state_dict(self) -> dict[str, Any]:
        """Random state; environments are not in it."""
        return {"generator": self.generator.get_state(), "resets": self._resets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state back; environments begin episodes that no earlier start has seen."""
        self.generator.set_state(state["generator"])
        self._resets = state["resets"] + 1
        self._obs = self._state = None

    def _act(self, actor: Actor) -> Any:
        assert self._obs is not None
        assert self._state is not None
        if self.device.type == "cpu":
            obs, is_first = map_obs(lambda field: field[None], self._obs), self._is_first[None]
        else:
            obs = map_obs(lambda field: field[None].to(self.device), self._obs)
            is_first = self._is_first[None].to(self.device)
        return actor(obs, self._state, is_first)


def _stack(moments: list[Obs]) -> Obs:
    """Fields [N, ...] of each moment to [T+1, N, ...]."""
    return {name: torch.stack([moment[name] for moment in moments]) for name in moments[0]}


def _ends(
    steps: list[Step], outs: list[Any], obs: Obs, info: Obs, state: State
) -> tuple[Tensor, Obs, Obs, State]:
    """(t, n) [D, 2] of the ends that autoreset hid, with observations, info and state [D, ...]."""
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
    """Acts uniformly; what warms modules up and what tests compare against.

    Args:
        act_space: Discrete or bounded Box.
        num_streams: `K` of the zeros that it gives as values.
    """

    def __init__(self, act_space: spaces.Space, num_streams: int = 1):
        self.act_space, self.num_streams = act_space, num_streams

    def initial_state(self, num_envs: int) -> State:
        """Nothing to remember."""
        return {}

    def __call__(self, obs: Obs, state: State, is_first: Tensor) -> Any:
        """Obs [1, N, ...] to a uniform distribution over [1, N]."""
        return _RandomOutput(self.act_space, is_first, self.num_streams)


class _RandomOutput:
    def __init__(self, act_space: spaces.Space, is_first: Tensor, num_streams: int):
        self.act_space, self.lead, self.device = act_space, is_first.shape, is_first.device
        self.dist = self
        self.state: State = {}
        self.value = torch.zeros((*self.lead, num_streams), device=self.device)

    def sample(self, generator: torch.Generator) -> Tensor:
        if isinstance(self.act_space, spaces.Discrete):
            n = int(self.act_space.n)
            return torch.randint(0, n, self.lead, generator=generator, device=self.device)
        if not isinstance(self.act_space, spaces.Box) or not self.act_space.is_bounded():
            raise ValueError(f"no uniform action over {self.act_space}")
        low = torch.as_tensor(self.act_space.low, device=self.device, dtype=torch.float32)
        high = torch.as_tensor(self.act_space.high, device=self.device, dtype=torch.float32)
        noise = torch.rand((*self.lead, *low.shape), generator=generator, device=self.device)
        return low + (high - low) * noise

    def log_prob(self, action: Tensor) -> Tensor:
        if isinstance(self.act_space, spaces.Discrete):
            return torch.full(self.lead, -float(torch.tensor(float(self.act_space.n)).log()))
        width = torch.as_tensor(self.act_space.high - self.act_space.low)  # type: ignore[attr-defined]
        return torch.full(self.lead, -float(width.log().sum()))
