"""The alarm's memory: saved with the mixer and the run, and not missed where it was not saved."""

import logging

import pytest
import torch

from firstlight import envs
from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.intrinsic import HashCount, Heads, RewardMixer, Sum, Term


@pytest.fixture
def rollout():
    vec = envs.Chain(6, length=2)
    return envs.Runner(vec).collect(envs.RandomActor(vec.act_space), 40)


def warnings(caplog):
    lines = [record.getMessage() for record in caplog.records if "of all reward" in record.msg]
    caplog.clear()
    return lines


def fresh(names="ab"):
    return RewardMixer({name: Term() for name in names}, Sum())


def iterate(mixer, rollout, caplog, **size):
    """Warnings of an iteration in which sources pay these sizes."""
    bonus = {name: torch.full_like(rollout.reward, size.get(name, 1e-3)) for name in "ab"}
    mixer.update(rollout, mixer(rollout, bonus))
    return warnings(caplog)


def test_a_loaded_mixer_warns_of_what_is_new_alone(rollout, caplog):
    caplog.set_level(logging.WARNING)
    mixer, loaded = fresh(), fresh()
    assert len(iterate(mixer, rollout, caplog, a=1e6)) == 1
    loaded.load_state_dict(mixer.state_dict())
    assert iterate(loaded, rollout, caplog, a=1e6) == []
    (line,) = iterate(loaded, rollout, caplog, b=1e6)  # and a has recovered
    assert "'b' makes" in line
    (line,) = iterate(loaded, rollout, caplog, a=1e6)
    assert "'a' makes" in line


def test_calling_the_mixer_and_a_silent_task_remember_nothing(rollout, caplog):
    mixer = fresh()
    bonus = {name: torch.full_like(rollout.reward, 1e6) for name in "ab"}
    mixer(rollout, bonus)
    assert not mixer.alarm.loud.any()
    iterate(mixer, rollout, caplog, a=1e6)
    assert mixer.alarm.loud.tolist() == [False, True, False]
    rollout.reward.zero_()
    iterate(mixer, rollout, caplog, b=1e6)
    assert mixer.alarm.loud.tolist() == [False, True, False]


def test_a_state_from_before_it_was_saved_loads_and_may_say_it_again(rollout, caplog):
    caplog.set_level(logging.WARNING)
    mixer, loaded = fresh(), fresh()
    iterate(loaded, rollout, caplog, b=1e6)
    old = {name: value for name, value in mixer.state_dict().items() if "alarm" not in name}
    assert len(old) == len(mixer.state_dict()) - 1
    loaded.load_state_dict(old)
    assert not loaded.alarm.loud.any()
    assert len(iterate(loaded, rollout, caplog, b=1e6)) == 1
    fewer = RewardMixer({"a": Term()}, Sum()).state_dict()
    loaded.load_state_dict(fewer)  # of other sources: nothing is known of these
    assert loaded.alarm.loud.tolist() == [False] * 3


def test_a_resumed_run_does_not_say_it_twice(tmp_path, caplog):
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
