"""Small environments, a vector environment that passes `check_vec`, and adapters that fail."""

import dataclasses
import functools

import envpool
import gymnasium
import minigrid  # noqa: F401  (registers the ids)
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from firstlight.envs.types import Snapshot, Step, take
from firstlight.envs.vec import VecEnv, checked_actions
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.envs.vector.gym import GymVec

NUMBERS = ("level", "time", "length", "sum", "over")
NO_IDS = torch.zeros(0, dtype=torch.int64)


class Walk(gymnasium.Env):
    """Nested observations with noise, continuous actions, and a limit of steps."""

    observation_space = spaces.Dict(
        {
            "where": spaces.Dict({"x": spaces.Box(-99, 99, (2,), np.float64)}),
            "left": spaces.Discrete(40),
            "wide": spaces.Box(0, 2**16 - 1, (), np.uint16),
            "text": spaces.Text(9),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, length=5):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.left = self.np_random.normal(size=2), self.length
        return self.seen(), {}

    def step(self, action):
        self.x = self.x + action + self.np_random.normal(size=2)
        self.left -= 1
        home = bool(abs(self.x).max() < 0.3)
        return self.seen(), float(home), home, self.left == 0, {"success": home}

    def seen(self):
        wide = np.array(60_000 + self.left, np.uint16)
        return {"where": {"x": self.x.copy()}, "left": self.left, "wide": wide, "text": "hm"}


def cartpole(limit=None):
    return gymnasium.make("CartPole-v1", max_episode_steps=limit)


def vector(mode=AutoresetMode.NEXT_STEP):
    return SyncVectorEnv([functools.partial(cartpole, 4)] * 2, autoreset_mode=mode)


def envpool_vector():
    return envpool.make_gymnasium("CartPole-v1", num_envs=2)


def pendulum():
    return gymnasium.make("Pendulum-v1", max_episode_steps=9)


def doorkey():
    return gymnasium.make("MiniGrid-DoorKey-5x5-v0", max_steps=11)


def pool(task, num_envs=3, steps=12, **options):
    return functools.partial(
        EnvPoolVec, task, num_envs=num_envs, num_threads=1, max_episode_steps=steps, **options
    )


class PassingVec(VecEnv):
    """Counters whose level and length of episodes are drawn from the seed; passes `check_vec`."""

    resume, num_envs = "state", 4
    obs_space = spaces.Dict({"level": spaces.Discrete(1000), "time": spaces.Box(0, 99, (1,))})
    info_space = spaces.Dict({"sum": spaces.Box(0, 999, (), np.int64)})
    act_space = spaces.Discrete(3)

    def __init__(self, mode="same-step"):
        self.mode = mode
        self.reset(0)

    def reset(self, seed=None):
        if seed is not None:
            self.rngs = [np.random.default_rng([seed, n]) for n in range(self.num_envs)]
        for name in NUMBERS:
            setattr(self, name, np.zeros(self.num_envs, np.int64))
        self.begin(np.ones(self.num_envs, bool))
        return self.obs(), self.info()

    def begin(self, which):
        for n in np.flatnonzero(which):
            self.level[n], self.length[n] = self.rngs[n].integers([0, 2], [1000, 7])
            self.time[n] = self.sum[n] = 0

    def step(self, action):
        taken = self.checked(action)
        idle = self.over.astype(bool)
        self.time += ~idle
        self.sum += np.where(idle, 0, taken)
        ended = (self.time >= self.length) & ~idle
        solved = ended & (self.sum % 2 == 1)
        ids = NO_IDS if self.mode == "next-step" else torch.from_numpy(np.flatnonzero(ended))
        final_obs, final_info = self.obs(ids), self.info(ids)
        self.begin(idle if self.mode == "next-step" else ended)
        if self.mode == "next-step":
            self.over = ended.astype(np.int64)
        return Step(
            obs=self.obs(),
            info=self.info(),
            reward=torch.from_numpy(solved.astype(np.float32)),
            terminated=torch.from_numpy(solved),
            truncated=torch.from_numpy(ended & ~solved),
            valid=torch.from_numpy(~idle),
            is_first=torch.from_numpy(idle if self.mode == "next-step" else ended),
            final_ids=ids,
            final_obs=final_obs,
            final_info=final_info,
        )

    def checked(self, action):
        return checked_actions(action, self.act_space, self.num_envs)

    def obs(self, ids=slice(None)):
        time = torch.from_numpy(self.time.astype(np.float32)[:, None])[ids]
        return {"level": torch.from_numpy(self.level.copy())[ids], "time": time}

    def info(self, ids=slice(None)):
        return {"sum": torch.from_numpy(self.sum.copy())[ids]}

    def snapshots(self):
        rows = zip(*(torch.from_numpy(getattr(self, name).copy()) for name in NUMBERS), strict=True)
        return [Snapshot(arrays=dict(zip(NUMBERS, row, strict=True))) for row in rows]

    def restore(self, env_ids, snapshots):
        for n, snapshot in zip(env_ids.tolist(), snapshots, strict=True):
            for name, number in snapshot.arrays.items():
                getattr(self, name)[n] = number
        return self.obs(env_ids), self.info(env_ids), torch.zeros(len(env_ids), dtype=torch.bool)

    def state_dict(self):
        return {"points": self.snapshots(), "rngs": [rng.bit_generator.state for rng in self.rngs]}

    def load_state_dict(self, state):
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        return self.restore(torch.arange(self.num_envs), state["points"])


def with_changed_steps(change):
    """Subclass of `PassingVec` with fields of each step replaced by ``change(vec, step)``."""

    class Changed(PassingVec):
        def step(self, action):
            return dataclasses.replace(step := super().step(action), **change(self, step))

    return Changed


def obs_of_the_next_episode(vec, step):
    """In next-step mode, return the next episode's first observation at the end already."""
    ended = (step.terminated | step.truncated).numpy()
    if not ended.any():
        return {}
    vec.begin(ended)
    vec.begin = lambda which: vars(vec).pop(
        "begin", None
    )  # the reset row does not begin another episode
    return {"obs": vec.obs()}


class ReusesBuffers(PassingVec):
    buffer = torch.zeros(4, 1)

    def obs(self, ids=slice(None)):
        if ids == slice(None):
            return super().obs() | {"time": self.buffer.copy_(super().obs()["time"])}
        return super().obs(ids)


class DrawsEntropy(PassingVec):
    def reset(self, seed=None):
        return super().reset(np.random.SeedSequence().entropy % 2**31)


class IgnoresSeed(PassingVec):
    def reset(self, seed=None):
        return super().reset(None if seed is None else 7)


class KeepsResetRow(PassingVec):
    """Returns the reset row of the old episode after a reset."""

    def reset(self, seed=None):
        over = getattr(self, "over", None)
        answer = super().reset(seed)
        self.over = self.over if over is None or seed is not None else over
        return answer


class WrapsActions(PassingVec):
    def checked(self, action):
        taken = np.zeros(self.num_envs, np.int64)
        taken[: len(action)] = action.numpy()[: self.num_envs] % 3
        return taken


class Asserts(PassingVec):
    def checked(self, action):
        assert action.shape == (self.num_envs,)
        return super().checked(action)


class StepsBeforeChecking(PassingVec):
    def checked(self, action):
        self.sum += 1
        return super().checked(action)


class IgnoresState(PassingVec):
    def load_state_dict(self, state):
        return super().load_state_dict(self.state_dict())


class ChangesItsMode(PassingVec):
    calls = 0

    def step(self, action):
        answer, self.calls = super().step(action), self.calls + 1
        self.mode = "next-step" if self.calls > 20 else "same-step"
        return answer


class Joined(VecEnv):
    """Gymnasium environments, each in a `GymVec` of its own, in either mode of autoreset."""

    def __init__(self, factories, mode):
        self.parts, self.mode = [GymVec([factory]) for factory in factories], mode
        self.num_envs, first = len(factories), self.parts[0]
        self.obs_space, self.info_space = first.obs_space, first.info_space
        self.act_space = first.act_space

    def reset(self, seed=None):
        self.waiting = {}
        seeds = [None if seed is None else 1000 * seed + n for n in range(self.num_envs)]
        obs, info = zip(*(p.reset(s) for p, s in zip(self.parts, seeds, strict=True)), strict=True)
        return join(obs), join(info)

    def step(self, action):
        checked_actions(action, self.act_space, self.num_envs)
        steps = [self.one(n, action[n : n + 1]) for n in range(self.num_envs)]
        fields = {name: join([getattr(s, name) for s in steps]) for name in Step.__slots__}
        fields["final_ids"] = join([step.final_ids + n for n, step in enumerate(steps)])
        return Step(**fields)

    def one(self, n, action):
        no, none = torch.zeros(1, dtype=torch.bool), {"final_ids": NO_IDS}
        if n in self.waiting:
            step = self.waiting.pop(n)
            none |= {"terminated": no, "truncated": no, "valid": no, "reward": torch.zeros(1)}
            return dataclasses.replace(step, **none, **without_final(step))
        step = self.parts[n].step(action)
        if self.mode == "same-step" or not len(step.final_ids):
            return step
        self.waiting[n] = step
        last = {"obs": step.final_obs, "info": step.final_info, "is_first": no}
        return dataclasses.replace(step, **last, **none, **without_final(step))

    def close(self):
        for part in self.parts:
            part.close()


def without_final(step):
    return {f: take(getattr(step, f), NO_IDS) for f in ("final_obs", "final_info")}


def join(parts):
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return torch.cat(list(parts))


class Unchecked(EnvPoolVec):
    """`EnvPoolVec` that passes invalid actions to C++."""

    def send(self, action):
        self._pool.send(action.numpy())
