"""`check_module`: valid modules pass and each violated rule is reported."""

import copy

import pytest
import torch
from torch import nn

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.bonuses import RND, HashCount
from firstlight.intrinsic.check import check_module
from firstlight.intrinsic.state import isolated_rng

SPACE = Chain().obs_space


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "module",
    [
        HashCount(SPACE),
        HashCount(SPACE, scope="episodic"),
        HashCount(SPACE, scope="first_visit"),
        HashCount(SPACE, keys=["position"]),
        RND(SPACE),
        RND(SPACE, network="published"),
        RND(SPACE, embedding_dim=16, hidden=32, update_proportion=0.25, distance="l2"),
    ],
)
def test_the_modules_of_the_package_pass_and_are_not_changed(module):
    before = copy.deepcopy(module.state_dict())
    numbers = torch.get_rng_state()
    check_module(module)
    assert torch.equal(torch.get_rng_state(), numbers)
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, before[name])


class Count(HashCount):
    """Ours, to be broken."""

    def __init__(self):
        super().__init__(SPACE)


class Constant(IntrinsicModule):
    def compute(self, rollout):
        return rollout.valid.float()


class OverEnvironments(Count):
    def compute(self, rollout):
        return super().compute(rollout).cumsum(1) * rollout.valid


class ByColumn(Count):
    """Remembers by column, not by environment."""

    def __init__(self):
        super().__init__()
        self.last = None

    def compute(self, rollout):
        bonus = super().compute(rollout)
        total = bonus.cumsum(0) + (0 if self.last is None else self.last)
        self.last = total[-1]
        return total * rollout.valid


class LearnsInCompute(Count):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def compute(self, rollout):
        with torch.no_grad():
            self.scale *= 0.9
        return super().compute(rollout) * self.scale.detach()


class WritesIntoRollout(Count):
    def compute(self, rollout):
        rollout.obs["obs"][0, 0, 0] += 1
        return super().compute(rollout)


class UpdateWrites(Count):
    def update(self, rollout):
        rollout.reward.add_(1)
        return {}


class DrawsGlobalNumbers(Count):
    def compute(self, rollout):
        return super().compute(rollout) + torch.rand(()) * rollout.valid


class UpdateDraws(Count):
    def update(self, rollout):
        torch.randperm(4)
        return {}


class NeverForgets(IntrinsicModule):
    """Counts per environment and never opens a new episode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("visits", torch.zeros(1000, 9))

    def compute(self, rollout):
        bonus = torch.zeros_like(rollout.reward)
        for t, state in enumerate(rollout.next_obs()["obs"].argmax(-1)):
            row = rollout.valid[t].float()
            self.visits[rollout.env_ids, state] += row
            bonus[t] = row * self.visits[rollout.env_ids, state].clamp(min=1).rsqrt()
        return bonus


class RewardsInvalidRows(Count):
    def compute(self, rollout):
        return super().compute(rollout) + 1


class CountsInvalidRows(IntrinsicModule):
    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(()))

    def compute(self, rollout):
        rows = self.rows + torch.arange(1.0, 1 + rollout.num_steps)
        self.rows += rollout.num_steps
        return rows.rsqrt()[:, None] * rollout.valid


class CentresRollout(Count):
    """Takes the mean of the rollout at hand off, so pay depends on where rollouts are cut."""

    def compute(self, rollout):
        bonus = super().compute(rollout)
        return torch.where(rollout.valid, bonus - bonus[rollout.valid].sum() / 100, 0.0)


class WrongShape(Count):
    def compute(self, rollout):
        return super().compute(rollout).T


class WrongDtype(Count):
    def compute(self, rollout):
        return super().compute(rollout).double()


class CarriesGradient(Count):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def compute(self, rollout):
        return super().compute(rollout) * self.scale


class Infinite(Count):
    def compute(self, rollout):
        return super().compute(rollout) / rollout.reward


class UpdateReturnsTensor(Count):
    def update(self, rollout):
        return {"loss": torch.zeros(())}


class ForgetsOnSaving(Count):
    def __init__(self):
        super().__init__()
        self.age = 0

    def compute(self, rollout):
        return super().compute(rollout) / (1 + self.age)

    def update(self, rollout):
        self.age += 1
        return {}


class UnsavedOptimizer(RND):
    """Its predictor is saved and its Adam is not."""

    def __init__(self):
        super().__init__(SPACE, embedding_dim=8, hidden=16)
        with isolated_rng(0):
            self.net = nn.Linear(1, 1)
        self.adam = torch.optim.Adam(self.net.parameters())

    def update(self, rollout):
        loss = self.net(torch.ones(1, 1)).square().sum()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return {"loss": loss.item()}


class SavesAnObject(Count):
    def get_extra_state(self):
        return {"thing": object()}

    def set_extra_state(self, state):
        pass


class RewardsFamiliarStates(Count):
    def compute(self, rollout):
        return (2 - super().compute(rollout)) * rollout.valid


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (Constant, "constant"),
        (OverEnvironments, "over dimension 1"),
        (ByColumn, "ignores env_ids"),
        (LearnsInCompute, "compute changes the parameter 'scale'"),
        (WritesIntoRollout, r"compute writes into rollout.obs\['obs'\]"),
        (UpdateWrites, r"update writes into rollout.reward"),
        (DrawsGlobalNumbers, "compute draws torch's global random numbers"),
        (UpdateDraws, "update draws torch's global random numbers"),
        (NeverForgets, "memory crosses is_first"),
        (RewardsInvalidRows, "not valid gets a bonus"),
        (CountsInvalidRows, "not valid leave a trace"),
        (CentresRollout, "two half rollouts"),
        (WrongShape, r"compute returns \(8, 64\)"),
        (WrongDtype, "float64, not float32"),
        (CarriesGradient, "gradient"),
        (Infinite, "nan or inf"),
        (UpdateReturnsTensor, "not a finite float"),
        (ForgetsOnSaving, "saved and loaded, the module computes"),
        (UnsavedOptimizer, "saved and loaded, the module updates"),
        (SavesAnObject, r"state_dict\['_extra_state'\]\['thing'\]"),
        (RewardsFamiliarStates, "a state never visited gets"),
    ],
)
def test_each_violated_rule_is_reported(broken, sentence):
    with pytest.raises(AssertionError, match=f"{broken.__name__}: .*{sentence}"):
        check_module(broken())


class Ensemble(Count):
    def compute(self, rollout):
        bonus = super().compute(rollout)
        return torch.stack([bonus, 2 * bonus], -1)


class Teacher(Constant):
    novelty = False


@pytest.mark.parametrize("module", [Ensemble(), Teacher()])
def test_ensembles_pass_and_only_novelty_bonuses_must_fall(module):
    check_module(module)


def test_it_runs_on_given_environments():
    vec = Chain(num_envs=3, length=4)
    module = HashCount(vec.obs_space, scope="first_visit")
    check_module(module, vec=vec, steps=20)
    check_module(module, vec=Chain(num_envs=1, length=4), steps=20)


def test_too_few_distinct_states_raise_an_error():
    vec = Chain(num_envs=1, length=1)
    with pytest.raises(ValueError, match="a random agent saw 1 observations in 20 steps"):
        check_module(HashCount(vec.obs_space), vec=vec, steps=10)


def test_the_module_is_checked_on_the_environments_it_wraps():
    class Wraps(Count):
        def wrap(self, vec):
            return Chain(num_envs=vec.num_envs)

    check_module(Wraps(), vec=Chain(num_envs=2, length=1))
