"""`ProgramFeatures` shows the policy what a program computes, in one exchange a step."""

import logging
import sys

import numpy as np
import pytest
import torch

from firstlight.agents.agent import Agent
from firstlight.agents.policy import ActorCritic
from firstlight.envs import Chain
from firstlight.envs.check import check_vec
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import ProgramReward, check_module
from firstlight.intrinsic.design.execution import Execution
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.networks.encoders import MLP

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

PROGRAM = """
import numpy as np
RANGES = {"seen": (0, 100)}
FEATURES = {"age": (1, 0, 50, 7), "place": (2, -1, 3, 0.5)}
def reward(obs, action, next_obs, info, memory):
    return {"seen": next_obs["program_age"][:, 0]}
def features(obs, info, memory):
    here = obs["obs"].argmax(-1)
    age = memory.get("age", np.zeros(len(here))) + 1
    farthest = np.maximum(memory.get("farthest", here * 0), here)
    memory["age"], memory["farthest"] = age, farthest
    return {"age": age, "place": np.stack([farthest, here - info["position"]], 1)}
"""
N = 3
MODES = ("same_step", "next_step")
modes = pytest.mark.parametrize("autoreset", MODES)
kinds = pytest.mark.parametrize("trusted", [False, True], ids=["sandbox", "trusted"])


def world(autoreset="same_step"):
    return Chain(N, length=4, horizon=6, autoreset=autoreset)


def wrapped(autoreset="same_step", source=PROGRAM, **options):
    return ProgramReward(source=source, **options).wrap(world(autoreset))


@modes
@kinds
def test_the_fields_are_those_of_a_plain_loop(autoreset, trusted):
    vec = wrapped(autoreset, trusted=trusted)
    runner, actor = Runner(vec), RandomActor(vec.act_space)
    age, farthest = [0] * N, [0] * N
    for r in range(2):
        rollout = runner.collect(actor, 17)
        ends = {(t, n): d for d, (t, n) in enumerate(rollout.final_at.tolist())}

        def check(fields, row, n):
            here = int(fields["obs"][row].argmax())
            age[n], farthest[n] = age[n] + 1, max(farthest[n], here)
            assert fields["program_age"][row].tolist() == [age[n]]
            assert fields["program_place"][row].tolist() == [min(farthest[n], 3), 0]

        for t in range(-1 if r == 0 else 0, 17):
            for n in range(N):
                if (d := ends.get((t, n))) is not None:
                    check(rollout.final_obs, d, n)
                if rollout.is_first[t + 1, n]:
                    age[n] = farthest[n] = 0
                if rollout.is_first[t + 1, n] or rollout.valid[t, n]:
                    check(rollout.obs, (t + 1, n), n)
    assert len(ends) > 3 or autoreset == "next_step"
    vec.close()


@modes
def test_the_wrapped_environments_keep_the_contract_and_are_saved(autoreset):
    vec, other = wrapped(autoreset), wrapped(autoreset)
    check_vec(wrapped(autoreset, trusted=True))
    vec.reset(0)
    actions = torch.randint(0, 2, (20, N), generator=torch.Generator().manual_seed(0))
    steps = [vec.step(action) for action in actions[:7]]
    obs, _, restarted = other.load_state_dict(vec.state_dict())
    assert not restarted.any()
    assert all(torch.equal(obs[name], steps[-1].obs[name]) for name in obs)
    one = vec.snapshots()
    obs, _, _ = other.restore(torch.tensor([2, 0]), [one[2], one[0]])
    assert torch.equal(obs["program_age"], steps[-1].obs["program_age"][[2, 0]])
    for action in actions[7:]:
        first, second = vec.step(action), other.step(action)
        assert all(torch.equal(first.obs[name], second.obs[name]) for name in first.obs)
        assert all(torch.equal(first.final_obs[name], second.final_obs[name]) for name in obs)
    vec.close()
    other.close()


def test_a_step_is_one_exchange_whether_episodes_end_or_not(monkeypatch):
    calls = []
    run = Execution.run
    monkeypatch.setattr(Execution, "run", lambda *given: calls.append(1) or run(*given))
    vec = wrapped(trusted=True)
    Runner(vec).collect(RandomActor(vec.act_space), 40)
    assert len(calls) == 41


