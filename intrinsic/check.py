"""`check_module`, the public conformance test of reward modules."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import MappingKey, keystr, tree_flatten_with_path

from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.seeding import generator
from firstlight.envs.types import Obs, Rollout, map_obs
from firstlight.envs.vec import VecEnv
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.memory import hash_rows

_VISITS = 1000
_STAY = 16  # steps of a rollout that stays in one state: short, so that modules update often


def check_module(module: IntrinsicModule, *, vec: VecEnv | None = None, steps: int = 64) -> None:
    """Check a reward module against the rules of `IntrinsicModule`, on copies of it.

    Checks shape, dtype and purity of `compute`; that rows that are not valid get no bonus and leave
    no trace; that permuting environments permutes bonuses; that two half rollouts equal the whole;
    that episodic memory ends with its episode; what `update` returns; that a module restored from
    its `state_dict` continues identically, bit for bit on the CPU; and, if `module.novelty`, that
    the bonus is not constant and is higher for a new state than after 1,000 visits.

    Args:
        module: built for the observations of `vec`.
        vec: environments to use; default `Chain` in both autoreset modes, whose observation is
            ``{"obs": uint8 [9]}``.
        steps: length of the rollouts, at least 2.

    Raises:
        AssertionError: one sentence about the first violated rule.
        ValueError: if a random agent sees too few states in `vec`.

    >>> from firstlight.intrinsic.bonuses import HashCount
    >>> check_module(HashCount(Chain().obs_space))
    """
    chains = (Chain(), Chain(autoreset="next_step"))
    for each in chains if vec is None else (vec,):
        _Case(module, each, steps).check()


class _Case:
    """One module on one vector environment."""

    def __init__(self, module: IntrinsicModule, vec: Any, steps: int):
        self.name = type(module).__name__
        self.original = copy.deepcopy(module)
        vec = self.original.wrap(vec)
        runner, actor = Runner(vec), RandomActor(vec.act_space)
        tensors = chain(module.parameters(), module.buffers())
        self.device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        collected = [runner.collect(actor, steps).to(self.device) for _ in range(3)]
        self.first, self.second = collected[1:]
        self.pool_obs, self.pool_info = _distinct_states(collected[1:])
        self.num_states = len(next(iter(self.pool_obs.values())))
        if self.num_states < 3:
            seen = f"a random agent saw {self.num_states} observations in {2 * steps} steps"
            raise ValueError(f"{seen}, expected at least 3: pass another vec or more steps")
        self.original.warmup(collected[0])

    def check(self) -> None:
        self.check_compute()
        self.check_invalid_rows()
        self.check_permutation()
        self.check_halves()
        self.check_episodes()
        self.check_update()
        self.check_state()
        if self.original.novelty:
            self.check_novelty()

    def require(self, holds: bool, sentence: str) -> None:
        if not holds:
            raise AssertionError(f"{self.name}: {sentence}")

    def fresh(self) -> IntrinsicModule:
        return copy.deepcopy(self.original)

    def check_compute(self) -> None:
        module, rollout = self.fresh(), self.first
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        with self.unchanged(rollout, "compute"):
            bonus = module.compute(rollout)
        for name, parameter in module.named_parameters():
            same = torch.equal(parameter, before[name])
            self.require(same, f"compute changes the parameter {name!r}; only update may learn")
        lead, shape = tuple(rollout.reward.shape), tuple(bonus.shape)
        fits = shape[:2] == lead and len(shape) in (2, 3)
        self.require(fits, f"compute returns {shape}, not [T, N] or [T, N, M] with T, N = {lead}")
        self.require(bonus.dtype == torch.float32, f"compute returns {bonus.dtype}, not float32")
        self.require(not bonus.requires_grad, "compute returns a bonus that requires a gradient")
        self.require(bool(bonus.isfinite().all()), "compute returns nan or inf")

    def check_invalid_rows(self) -> None:
        rollout = self.first
        over = rollout.terminated | rollout.truncated
        noise = torch.rand(over.shape, generator=generator(0, "check")).to(self.device)
        holes = dataclasses.replace(rollout, valid=rollout.valid & (over | (noise > 0.3)))
        bonus = self.fresh().compute(holes)[~holes.valid]
        self.require(not bonus.any(), "a row that is not valid gets a bonus other than 0")
        valid, is_first = torch.zeros_like(over), torch.zeros_like(rollout.is_first)
        nothing = dataclasses.replace(rollout, valid=valid, is_first=is_first)
        module = self.fresh()
        module.compute(nothing)
        same = _close(module.compute(self.second), self.fresh().compute(self.second))
        self.require(same, "rows that are not valid leave a trace in later bonuses")

    def check_permutation(self) -> None:
        module, permuted = self.fresh(), self.fresh()
        columns = torch.arange(self.first.num_envs, device=self.device)
        for rollout, order in ((self.first, columns.roll(1)), (self.second, columns.roll(2))):
            here, there = module.compute(rollout), permuted.compute(_permute(rollout, order))
            sentence = "permuting environments does not just permute bonuses: something runs "
            sentence += "over dimension 1, environments, not 0, time, or memory ignores env_ids"
            self.require(_close(here[:, order], there), sentence)

    def check_halves(self) -> None:
        middle, end = self.first.num_steps // 2, self.first.num_steps
        module = self.fresh()
        halves = [module.compute(self.first.slice(*cut)) for cut in ((0, middle), (middle, end))]
        same = _close(torch.cat(halves), self.fresh().compute(self.first))
        self.require(same, "two half rollouts have other bonuses than the whole")

    def check_episodes(self) -> None:
        """Different first episodes, then the same one everywhere, which must get equal bonuses."""
        N, P, L = self.first.num_envs, self.num_states, _STAY
        index = torch.empty((3 * L + 1, N), dtype=torch.int64)
        index[:L] = torch.arange(N) % P
        index[L:] = (torch.arange(2 * L + 1) // 2 % P)[:, None]
        is_first = torch.zeros(index.shape, dtype=torch.bool)
        is_first[0] = is_first[L] = True
        rollout = self.stage(index, is_first)
        cut = self.fresh()
        cut.compute(rollout.slice(0, L))
        for bonus in (self.fresh().compute(rollout)[L:], cut.compute(rollout.slice(L, 3 * L))):
            same = _close(bonus, bonus[:, :1].expand_as(bonus))
            self.require(same, "memory crosses is_first: a bonus depends on an earlier episode")

    def check_update(self) -> None:
        module = self.fresh()
        module.compute(self.first)
        with self.unchanged(self.first, "update"):
            metrics = module.update(self.first)
        for name, value in metrics.items():
            finite = isinstance(value, float) and math.isfinite(value)
            self.require(finite, f"update returns {name}={value!r}, not a finite float")

    def check_state(self) -> None:
        original, loaded = self.fresh(), self.fresh()
        original.compute(self.first)
        original.update(self.first)
        state = copy.deepcopy(original.state_dict())
        for place in _unsavable(state):
            self.require(False, f"{place} is neither tensor, number, string, list nor dict")
        loaded.load_state_dict(state)
        for rollout in (self.second, self.first):
            a, b = original.compute(rollout), loaded.compute(rollout)
            same = torch.equal(a, b) if self.device.type == "cpu" else _close(a, b)
            self.require(same, "saved and loaded, the module computes another bonus")
            one, two = original.update(rollout), loaded.update(rollout)
            same = one == two or self.device.type != "cpu"
            self.require(same, f"saved and loaded, the module updates otherwise: {one} != {two}")

    def check_novelty(self) -> None:
        bonus = self.fresh().compute(self.first)[self.first.valid]
        self.require(not _close(bonus, bonus[:1].expand_as(bonus)), "the bonus is a constant")
        module, N = self.fresh(), self.first.num_envs
        stay = torch.zeros((_STAY + 1, N), dtype=torch.int64)
        is_first = torch.zeros(stay.shape, dtype=torch.bool)
        for round_ in range(math.ceil(_VISITS / (_STAY * N))):
            is_first[0] = round_ == 0
            rollout = self.stage(stay, is_first)
            module.compute(rollout)
            module.update(rollout)
        move = stay[:2].clone()
        move[1] = 1 + torch.arange(N) % (self.num_states - 1)
        is_first[0] = False
        stays, moves = (self.stage(index, is_first[:2]) for index in (stay[:2], move))
        known = copy.deepcopy(module).compute(stays).mean().item()
        novel = module.compute(moves).mean().item()
        bonuses = f"a state never visited gets {novel:.3g}, one visited {_VISITS} times {known:.3g}"
        self.require(novel > known, f"{bonuses}; set novelty = False if it is no novelty bonus")

    @contextmanager
    def unchanged(self, rollout: Rollout, method: str) -> Iterator[None]:
        """Require that neither `rollout` nor torch's global random numbers change inside."""
        before = {name: field.clone() for name, field in _fields(rollout)}
        numbers = torch.get_rng_state()
        yield
        for name, field in _fields(rollout):
            same = torch.equal(field, before[name])
            self.require(same, f"{method} writes into rollout.{name}")
        same = torch.equal(numbers, torch.get_rng_state())
        self.require(same, f"{method} draws torch's global random numbers; use a torch.Generator")

    def stage(self, index: Tensor, is_first: Tensor) -> Rollout:
        """Build a rollout through states `index` [T+1, N]; episodes are truncated at `is_first`."""
        T, N = len(index) - 1, index.shape[1]
        ends = is_first[1:]
        last = index[:-1][ends]
        no = torch.zeros((T, N), dtype=torch.bool)
        action = self.first.action[:1, :1].cpu()
        return Rollout(
            obs=map_obs(lambda field: field[index], self.pool_obs),
            info=map_obs(lambda field: field[index], self.pool_info),
            action=action.expand(T, N, *action.shape[2:]).clone(),
            log_prob=torch.zeros(T, N),
            value=torch.zeros(T + 1, N, self.first.value.shape[-1]),
            dist_params=None,
            reward=torch.zeros(T, N),
            terminated=no,
            truncated=ends.clone(),
            valid=~no,
            is_first=is_first.clone(),
            final_at=ends.nonzero(),
            final_obs=map_obs(lambda field: field[last], self.pool_obs),
            final_info=map_obs(lambda field: field[last], self.pool_info),
            final_state={},
            state={},
            env_ids=torch.arange(N),
        ).to(self.device)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def _fields(rollout: Rollout) -> Iterator[tuple[str, Tensor]]:
    for field in dataclasses.fields(rollout):
        value = getattr(rollout, field.name)
        if isinstance(value, Tensor):
            yield field.name, value
        elif isinstance(value, dict):
            yield from ((f"{field.name}[{name!r}]", tensor) for name, tensor in value.items())


