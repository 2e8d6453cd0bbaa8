"""A loaded agent acts as the saved policy, on raw observations of an environment."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents.agent import Agent, load
from firstlight.agents.policy import ActorCritic
from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.checkpoint import CheckpointError
from firstlight.networks.distributions import Categorical, DiagGaussian
from firstlight.networks.encoders import MLP
from firstlight.networks.spec import SpecError, describe, rebuildable

OBS = spaces.Dict({"obs": spaces.Box(-1, 1, (3,), np.float32)})


@rebuildable
class Tiny(nn.Module):
    """Sums its observations and the number of calls since `is_first`."""

    def __init__(self, obs_space: spaces.Dict, act_space: spaces.Space, *, width: int = 2):
        super().__init__()
        self.obs_space, self.act_space = obs_space, act_space
        size = int(np.prod(act_space.shape)) if isinstance(act_space, spaces.Box) else act_space.n
        self.head = nn.Linear(2, int(size))
        self.drop = nn.Dropout(0.9)

    def initial_state(self, num_envs):
        return {"calls": torch.zeros(num_envs)}

    def forward(self, obs, state, is_first):
        assert obs.keys() == self.obs_space.spaces.keys()
        for name, field in obs.items():
            space = self.obs_space[name]
            assert field.shape == (*is_first.shape, *space.shape), name
            assert field.numpy().dtype == space.dtype, name
        calls = torch.where(is_first[0], 0.0, state["calls"]) + 1
        lead = is_first.shape
        total = sum(field.float().reshape(*lead, -1).sum(-1) for field in obs.values())
        params = self.head(self.drop(torch.stack([total, calls[None]], -1)))
        discrete = isinstance(self.act_space, spaces.Discrete)
        dist = Categorical(params) if discrete else DiagGaussian(params, torch.zeros(1))
        return SimpleNamespace(dist=dist, value=None, state={"calls": calls})


def state_of(policy, spec=True):
    described = describe(policy) if spec else None
    return {"policy_spec": described, "learner": {"policy": policy.state_dict()}}


def tiny(obs_space=OBS, act_space=None):
    torch.manual_seed(0)
    return Tiny(obs_space, spaces.Discrete(7) if act_space is None else act_space)


def observations(n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3)).astype(np.float32)


def test_a_firstlight_policy_loads_without_allow(tmp_path):
    torch.manual_seed(0)
    policy = ActorCritic(OBS, spaces.Discrete(5), encoder=MLP(OBS), num_streams=2)
    for parameter in policy.parameters():
        nn.init.normal_(parameter)
    checkpoint.save(tmp_path / "checkpoints", state_of(policy), 40)
    agent = load(tmp_path)
    obs = observations(50)
    action, _ = agent.act(obs, deterministic=True)
    out = policy({"obs": torch.tensor(obs)[None]}, {}, torch.ones(1, 50, dtype=torch.bool))
    assert action.tolist() == out.dist.mode()[0].tolist()
    assert len(set(action.tolist())) > 1
    assert agent.step == 40
    assert agent.act_space == policy.act_space
    assert agent.obs_space == policy.obs_space
    assert not agent.policy.training


def test_load_finds_the_best_the_newest_and_a_named_checkpoint(tmp_path):
    folder, policies = tmp_path / "checkpoints", {}
    for step in (1, 2, 3):
        policies[step] = tiny()
        nn.init.constant_(policies[step].head.weight, float(step))
        checkpoint.save(folder, state_of(policies[step]), step)
    allow = ["test_agent"]

    def loaded(path=tmp_path, **options):
        return float(load(path, allow=allow, **options).policy.head.weight.detach()[0, 0])

    assert loaded() == 3
    nn.init.constant_(policies[1].head.weight, 9.0)
    checkpoint.save_best(folder, state_of(policies[1]), 2)
    assert loaded() == 9
    assert loaded(which="newest") == 3
    assert loaded(folder / "step_000000000001") == 1
    (folder / "best" / "state.json").write_text("damaged")
    (folder / "step_000000000003" / "state.json").write_text("damaged")
    assert loaded() == 2  # the newest complete one
    with pytest.raises(CheckpointError, match="best"):
        load(folder / "best", allow=allow)
    with pytest.raises(ValueError, match="'last', expected 'best' or 'newest'"):
        load(tmp_path, which="last")
    with pytest.raises(CheckpointError, match="nowhere is neither a checkpoint nor a run"):
        load(tmp_path / "nowhere")


def test_a_policy_of_another_package_needs_allow(tmp_path):
    policy = tiny()
    path = checkpoint.save(tmp_path, state_of(policy), 1)
    with pytest.raises(SpecError, match=r"test_agent\.Tiny .*allow=\['test_agent'\]"):
        load(path)
    given = Tiny(OBS, spaces.Discrete(7))
    for agent in (load(path, allow=["test_agent"]), load(path, policy=given)):
        assert torch.equal(agent.policy.head.weight, policy.head.weight)
    bare = checkpoint.save(tmp_path, state_of(policy, spec=False), 2)
    with pytest.raises(CheckpointError, match="pass policy="):
        load(bare)
    assert load(bare, policy=given).policy is given
    with pytest.raises(CheckpointError, match=r"does not fit Tiny: .*head\.weight"):
        load(bare, policy=Tiny(OBS, spaces.Discrete(6)))
    with pytest.raises(CheckpointError, match="holds no policy"):
        load(checkpoint.save(tmp_path, {"learner": {}}, 3))


def test_one_observation_gives_the_same_action_as_in_a_batch():
    agent = Agent(tiny().eval())
    obs = observations(20)
    many, _ = agent.act(obs, deterministic=True)
    assert many.shape == (20,)
    assert many.dtype == np.int64
    for single, wanted in zip(obs, many, strict=True):
        for given in (single, {"obs": single}, {"obs": single.tolist(), "mission": "go"}):
            action, _ = agent.act(given, deterministic=True)
            assert np.shape(action) == ()
            assert action == wanted
            assert agent.act_space.contains(action)


def test_state_is_carried_and_reset_at_the_first_step():
    agent = Agent(tiny().eval())
    obs = observations(3)
    _, state = agent.act(obs)
    assert state["calls"].tolist() == [1, 1, 1]
    _, state = agent.act(obs, state)
    assert state["calls"].tolist() == [2, 2, 2]
    _, state = agent.act(obs, state, is_first=np.array([False, True, False]))
    assert state["calls"].tolist() == [3, 1, 3]
    _, state = agent.act(obs)
    assert state["calls"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="2 environments"):
        agent.act(obs[:2], state)
    with pytest.raises(ValueError, match="3 environments"):
        agent.act(obs, state, is_first=np.array([True]))


def test_sampling_depends_on_the_agents_seed_alone(tmp_path):
    policy = tiny()
    nn.init.zeros_(policy.head.weight)
    path = checkpoint.save(tmp_path, state_of(policy), 1)

    def actions(seed):
        agent = load(path, allow=["test_agent"], seed=seed)
        return np.stack([agent.act(observations(30))[0] for _ in range(3)])

    random_state = torch.get_rng_state()
    draws = actions(1)
    assert np.array_equal(draws, actions(1))
    assert not np.array_equal(draws, actions(2))
    assert not np.array_equal(draws[0], draws[1])
    policy.eval()
    Agent(policy).act(observations(1))
    load(path, policy=policy)
    torch.set_rng_state(random_state)
    Agent(policy).act(observations(9))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_actions_fit_the_space():
    spaces_and_values = [
        (spaces.Discrete(4, start=-2), np.int64),
        (spaces.Box(np.float32([-0.1, 0]), np.float32([0.1, 2])), np.float32),
        (spaces.Box(-0.5, 0.5, (2, 3), np.float64), np.float64),
    ]
    for space, dtype in spaces_and_values:
        agent = Agent(tiny(act_space=space).eval())
        many, _ = agent.act(observations(40))
        assert many.shape == (40, *space.shape)
        assert many.dtype == dtype
        assert all(space.contains(action) for action in many)
        one, _ = agent.act(observations(1)[0])
        assert space.contains(one)
    assert set(Agent(tiny(act_space=spaces_and_values[0][0])).act(observations(99))[0]) == {
        -2,
        -1,
        0,
        1,
    }


NESTED = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        "me.direction": spaces.Discrete(4),
        "pair.1": spaces.Box(0, 1, (1,), np.float32),
    }
)


def nested(*lead):
    return {
        "image": np.full((*lead, 2, 2, 3), 7, np.uint8),
        "me": {"direction": np.full(lead, 2), "name": np.full(lead, "x")},
        "pair": ("text", np.ones((*lead, 1))),
        "mission": "open the door",
    }


def test_nested_observations_have_dotted_names():
    agent = Agent(tiny(NESTED).eval())
    assert agent.act(nested(6), deterministic=True)[0].shape == (6,)
    assert np.shape(agent.act(nested(), deterministic=True)[0]) == ()
    flat = {"image": nested()["image"], "me.direction": 2, "pair.1": [1.0]}
    assert agent.act(flat, deterministic=True)[0] == agent.act(nested(3), deterministic=True)[0][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "lacks 'image'"),
        ({"image": np.zeros((2, 3, 3), np.uint8)}, r"'image' has shape \(2, 3, 3\)"),
        ({"image": np.zeros((5, 2, 2, 3), np.uint8)}, "same N in front"),
        ({"image": np.full((2, 2, 3), 0.5)}, "'image' has numbers that do not fit uint8"),
        ({"image": np.full((2, 2, 3), 300)}, "'image' has numbers that do not fit uint8"),
        ({"image": np.full((2, 2, 3), np.nan)}, "'image' has numbers that do not fit uint8"),
        ({"image": np.full((2, 2, 3), "x")}, "'image' is <U1, expected numbers"),
        ({"me": {}}, "lacks 'me.direction'"),
    ],
)
def test_wrong_observations_raise_with_their_name(change, message):
    obs = {key: value for key, value in (nested() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Agent(tiny(NESTED)).act(obs)


def test_float64_observations_are_cast_to_float32():
    space = spaces.Dict({"obs": spaces.Box(-1, 1, (3,), np.float64)})
    policy = tiny()
    policy.eval()
    agent = Agent(policy)
    agent.obs_space = space
    obs = observations(8)
    wide, _ = agent.act(obs.astype(np.float64), deterministic=True)
    assert np.array_equal(wide, Agent(policy).act(obs, deterministic=True)[0])


def test_a_raw_observation_needs_a_policy_of_one_field():
    with pytest.raises(ValueError, match=r"lacks 'image'; it has \['obs'\]"):
        Agent(tiny(NESTED)).act(np.zeros((2, 2, 3), np.uint8))
