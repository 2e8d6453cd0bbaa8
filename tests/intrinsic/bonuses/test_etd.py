"""`ETD`: the bonus by plain loops, pairs, the loss, what it learns, and options."""

import copy

import hand_made
import pytest
import torch
import torch.nn.functional as F
import vector_walks
from vector_walks import OBS_SPACE, walk

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import ETD, RecentScale, check_module
from firstlight.intrinsic.bonuses.etd import geometric, largest_gaps, steps_left

SMALL = {"width": 8, "update_proportion": 1.0}


def make(**kwargs):
    return ETD(OBS_SPACE, **(SMALL | kwargs))


def plain_distance(kind, x, y):
    if kind == "euclidean":
        return (x - y).norm()
    half = len(x) // 2
    return (x - y)[:half].clamp(min=0).max() + (x - y)[half:].norm()


def plain(module, runs, choose):
    held = {}
    for rollout in runs:
        out, successor = torch.zeros(rollout.valid.shape), rollout.next_obs()["obs"]
        for t in range(rollout.num_steps):
            for n, env in enumerate(rollout.env_ids.tolist()):
                with torch.no_grad():
                    x = module.network({"obs": rollout.obs["obs"][t, n, None]})[0]
                    y = module.network({"obs": successor[t, n, None]})[0]
                if rollout.is_first[t, n]:
                    held[env] = [x]
                if rollout.valid[t, n]:
                    memory = held.setdefault(env, [])
                    if memory:
                        away = [plain_distance(module.distance, m, y) for m in memory]
                        out[t, n] = choose(torch.stack(away).sort().values)
                    memory.append(y)
        yield out


@pytest.mark.parametrize(
    ("options", "choose"),
    [
        ({}, lambda d: d[0]),
        ({"distance": "euclidean"}, lambda d: d[0]),
        ({"k": 3}, lambda d: d[:3][-1]),
        ({"quantile": 0.3}, lambda d: torch.quantile(d, 0.3)),
        ({"hidden": 16}, lambda d: d[0]),
    ],
)
def test_the_bonus_equals_the_distance_by_plain_loops(options, choose):
    runs, module = vector_walks.rollouts(), make(**options)
    for rollout, expected in zip(runs, plain(module, runs, choose), strict=True):
        torch.testing.assert_close(module.compute(rollout), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"distance": "euclidean", "potential": False}, {"k": 2}])
def test_it_is_a_module(options):
    check_module(ETD(Chain().obs_space, **(SMALL | options)))


def test_an_episode_does_not_see_the_one_before():
    bonus = make().compute(walk(0, 1, 2, 0, 1, 2, is_first=[1, 0, 0, 1, 0, 0]))
    assert torch.equal(bonus[:2], bonus[3:])
    assert (bonus[:2] > 0).all()
    assert bonus[2] == 0


def test_reset_clears_the_episode():
    module = make()
    module.compute(walk(0, 1))
    going_on = walk(2, 1, is_first=[0, 0])
    assert copy.deepcopy(module).compute(going_on) == pytest.approx(0, abs=1e-5)
    module.compute(walk(0, 1))
    module.reset(torch.tensor([0]))
    module.compute(walk(3, 3, is_first=[0, 0]))
    assert module.compute(going_on) > 0


def test_steps_left_stop_where_an_episode_ends():
    rollout = hand_made.rollout(
        {"obs": torch.zeros(7, 2)},
        is_first=torch.tensor([[1, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0]]).bool().T,
        valid=torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1]]).bool().T,
    )
    assert steps_left(rollout).T.tolist() == [[3, 2, 1, 3, 2, 1], [4, 3, 2, 1, 0, 1]]


@pytest.mark.parametrize("most", [1, 4, 50])
def test_the_geometric_distribution_is_cut_off(most):
    chance = (torch.arange(100_000).double() + 0.5) / 100_000
    k = geometric(chance, torch.full((100_000,), most), 0.8)
    share = torch.bincount(k, minlength=most + 1)[1:].double() / 100_000
    expected = 0.8 ** torch.arange(1, most + 1).double()
    torch.testing.assert_close(share, expected / expected.sum(), atol=1e-4, rtol=0)


def test_pairs_are_of_one_episode_and_in_order():
    for rollout in vector_walks.rollouts():
        module, N = make(gamma=0.9), rollout.num_envs
        source, target = module._pairs(rollout)
        assert len(source) == int(rollout.valid.sum())
        assert ((target - source) % N == 0).all()
        assert (target >= source).all()
        for a, b in zip(source.tolist(), target.tolist(), strict=True):
            between = rollout.is_first[a // N + 1 : b // N + 1, a % N]
            assert not between.any()
            assert rollout.valid[a // N : b // N + 1, a % N].all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": False, "temperature": 2.0},
        {"distance": "euclidean", "potential": False, "logsumexp_coef": 0.1},
    ],
)
def test_the_loss_is_the_contrast_of_all_pairs(options):
    module = make(**options)
    x, y = vector_walks.TABLE[:5], vector_walks.TABLE[4:9]
    with torch.no_grad():
        a, b = module.network({"obs": x}), module.network({"obs": y})
        c = torch.zeros(5) if module.potential is None else module.potential(b)[:, 0]
        energy = torch.stack(
            [
                torch.stack([c[j] - plain_distance(module.distance, a[i], b[j]) for j in range(5)])
                for i in range(5)
            ]
        )
        energy = energy / module.temperature
        forward = -torch.stack([F.log_softmax(energy[i], 0)[i] for i in range(5)]).mean()
        back = -torch.stack([F.log_softmax(energy[:, i], 0)[i] for i in range(5)]).mean()
        expected = (forward + back) / 2 if module.symmetric else forward
        expected += module.logsumexp_coef * energy.logsumexp(1).square().mean()
        torch.testing.assert_close(
            module._loss({"obs": x}, {"obs": y}), expected, rtol=1e-4, atol=1e-4
        )


def test_the_distance_learns_how_many_steps_apart_states_are():
    """Walks around a ring in one direction: one step back is eleven steps forward."""
    module = make(width=16, lr=3e-3, gamma=0.8)
    start = torch.arange(12)
    states = (start + torch.arange(25)[:, None]) % 12
    rollout = vector_walks.with_vectors(hand_made.rollout({"obs": states}))
    first = module.update(rollout)["loss"]
    for _ in range(100):
        last = module.update(rollout)["loss"]
    assert last < first - 0.3
    with torch.no_grad():
        x = module.network({"obs": vector_walks.TABLE})
        d = module._pairwise(x, x)
    mean = [d[start, (start + k) % 12].mean().item() for k in (1, 3, 11)]
    assert mean[0] < mean[1] < mean[2]


def test_a_saved_module_continues_identically():
    vector_walks.check_saved(make(), make(seed=1))


def test_settings():
    with pytest.raises(ValueError, match="distance is 'cosine', expected one of quasimetric"):
        make(distance="cosine")
    with pytest.raises(ValueError, match="width is 7, expected an even number"):
        make(width=7)
    term = ETD.default_term()
    assert (term.weight, term.gamma, term.episodic) == (0.3, 0.99, True)
    assert isinstance(term.transform, RecentScale)


def test_the_largest_gap_of_each_pair_is_found():
    x, y = torch.randn(7, 5), torch.randn(4, 5)
    x[2, 1:] = y[3, 1:] = 9.0  # equal gaps: the first one counts
    x[2, 0], y[3, 0] = -9.0, 9.0
    assert torch.equal(largest_gaps(x, y), (x[:, None] - y).argmax(-1))
