"""What `test_distributed` calls in each rank: train on columns of recorded rollouts."""

import dataclasses
import json
import sys

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from firstlight.agents.algorithms.appo import APPO
from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.policy import ActorCritic
from firstlight.agents.trainer import Trainer
from firstlight.envs.types import map_obs
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import RND, HashCount, RecentScale, ReturnScale, RewardMixer, Term
from firstlight.intrinsic.mixer import Chained, Heads, LogSigmoid, MinMax, ShareCap, ZScore
from firstlight.networks import GRU, collective
from firstlight.networks.encoders import MLP

N, T, ITERATIONS = 4, 16, 4


class Noisy(gymnasium.Env):
    """Real numbers whose scale differs, continuous actions, a reward now and then."""

    observation_space = spaces.Dict({"where": spaces.Box(-1e3, 1e3, (2,), np.float32)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.where, self.left = self.np_random.normal(size=2), int(self.np_random.integers(5, 30))
        return self.seen(), {}

    def step(self, action):
        self.left -= 1
        self.where = self.where + action + self.np_random.normal(size=2)
        return self.seen(), 10.0 * bool(abs(self.where).max() > 3), False, self.left == 0, {}

    def seen(self):
        return {"where": (self.where * [1, 50]).clip(-1e3, 1e3).astype(np.float32)}


def columns(rollout, ids):
    """The columns `ids` [M] of a rollout, as if there were no other environments."""
    where = torch.full((rollout.num_envs,), -1)
    where[ids] = torch.arange(len(ids))
    ends = where[rollout.final_at[:, 1]] >= 0

    def second(fields):
        return map_obs(lambda field: field[:, ids], fields)

    def of_ends(fields):
        return map_obs(lambda field: field[ends], fields)

    at = rollout.final_at[ends].clone()
    at[:, 1] = where[at[:, 1]]
    names = ("action", "log_prob", "value", "reward", "terminated", "truncated", "valid")
    return dataclasses.replace(
        rollout,
        **{name: getattr(rollout, name)[:, ids] for name in (*names, "is_first")},
        obs=second(rollout.obs),
        info=second(rollout.info),
        final_at=at,
        final_obs=of_ends(rollout.final_obs),
        final_info=of_ends(rollout.final_info),
        final_state=of_ends(rollout.final_state),
        state=map_obs(lambda field: field[ids], rollout.state),
        states=None if rollout.states is None else second(rollout.states),
        env_ids=torch.arange(len(ids)),
    )


def trainer_of(kind, num_envs):
    """A trainer whose gradient steps use whole rollouts, so that no order of rows matters."""
    continuous = kind == "continuous"
    if continuous:
        vec = GymVec([Noisy] * num_envs)
    else:
        vec = Chain(num_envs, length=3, autoreset="next_step")
    torch.manual_seed(7)
    rnd = {"embedding_dim": 8, "hidden": 16, "num_epochs": 2, "update_proportion": 1.0}
    rnd |= {"num_minibatches": 1, "minibatch_size": None, "warmup_steps": T}
    modules = {
        "rnd": RND(vec.obs_space, network="encoder" if continuous else "published", **rnd),
        "count": HashCount(vec.obs_space, bits=8 if continuous else None),
        "episodic": HashCount(vec.obs_space, scope="first_visit", bits=8 if continuous else None),
    }
    transforms = (
        (RecentScale(memory=100), MinMax(), ZScore())
        if continuous
        else (ReturnScale(), Chained([ZScore(), LogSigmoid(decay=0.9)]), RecentScale())
    )
    terms = {
        name: Term(weight=0.5, transform=transform, episodic=name != "rnd")
        for name, transform in zip(modules, transforms, strict=True)
    }
    if not continuous:  # normalised streams have no use for it
        terms["count"] = dataclasses.replace(terms["count"], budget=ShareCap(share=0.3, floor=0.1))
    mixer = RewardMixer(terms, Heads(normalize=continuous))
    encoder = MLP(vec.obs_space, hidden=(16,))
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=encoder,
        core=GRU(16, hidden=8) if kind == "recurrent" else None,
        num_streams=mixer.num_streams,
    )
    learner = {"continuous": APPO}.get(kind, PPO)(
        policy,
        lr=3e-4,
        num_epochs=3,
        minibatch_size=T * N,
        sequence_length=4 if kind == "recurrent" else None,
        **({"estimator": "vtrace"} if continuous else {}),
    )
    return Trainer(vec, learner, modules, mixer, num_steps=T, seed=3)


def training(trainer, rollouts, record):
    """Train; take rollouts from an iterator, or else append the own ones to a list."""
    collect = trainer.runner.collect

    def recorded(actor, num_steps):
        record.append(collect(actor, num_steps) if rollouts is None else next(rollouts))
        return record[-1]

    trainer.runner.collect = recorded
    metrics = []
    trainer.run(T * N * ITERATIONS, [lambda run, found: metrics.append(dict(found))])
    return metrics


def flat(state):
    """Numbers of the policy, the modules, the mixer and the optimiser, by name."""
    found = {}

    def walk(value, path):
        if isinstance(value, torch.Tensor):
            found[path] = value.double().flatten()
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}/{key}")

    for name in ("learner", "modules", "mixer"):
        walk(state[name], name)
    return found


def is_local(name):
    """Whether a tensor has rows of single environments, or is the state of random numbers."""
    return name.endswith((".returns", "generator")) or "visits" in name


def split_training():
    """Compare training in this run's processes with training in one."""
    kind = sys.argv[1]
    rollouts = []
    alone = trainer_of(kind, N)
    wanted_metrics = training(alone, None, rollouts)
    wanted = flat(alone.state_dict())
    with collective.joined():
        own = N // collective.size()
        ids = torch.arange(own) + collective.rank() * own
        split = trainer_of(kind, own)
        given = iter([columns(rollout, ids) for rollout in rollouts])
        metrics = training(split, given, [])
        found = flat(split.state_dict())
        sums = collective.stack(torch.stack([x.sum() for n, x in found.items() if not is_local(n)]))
        away = {
            name: float((found[name] - x).abs().max() / (1 + x.abs().max()))
            if len(found[name]) == len(x)
            else float("inf")
            for name, x in wanted.items()
            if len(x) and not is_local(name)
        }
        if collective.rank() == 0:
            table = alone.modules["count"].table
            same = split.modules["count"].table
            keys = table.keys[table.counts > 0]
            counts = [table.look_up(keys).tolist(), same.look_up(keys).tolist()]
    rank_0 = metrics and {
        "metrics": [metrics, wanted_metrics],
        "counts": counts,
        "rollout": [len(rollouts), split.session.steps, alone.session.steps],
    }
    worst = sorted(away, key=away.get)[-3:]
    print(
        json.dumps(
            {
                "away": {name: away[name] for name in worst},
                "number": len(away),
                "ranks_differ": bool((sums != sums[0]).any()),
                "rank_0": rank_0 or None,
            }
        )
    )
