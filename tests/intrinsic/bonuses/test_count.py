"""`HashCount`: counts against plain loops, choice of fields, and discretised floats."""

from collections import Counter

import hand_made
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.intrinsic.bonuses import HashCount

NUMBERS = spaces.Dict({"obs": spaces.Discrete(10**6)})
SCOPES = ("global", "episodic", "first_visit")


def walk(*rows, **kwargs):
    """A rollout through numbered states, one row a step."""
    return hand_made.rollout({"obs": torch.tensor(rows)}, **kwargs)


def naive(rollouts, scope):
    """The bonus by plain loops."""
    total, episode = Counter(), {}
    for r in rollouts:
        successor, out = r.next_obs()["obs"], torch.zeros(r.num_steps, r.num_envs)
        for t in range(r.num_steps):
            arrived = []
            for n, env in enumerate(r.env_ids.tolist()):
                if r.is_first[t, n]:
                    episode[env] = Counter([int(r.obs["obs"][t, n])])
                if not r.valid[t, n]:
                    continue
                state = int(successor[t, n])
                episode.setdefault(env, Counter())[state] += 1
                visits = episode[env][state]
                everywhere = (total[state] + 1) ** -0.5
                first = everywhere if visits == 1 else 0.0
                choice = {"global": everywhere, "episodic": visits**-0.5, "first_visit": first}
                out[t, n] = choice[scope]
                arrived.append(state)
            total.update(arrived)
        yield out


@pytest.mark.parametrize("scope", SCOPES)
def test_the_bonus_equals_a_count_by_plain_loops(scope):
    numbers = torch.Generator().manual_seed(0)
    rollouts = [hand_made.random_rollout(numbers, 20, 5, 30) for _ in range(5)]
    module = HashCount(NUMBERS, scope=scope)
    for rollout, expected in zip(rollouts, naive(rollouts, scope), strict=True):
        bonus = module.compute(rollout)
        assert bonus.dtype == torch.float32
        torch.testing.assert_close(bonus, expected)
        assert not bonus[~rollout.valid].any()


def test_a_first_visit_gives_1_and_environments_of_one_step_do_not_see_each_other():
    bonus = HashCount(NUMBERS).compute(walk([0, 0], [5, 5], [5, 6], [5, 5]))
    torch.testing.assert_close(bonus, torch.tensor([[1, 1], [3**-0.5, 1], [4**-0.5, 4**-0.5]]))


@pytest.mark.parametrize("scope", SCOPES)
def test_it_counts_the_true_successor_not_the_observation_after_autoreset(scope):
    module = HashCount(NUMBERS, scope=scope)
    rollout = walk([0], [1], [0], [1], finals={(1, 0): {"obs": torch.tensor(9)}})
    after_end = 1.0 if scope == "episodic" else 2**-0.5
    expected = torch.tensor([[1.0], [1.0], [after_end]])
    torch.testing.assert_close(module.compute(rollout), expected)


@pytest.mark.parametrize("scope", ["episodic", "first_visit"])
def test_returning_to_the_start_is_not_a_first_visit(scope):
    bonus = HashCount(NUMBERS, scope=scope).compute(walk([3], [4], [3]))
    assert bonus[0, 0] == 1
    assert bonus[1, 0] == pytest.approx(2**-0.5 if scope == "episodic" else 0)


@pytest.mark.parametrize("scope", SCOPES)
def test_counts_are_restored_from_a_state_dict(scope):
    numbers = torch.Generator().manual_seed(0)
    rollouts = [hand_made.random_rollout(numbers, 20, 5, 30) for _ in range(3)]
    kept, loaded = HashCount(NUMBERS, scope=scope), HashCount(NUMBERS, scope=scope)
    for rollout in rollouts[:2]:
        kept.compute(rollout)
    loaded.load_state_dict(kept.state_dict())
    assert torch.equal(kept.compute(rollouts[2]), loaded.compute(rollouts[2]))
    assert kept.update(rollouts[2]) == loaded.update(rollouts[2])


def test_reset_clears_the_episode_and_not_the_run():
    module = HashCount(NUMBERS, scope="first_visit")
    module.compute(walk([0], [1]))
    on = walk([1], [1], is_first=torch.zeros(2, 1, dtype=torch.bool))
    assert module.compute(on) == 0
    module.reset()
    assert module.compute(on) == pytest.approx(3**-0.5)


def test_keys_select_fields_and_info_channels():
    space = spaces.Dict({"a": spaces.Discrete(9), "b": spaces.Box(0, 9, (2,), np.int16)})
    obs = {
        "a": torch.tensor([[0], [1], [2], [1]]),
        "b": torch.zeros(4, 1, 2, dtype=torch.int16),
        "action_mask": torch.rand(4, 1, 3) > 0.5,
    }
    info = {"position": torch.tensor([[0, 0], [4, 4], [4, 5], [4, 5]])[:, None]}
    rollout = hand_made.rollout(obs, info=info)

    def counts(**kwargs):
        return HashCount(space, **kwargs).compute(rollout)[:, 0].pow(-2).round().tolist()

    assert counts() == [1, 1, 2]
    assert counts(keys=["b"]) == [1, 2, 3]
    assert counts(keys=["position"]) == [1, 1, 2]
    assert counts(keys=["b", "position"]) == [1, 1, 2]
    with pytest.raises(ValueError, match="did you mean 'position'"):
        counts(keys=["positions"])


