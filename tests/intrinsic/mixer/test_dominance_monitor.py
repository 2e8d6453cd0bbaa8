"""`DominanceMonitor`: when it warns, what it stores, and that its state is saved with the run."""

import dataclasses
import logging

import pytest
import torch

from firstlight import envs
from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.intrinsic import HashCount, Heads, RewardMixer, Sum, Term
from firstlight.intrinsic.mixer import Krc, Product, ShareCap

JOINING = {
    "product": Product,
    "product, one head": lambda: Product(heads=False),
    "krc": Krc,
    "krc, one head": lambda: Krc(heads=False),
}


@pytest.fixture
def rollout():
    vec = envs.Chain(6, length=2)
    return envs.Runner(vec).collect(envs.RandomActor(vec.act_space), 40)


def noise(rollout, seed=0):
    return torch.rand(rollout.reward.shape, generator=torch.Generator().manual_seed(seed))


def warnings(caplog):
    lines = [record.getMessage() for record in caplog.records if "of all reward" in record.msg]
    caplog.clear()
    return lines


def fresh(names="ab"):
    return RewardMixer({name: Term() for name in names}, Sum())


def iterate(mixer, rollout, caplog, **size):
    """Warnings of one iteration with constant bonuses of these sizes."""
    bonus = {name: torch.full_like(rollout.reward, size.get(name, 1e-3)) for name in "ab"}
    mixer.update(rollout, mixer(rollout, bonus))
    return warnings(caplog)


def test_a_restored_mixer_warns_only_about_new_dominance(rollout, caplog):
    caplog.set_level(logging.WARNING)
    mixer, loaded = fresh(), fresh()
    assert len(iterate(mixer, rollout, caplog, a=1e6)) == 1
    loaded.load_state_dict(mixer.state_dict())
    assert iterate(loaded, rollout, caplog, a=1e6) == []
    (line,) = iterate(loaded, rollout, caplog, b=1e6)  # and a has recovered
    assert "'b' makes" in line
    (line,) = iterate(loaded, rollout, caplog, a=1e6)
    assert "'a' makes" in line


def test_forward_and_rollouts_without_task_reward_store_nothing(rollout, caplog):
    mixer = fresh()
    bonus = {name: torch.full_like(rollout.reward, 1e6) for name in "ab"}
    mixer(rollout, bonus)
    assert not mixer.alarm.loud.any()
    iterate(mixer, rollout, caplog, a=1e6)
    assert mixer.alarm.loud.tolist() == [False, True, False]
    rollout.reward.zero_()
    iterate(mixer, rollout, caplog, b=1e6)
    assert mixer.alarm.loud.tolist() == [False, True, False]


def test_a_state_dict_without_the_monitor_loads_and_resets_it(rollout, caplog):
    caplog.set_level(logging.WARNING)
    mixer, loaded = fresh(), fresh()
    iterate(loaded, rollout, caplog, b=1e6)
    old = {name: value for name, value in mixer.state_dict().items() if "alarm" not in name}
    assert len(old) == len(mixer.state_dict()) - 1
    loaded.load_state_dict(old)
    assert not loaded.alarm.loud.any()
    assert len(iterate(loaded, rollout, caplog, b=1e6)) == 1
    fewer = RewardMixer({"a": Term()}, Sum()).state_dict()
    loaded.load_state_dict(fewer)  # saved with other sources
    assert loaded.alarm.loud.tolist() == [False] * 3


def test_a_resumed_run_does_not_repeat_a_warning(tmp_path, caplog):
    caplog.set_level(logging.WARNING)

    def run(steps, **options):
        vec = envs.Chain(8, length=2)
        torch.manual_seed(0)
        encoder = MLP(vec.obs_space, hidden=(8,))
        policy = ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=2)
        mixer = RewardMixer({"count": Term(weight=1e4)}, Heads())
        modules = {"count": HashCount(vec.obs_space)}
        learner = PPO(policy, minibatch_size=64, num_epochs=1)
        Trainer(vec, learner, modules, mixer, run_dir=tmp_path, num_steps=32, **options).run(steps)
        return len(warnings(caplog))

    assert run(512) == 1
    assert run(1024, resume=True) == 0


def test_a_dominant_bonus_is_reported_once_and_again_only_after_recovery(rollout, caplog):
    caplog.set_level(logging.WARNING)
    assert rollout.reward.any()
    mixer = RewardMixer({"a": Term(weight=0.01), "b": Term(weight=0.01)}, Sum())

    def iterate(size):
        bonus = {"a": noise(rollout), "b": size * noise(rollout, 1)}
        mixer.update(rollout, mixer(rollout, bonus))
        return warnings(caplog)

    assert iterate(1.0) == []
    (line,) = iterate(1e6)
    assert "'b' makes 100.0%" in line
    assert "mixer.terms.b.weight" in line
    assert iterate(1e6) == []
    assert iterate(1.0) == []
    assert len(iterate(1e6)) == 1


def test_no_warning_without_task_reward_and_none_about_the_task_itself(rollout, caplog):
    caplog.set_level(logging.WARNING)
    silent = dataclasses.replace(rollout, reward=torch.zeros_like(rollout.reward))
    mixer = RewardMixer({"b": Term()}, Sum())
    mixer.update(silent, mixer(silent, {"b": noise(rollout)}))
    quiet = RewardMixer({"b": Term(weight=1e-6)}, Sum())
    quiet.update(rollout, quiet(rollout, {"b": noise(rollout)}))
    assert warnings(caplog) == []


def test_a_share_cap_prevents_the_warning(rollout, caplog):
    caplog.set_level(logging.WARNING)
    mixer = RewardMixer({"b": Term(weight=1e6, budget=ShareCap(share=0.5))}, Sum())
    mixer.update(rollout, mixer(rollout, {"b": noise(rollout)}))
    assert warnings(caplog) == []


@pytest.mark.parametrize("make", JOINING.values(), ids=JOINING)
def test_a_dominant_joint_bonus_is_reported_once_with_all_its_sources(rollout, make, caplog):
    caplog.set_level(logging.WARNING)
    mixer = RewardMixer({"a": Term(), "b": Term()}, make())

    def iterate(size):
        bonus = {"a": 1e5 * size * noise(rollout), "b": 1e-5 * size * noise(rollout, 1)}
        mixer.update(rollout, mixer(rollout, bonus))
        return warnings(caplog)

    assert iterate(0.1) == []  # large in its own units, small in the bonus
    (line,) = iterate(1e3)
    assert "sources 'a' and 'b' together make 100.0%" in line
    assert iterate(1e3) == []
    assert iterate(0.1) == []
    assert len(iterate(1e3)) == 1