def test_the_module_obeys_the_rules_and_its_reward_sees_the_fields():
    vec = world()
    check_module(ProgramReward(source=PROGRAM, trusted=True), vec=vec)
    module = ProgramReward(source=PROGRAM, trusted=True)
    vec = module.wrap(vec)
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 9)
    expected = rollout.next_obs()["program_age"][..., 0]
    assert torch.equal(module.compute(rollout), expected)


def test_an_agent_acts_without_the_fields_as_with_their_fallbacks():
    vec = wrapped(trusted=True)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(8,)))
    seen = []
    policy.register_forward_hook(lambda _, __, out: seen.append(out.dist.params))
    x = np.eye(5, dtype=np.uint8)
    fallbacks = {"program_age": np.full((5, 1), 7.0), "program_place": np.full((5, 2), 0.5)}
    Agent(policy).act({"obs": x})
    Agent(policy).act({"obs": x, **fallbacks})
    Agent(policy).act({"obs": x, **{name: 0 * field for name, field in fallbacks.items()}})
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_what_may_not_run_shows_the_fallbacks_and_starts_nothing(monkeypatch):
    monkeypatch.setattr(Execution, "__init__", None)
    module = ProgramReward(source=PROGRAM, may_run=False)
    assert module.shows_fallbacks
    vec = module.wrap(world())
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 9)
    assert (rollout.obs["program_age"] == 7).all()
    assert (rollout.final_obs["program_place"] == 0.5).all()
    with pytest.raises(ProgramError, match="not allowed"):
        module.compute(rollout)
    check_vec(vec)


@kinds
def test_features_that_fail_at_their_start_end_the_run_with_their_line(trusted):
    vec = wrapped(source=PROGRAM.replace('obs["obs"].arg', 'obs["map"].arg'), trusted=trusted)
    with pytest.raises(ProgramError, match="at their start: line 8: KeyError: 'map'"):
        Runner(vec).collect(RandomActor(vec.act_space), 3)


def test_features_that_fail_later_give_way_to_their_fallbacks(caplog):
    source = PROGRAM.replace("age = mem", "x = 1 / (here.max() < 2)\n    age = mem")
    source = source.replace("1 / (", "1 // int(")
    vec = wrapped(source=source, max_failures=2)
    with caplog.at_level(logging.WARNING):
        rollout = Runner(vec).collect(RandomActor(vec.act_space), 60)
    shown = rollout.obs["program_age"][:, :, 0]
    assert (shown[0] == 1).all()
    assert (shown[-1] == 7).all()
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2
    assert "ZeroDivisionError" in messages[0]
    assert "not computed any more" in messages[1]


def test_a_second_program_with_the_same_feature_is_refused():
    module = ProgramReward(source=PROGRAM, trusted=True)
    with pytest.raises(ValueError, match="observes 'program_age' already"):
        module.wrap(module.wrap(world()))


WRONG = {
    "def features(obs, info, memory)": ("def features(obs, memory)", r"takes \(obs, memory\)"),
    "def features": ("def feature", "FEATURES is set, but no features"),
    "FEATURES =": ("FEATURE =", "features is defined, but not FEATURES"),
    "(1, 0, 50, 7)": ("(1, 0, 50)", "lowest, highest, fallback"),
    "(1, 0, 50, 7) ": ("(1, 0, 50, 70)", "fallback within"),
    "(1, 0, 50, 7)  ": ("(0, 0, 50, 7)", "'age'"),
    "(1, 0, 50, 7)   ": ("(1.5, 0, 50, 7)", "'age'"),
    "(1, 0, 50, 7)    ": ("(600, 0, 50, 7)", "602 numbers"),
    '"age": (1': ('"an age": (1', "'an age'"),
}


@pytest.mark.parametrize("old", WRONG)
def test_what_is_declared_wrongly_is_refused(old):
    new, message = WRONG[old]
    with pytest.raises(ProgramError, match=message):
        RewardProgram.parse(PROGRAM.replace(old.strip(), new))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("np.ones((len(here), 3))", r"'place' as float64 \[3, 3\], expected numbers \[3, 2\]"),
        ("np.full((len(here), 2), np.nan)", "not finite"),
        ("'x'", "expected numbers"),
    ],
)
def test_values_of_another_form_than_declared_are_refused(value, message):
    a, b = PROGRAM.index("np.stack"), PROGRAM.index("}\n", PROGRAM.index("np.stack"))
    vec = wrapped(source=PROGRAM[:a] + value + PROGRAM[b:])
    with pytest.raises(ProgramError, match=message):
        vec.reset()
    vec.close()
