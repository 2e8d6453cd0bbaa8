"""What a bonus remembers as an observation: slow loops, the module's memory, saving, agents."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hydra import compose, initialize_config_module

from firstlight.agents.agent import Agent
from firstlight.agents.policy import ActorCritic
from firstlight.envs.check import check_vec
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import E3B, HashCount, check_module
from firstlight.intrinsic.memory import VisitTable
from firstlight.networks.encoders import MLP
from firstlight.networks.spec import describe, rebuild
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec

N = 3
MODES = ("same_step", "next_step")
SCOPES = ("global", "episodic", "first_visit")


def world(autoreset="same_step"):
    return Chain(N, length=3, horizon=5, autoreset=autoreset)


def counts(**options):
    return HashCount(world().obs_space, observe_memory=True, **options)


def e3b(**options):
    space = world()
    return E3B(space.obs_space, space.act_space, width=4, hidden=8, observe_memory=True, **options)


def collector(module, autoreset="same_step"):
    """A function that collects a rollout of so many steps."""
    vec = module.wrap(world(autoreset))
    runner, actor = Runner(vec), RandomActor(vec.act_space)
    return lambda steps: runner.collect(actor, steps)


def key(x):
    return tuple(x.tolist())


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("scope", SCOPES)
def test_counts_are_those_of_plain_dictionaries(scope, autoreset):
    module = counts(scope=scope)
    collect = collector(module, autoreset)
    run, episode = {}, [{} for _ in range(N)]

    def check(field, x, n):
        numbers = [] if scope == "episodic" else [run.get(key(x), 1)]
        numbers += [] if scope == "global" else [episode[n][key(x)]]
        np.testing.assert_allclose(field, np.array(numbers, float) ** -0.5, rtol=1e-6)

    for r in range(3):
        rollout = collect(11)
        ends = {(t, n): d for d, (t, n) in enumerate(rollout.final_at.tolist())}
        seen = []
        for t in range(-1 if r == 0 else 0, 11):
            for n in range(N):
                x, field = (rollout.obs[name][t + 1, n] for name in ("obs", "count_memory"))
                if (d := ends.get((t, n))) is not None:
                    last = rollout.final_obs["obs"][d]
                    episode[n][key(last)] = episode[n].get(key(last), 0) + 1
                    check(rollout.final_obs["count_memory"][d], last, n)
                    seen.append(key(last))
                elif t >= 0 and rollout.valid[t, n]:
                    seen.append(key(x))
                if rollout.is_first[t + 1, n]:
                    episode[n] = {}
                if rollout.is_first[t + 1, n] or rollout.valid[t, n]:
                    episode[n][key(x)] = episode[n].get(key(x), 0) + 1
                check(field, x, n)
        module.compute(rollout)
        for one in seen:
            run[one] = run.get(one, 0) + 1


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "ridge": 0.5}])
def test_the_ellipse_is_the_modules_at_every_step(options, autoreset):
    """The embedding learns in between; rollouts of one step make the module keep pace.

    It does not learn where an episode begins with a rollout: the module embeds that episode's first
    observation with the next rollout, the wrapper when it is observed.
    """
    module = e3b(**options)
    collect = collector(module, autoreset)
    compared = learnt = 0
    for _ in range(40):
        rollout = collect(1)
        module.compute(rollout)
        expected = module.memory.diagonal(rollout.env_ids) * module.memory.ridge
        rows = ~rollout.is_first[1]  # a new episode's memory begins with the next rollout
        field = rollout.obs["e3b_memory"][1]
        torch.testing.assert_close(field[rows], expected[rows], rtol=1e-4, atol=1e-5)
        compared += int(rows.sum())
        if rows.all():
            module.update(rollout)
            learnt += 1
    assert learnt > 10
    assert 60 < compared < 40 * N


def test_the_ellipse_equals_an_exact_inverse():
    module = e3b(embedding="random")
    rollout = collector(module)(12)
    for n in range(N):
        for t in range(13):
            with torch.no_grad():
                x = module.dynamics.embedding({"obs": rollout.obs["obs"][t, n][None]})[0].double()
            if rollout.is_first[t, n]:
                total = 0.1 * torch.eye(4).double()
            total = total + x[:, None] * x
            exact = 0.1 * torch.linalg.inv(total).diagonal()
            field = rollout.obs["e3b_memory"][t, n].double()
            torch.testing.assert_close(field, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [counts, e3b])
def test_it_is_off_by_default(make):
    module, vec = make(), world()
    module.observe_memory = False
    assert module.wrap(vec) is vec
    assert not HashCount(vec.obs_space).observe_memory
    assert not E3B(vec.obs_space, vec.act_space).observe_memory


@pytest.mark.parametrize("make", [lambda: counts(scope="first_visit"), e3b])
def test_training_and_evaluation_do_not_meet(make):
    """The same evaluation before, during and after training, and no trace of it in the module."""
    module = make()
    training = collector(module)
    alone = collector(module)(9)
    training(4)
    before = {name: x.clone() for name, x in module.state_dict().items() if torch.is_tensor(x)}
    again = collector(module)(9)
    assert all(torch.equal(again.obs[name], alone.obs[name]) for name in alone.obs)
    after = module.state_dict()
    assert all(torch.equal(after[name], x) for name, x in before.items())


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("make", [lambda: counts(scope="first_visit"), e3b])
def test_the_wrapped_environments_keep_the_contract_and_are_saved(make, autoreset):
    module = make()
    check_vec(module.wrap(world(autoreset)))
    vec, other = module.wrap(world(autoreset)), module.wrap(world(autoreset))
    vec.reset(0)
    actions = torch.randint(0, 2, (20, N), generator=torch.Generator().manual_seed(0))
    steps = [vec.step(action) for action in actions[:7]]
    obs, _, restarted = other.load_state_dict(vec.state_dict())
    assert not restarted.any()
    assert all(torch.equal(obs[name], steps[-1].obs[name]) for name in obs)
    for action in actions[7:]:
        one, two = vec.step(action), other.step(action)
        assert all(torch.equal(one.obs[name], two.obs[name]) for name in one.obs)


def test_modules_that_show_their_memory_keep_the_rules():
    check_module(HashCount(Chain().obs_space, scope="first_visit", observe_memory=True))
    vec = Chain()
    check_module(E3B(vec.obs_space, vec.act_space, width=4, observe_memory=True))


def test_a_second_module_of_one_kind_is_refused():
    with pytest.raises(ValueError, match="'count_memory' already"):
        counts().wrap(counts().wrap(world()))


def test_an_agent_acts_without_the_field_as_with_its_default():
    vec = counts(scope="first_visit").wrap(world())
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(8,)))
    rebuilt = rebuild(describe(policy))
    space = rebuilt.obs_space["count_memory"]
    assert isinstance(space, OptionalBox)
    assert (space.default, space.shape) == (1.0, (2,))
    rebuilt.load_state_dict(policy.state_dict())
    x = np.eye(4, dtype=np.uint8)

    def probabilities(**fields):
        seen = {}
        rebuilt.register_forward_hook(lambda _, __, out: seen.update(out=out.dist.params))
        Agent(rebuilt).act(fields)
        return seen["out"]

    given = probabilities(obs=x, count_memory=np.ones((4, 2), np.float32))
    assert torch.equal(probabilities(obs=x), given)
    assert torch.equal(probabilities(obs=x[0]), given[:, :1])
    other = probabilities(obs=x, count_memory=np.full((4, 2), 0.1, np.float32))
    assert not torch.equal(other, given)
    with pytest.raises(ValueError, match="lacks 'obs'"):
        Agent(rebuilt).act({"count_memory": np.ones(2, np.float32)})


def test_a_default_outside_of_its_bounds_is_refused():
    with pytest.raises(ValueError, match="default is 2"):
        OptionalBox(0, 1, (2,), default=2)
    assert OptionalBox(0, 1, (2,), default=1) == spaces.Box(0, 1, (2,), np.float32)


def test_looking_up_counts_nothing():
    table = VisitTable()
    assert table.look_up(torch.arange(3)).tolist() == [0, 0, 0]
    keys = torch.randint(0, 50, (40, 5), generator=torch.Generator().manual_seed(0))
    table.count(keys, torch.ones_like(keys, dtype=torch.bool))
    expected = torch.bincount(keys.flatten(), minlength=60)
    for _ in range(2):
        assert torch.equal(table.look_up(torch.arange(60)), expected)


def test_the_policy_of_a_run_observes_the_memories():
    overrides = [
        *("env=minigrid/doorkey_5x5", "env.num_envs=4", "trainer.num_steps=16", "device=cpu"),
        *("intrinsic=[count,e3b]", "intrinsic.count.scope=episodic", "run_dir=null"),
        *("intrinsic.count.observe_memory=true", "intrinsic.e3b.observe_memory=true"),
        *("learner.minibatch_size=32", "learner.num_epochs=1"),
    ]
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        config = compose("train", overrides=overrides)
    config.checkpoint.every = None
    vec = make_vec(config.env)
    trainer = build(config, vec)
    assert {"count_memory", "e3b_memory"} <= set(trainer.policy.obs_space)
    before = [p.clone() for p in trainer.policy.parameters()]
    for _ in range(2):
        trainer.iterate(10_000)
    assert any(
        not torch.equal(p, q) for p, q in zip(before, trainer.policy.parameters(), strict=True)
    )
    vec.close()
