"""Environments in parts: the rollouts of one runner for each, collected in turns."""

import dataclasses

import pytest
import torch

from firstlight.agents import MLP, PPO, ActorCritic, AsyncTrainer, Trainer
from firstlight.agents.algorithms.appo import APPO
from firstlight.envs.alternating import AlternatingRunner, join
from firstlight.envs.joined import JoinedVec
from firstlight.envs.runner import Runner
from firstlight.envs.seeding import derive
from firstlight.envs.types import check
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import HashCount
from firstlight.networks.cores import GRU

AUTORESETS = ("same_step", "next_step")
T = 11


def parts(autoreset="same_step"):
    return [Chain(n, length=2, horizon=3 + n, autoreset=autoreset) for n in (2, 3)]


def make_policy(vec, num_streams=1):
    torch.manual_seed(0)
    encoder, core = MLP(vec.obs_space, hidden=(8,)), GRU(8)
    return ActorCritic(
        vec.obs_space, vec.act_space, encoder=encoder, core=core, num_streams=num_streams
    )


def tensors(rollout):
    for field in dataclasses.fields(rollout):
        value = getattr(rollout, field.name)
        each = value.items() if isinstance(value, dict) else [("", value)]
        yield from (
            (f"{field.name}.{name}", tensor)
            for name, tensor in each
            if isinstance(tensor, torch.Tensor)
        )


def equal(one, other):
    one, other = dict(tensors(one)), dict(tensors(other))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("autoreset", AUTORESETS)
def test_a_rollout_is_that_of_a_runner_for_each_part(autoreset):
    vec = JoinedVec(parts(autoreset))
    policy = make_policy(vec)
    runner = AlternatingRunner(vec, seed=3, keep_states=True, keep_dist_params=True)
    seeds = [3, derive(3, "part", 1)]
    alone = [
        Runner(part, seed=seed, keep_states=True, keep_dist_params=True)
        for part, seed in zip(parts(autoreset), seeds, strict=True)
    ]
    for version in (0, 1):
        rollout = check(runner.collect(policy, T, version))
        each = [one.collect(policy, T, version) for one in alone]
        assert equal(rollout, join(each))
        for name in ("reward", "action", "valid"):
            first, second = (getattr(one, name) for one in each)
            joined = getattr(rollout, name)
            assert torch.equal(joined[:, :2], first)
            assert torch.equal(joined[:, 2:], second)
        for n, (part, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]):
            # what stands after a hidden end belongs to the same environment
            assert torch.equal(
                rollout.next_obs()["obs"][:, n], each[part].next_obs()["obs"][:, column]
            )
        assert rollout.final_at[:, 0].diff().ge(0).all()


def test_a_part_steps_while_the_policy_acts_in_the_other():
    events = []

    class Noted(Chain):
        def send(self, action):
            events.append(("send", self.num_envs))
            super().send(action)

        def recv(self):
            events.append(("receive", self.num_envs))
            return super().recv()

    vec = JoinedVec([Noted(2, length=2), Noted(3, length=2)])
    policy = make_policy(vec)
    AlternatingRunner(vec).collect(policy, 3)
    under_way = set()
    for i, (kind, part) in enumerate(events):
        (under_way.add if kind == "send" else under_way.remove)(part)
        if 1 < i < len(events) - 3:
            assert under_way, "no part steps while the policy acts"


@pytest.mark.parametrize("autoreset", AUTORESETS)
def test_joined_environments_step_as_each_part_does(autoreset):
    vec, alone = JoinedVec(parts(autoreset)), parts(autoreset)
    vec.reset(5)
    for i, part in enumerate(alone):
        part.reset(5 if i == 0 else derive(5, "part", 1))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        action = torch.randint(2, (5,), generator=generator)
        step = vec.step(action)
        first, second = (p.step(a) for p, a in zip(alone, action.split([2, 3]), strict=True))
        assert torch.equal(step.reward, torch.cat([first.reward, second.reward]))
        assert torch.equal(step.obs["obs"], torch.cat([first.obs["obs"], second.obs["obs"]]))
        assert step.final_ids.tolist() == [
            *first.final_ids.tolist(),
            *(second.final_ids + 2).tolist(),
        ]


def test_environments_of_several_parts_are_restored_in_the_order_asked_for():
    vec = JoinedVec(parts())
    vec.reset(0)
    for _ in range(3):
        vec.step(torch.ones(5, dtype=torch.int64))
        vec.step(torch.zeros(5, dtype=torch.int64))
    snapshots = vec.snapshots()
    now = vec.step(torch.ones(5, dtype=torch.int64)).obs["obs"]
    ids = torch.tensor([4, 0, 3])
    _, _, restarted = vec.restore(ids, [snapshots[i] for i in ids])
    assert not restarted.any()
    again = vec.step(torch.ones(5, dtype=torch.int64)).obs["obs"]
    assert torch.equal(again[ids], now[ids])


def test_parts_with_other_spaces_are_refused():
    with pytest.raises(ValueError, match="obs_space of the parts differ"):
        JoinedVec([Chain(2, length=2), Chain(2, length=5)])


def make_trainer(run_dir=None, kind=Trainer, vec=None, **options):
    vec = vec or JoinedVec(parts())
    policy = make_policy(vec, num_streams=2)
    learner = (APPO if kind is AsyncTrainer else PPO)(policy, minibatch_size=55, num_epochs=1)
    modules = {"count": HashCount(vec.obs_space)}
    return kind(vec, learner, modules, num_steps=T, run_dir=run_dir, **options)


def parameters(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.policy.parameters()])


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.run(5 * T * 6)
    make_trainer(tmp_path / "two").run(5 * T * 3)
    resumed = make_trainer(tmp_path / "two", resume=True)
    resumed.run(5 * T * 6)
    assert torch.equal(parameters(whole), parameters(resumed))


def test_an_asynchronous_trainer_without_a_queue_trains_the_same():
    one = make_trainer()
    other = make_trainer(kind=AsyncTrainer, queue_size=0)
    for trainer in (one, other):
        trainer.run(5 * T * 3)
    assert torch.equal(parameters(one), parameters(other))


@pytest.mark.parametrize("halves_first", [True, False])
def test_a_checkpoint_of_other_parts_is_refused(tmp_path, halves_first):
    halves, whole = JoinedVec(parts()), Chain(5, length=2, horizon=5)
    first, second = (halves, whole) if halves_first else (whole, halves)
    make_trainer(tmp_path, vec=first).run(5 * T)
    with pytest.raises(ValueError, match=r"parts, expected .*: set alternate as it was"):
        make_trainer(tmp_path, vec=second, resume=True)