def test_bounded_floats_are_divided_into_bins():
    space = spaces.Dict({"x": spaces.Box(np.array([-1, 5], "f4"), np.array([1, 5], "f4"))})
    x = torch.tensor([-1.0, -0.51, -0.49, 0.99, 1.0, 7.0, -0.9])
    obs = {"x": torch.stack([x, torch.full_like(x, 5)], 1)[:, None]}
    bonus = HashCount(space, bins=4).compute(hand_made.rollout(obs))
    assert bonus[:, 0].pow(-2).round().tolist() == [1, 1, 1, 2, 3, 2]


def test_float_info_channels_need_info_space():
    info_space = spaces.Dict({"xy": spaces.Box(0, 1, (2,))})
    info = {"xy": torch.tensor([[[0.1, 0.1]], [[0.2, 0.1]], [[0.21, 0.11]]])}
    rollout = hand_made.rollout({"obs": torch.zeros(3, 1, dtype=torch.int64)}, info=info)
    module = HashCount(NUMBERS, info_space=info_space, keys=["xy"], bins=10)
    torch.testing.assert_close(module.compute(rollout), torch.tensor([[1.0], [2**-0.5]]))
    with pytest.raises(ValueError, match="info_space"):
        HashCount(NUMBERS, keys=["xy"]).compute(rollout)
    with pytest.raises(ValueError, match="did you mean 'xy'"):
        HashCount(NUMBERS, info_space=info_space, keys=["xyz"])


def test_simhash_bits_differ_in_proportion_to_the_angle():
    """Charikar 2002: two codes differ in a bit with probability angle / π."""
    space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (3,))})
    projection = HashCount(space, bits=20_000).state_keys.projection
    assert projection.shape == (3, 20_000)
    for angle in (0.3, 1.0, 2.5):
        a, b = torch.tensor([1.0, 0, 0]), torch.tensor([np.cos(angle), 0, np.sin(angle)])
        differ = ((a.double() @ projection > 0) != (b.double() @ projection > 0)).double().mean()
        assert float(differ) == pytest.approx(angle / np.pi, abs=0.02)


def test_simhash_codes_of_the_same_direction_are_equal():
    space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (2,)), "n": spaces.Discrete(3)})
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [2.0, 4.0], [-1.0, -2.0], [1.001, 2.0], [1.0, 2.0]])
    n = torch.tensor([0, 0, 0, 0, 0, 1])
    rollout = hand_made.rollout({"x": x[:, None], "n": n[:, None]})
    bonus = HashCount(space, bits=16, seed=3).compute(rollout)
    assert bonus[:, 0].pow(-2).round().tolist() == [1, 2, 1, 3, 1]


def test_a_code_does_not_depend_on_the_batch():
    space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (40,))})
    x = torch.randn(65, 8, 40, generator=torch.Generator().manual_seed(0))
    rollout = hand_made.rollout({"x": x})
    module = HashCount(space, bits=64)
    whole, _ = module.state_keys(rollout)
    for t in range(0, 64, 7):
        part, _ = module.state_keys(rollout.slice(t, t + 1))
        assert torch.equal(part, whole[t : t + 2])


def test_the_projection_depends_on_the_seed_and_not_on_the_global_generator():
    space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (3,))})
    before = torch.get_rng_state()
    a, b, c = (HashCount(space, bits=8, seed=seed).state_keys.projection for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("space", "settings", "sentence"),
    [
        (spaces.Box(-np.inf, np.inf, (3,)), {}, "'x'.*set bits"),
        (spaces.Box(-3.4e38, 3.4e38, (3,)), {}, "'x'.*set bits"),
        (spaces.Discrete(3), {"bits": 8}, "bits=8 has no effect"),
        (spaces.Discrete(3), {"keys": []}, "keys is empty"),
        (spaces.Discrete(3), {"scope": "episode"}, "expected one of global, episodic, first_visit"),
    ],
)
def test_invalid_fields_and_settings_are_rejected(space, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        HashCount(spaces.Dict({"x": space}), **settings)


def test_the_default_term_is_the_published_one():
    term = HashCount.default_term()
    assert (term.weight, term.transform, term.gamma, term.episodic) == (0.005, None, 0.99, True)


def test_tables_stay_on_the_cpu():
    module = HashCount(NUMBERS, scope="first_visit").to("meta")
    assert {buffer.device.type for buffer in module.buffers()} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scope", SCOPES)
def test_it_computes_on_a_gpu(scope):
    rollout = hand_made.random_rollout(torch.Generator().manual_seed(0), 20, 5, 30)
    there = HashCount(NUMBERS, scope=scope).cuda().compute(rollout.to("cuda"))
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), HashCount(NUMBERS, scope=scope).compute(rollout))