def _permute(rollout: Rollout, order: Tensor) -> Rollout:
    """Move column ``order[j]`` to column j."""

    def columns(value: Any) -> Any:
        if isinstance(value, dict):
            return map_obs(columns, value)
        return value[:, order] if isinstance(value, Tensor) else value

    final_at = rollout.final_at.clone()
    final_at[:, 1] = order.argsort()[final_at[:, 1]]
    changed = {
        field.name: columns(getattr(rollout, field.name))
        for field in dataclasses.fields(rollout)
        if not field.name.startswith(("final_", "state", "env_ids"))
    }
    return dataclasses.replace(
        rollout,
        **changed,
        final_at=final_at,
        state=map_obs(lambda field: field[order], rollout.state),
        env_ids=rollout.env_ids[order],
    )


def _distinct_states(rollouts: list[Rollout]) -> tuple[Obs, Obs]:
    """Distinct observations in `rollouts`, and their info channels; [P, ...] on the CPU."""

    def rows(group: str) -> Obs:
        parts = [getattr(rollout, group) for rollout in rollouts]
        return {n: torch.cat([part[n].flatten(0, 1).cpu() for part in parts]) for n in parts[0]}

    obs, info = rows("obs"), rows("info")
    keys = hash_rows(obs.values(), len(next(iter(obs.values()))))
    _, first = np.unique(keys.numpy(), return_index=True)
    index = torch.from_numpy(np.sort(first))
    return map_obs(lambda field: field[index], obs), map_obs(lambda field: field[index], info)


def _unsavable(state: dict[str, Any]) -> Iterator[str]:
    """Places in a `state_dict` that a checkpoint of tensors and JSON cannot hold."""
    for path, value in tree_flatten_with_path(state)[0]:
        if not isinstance(value, Tensor | str | int | float | bool | None):
            yield f"state_dict{keystr(path)}"
        for key in path:
            if isinstance(key, MappingKey) and not isinstance(key.key, str):
                yield f"the key {key.key!r} in state_dict{keystr(path)}"
