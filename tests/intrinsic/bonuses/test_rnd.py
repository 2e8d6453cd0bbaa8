"""`RND`: published networks and use, bonus, learning, and choice of fields."""

import copy
import dataclasses
import json

import hand_made
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from firstlight.intrinsic import check_module
from firstlight.intrinsic.bonuses import RND
from firstlight.intrinsic.norm import RecentScale
from firstlight.networks.encoders import MLP, Grid

VECTOR = spaces.Dict({"obs": spaces.Box(-9, 9, (6,))})
FRAMES = spaces.Dict({"obs": spaces.Box(0, 255, (4, 84, 84), np.uint8)})
SMALL = {"network": "published", "embedding_dim": 8, "hidden": 16}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_vectors(seed=0, T=12, N=4, **kwargs):
    numbers = torch.Generator().manual_seed(seed)
    return hand_made.rollout({"obs": torch.randn(T + 1, N, 6, generator=numbers)}, **kwargs)


def layers(network, kind):
    return [layer for layer in network if isinstance(layer, kind)]


def test_networks_from_pixels_are_the_published_ones():
    module = RND(FRAMES, embedding_dim=512)
    for network, extra in ((module.target, 0), (module.predictor, 2)):
        convolutions = [
            (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0])
            for c in layers(network, nn.Conv2d)
        ]
        assert convolutions == [(1, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
        sizes = [(3136, 512)] + [(512, 512)] * extra
        assert [(f.in_features, f.out_features) for f in layers(network, nn.Linear)] == sizes
        assert [a.negative_slope for a in layers(network, nn.LeakyReLU)] == [0.2] * 3
        assert len(layers(network, nn.ReLU)) == extra
    for parameter in module.parameters():
        if parameter.dim() == 1:
            assert not parameter.any()
            continue
        flat = parameter.detach().flatten(1)
        flat = flat if flat.shape[0] <= flat.shape[1] else flat.T
        torch.testing.assert_close(flat @ flat.T, 2 * torch.eye(len(flat)), atol=1e-4, rtol=0)


def test_only_the_predictor_learns():
    module = RND(VECTOR, **SMALL)
    assert len(layers(module.predictor, nn.Linear)) == len(layers(module.target, nn.Linear)) + 2
    before = copy.deepcopy(module)
    module.update(random_vectors())
    pairs = zip(module.named_parameters(), before.parameters(), strict=True)
    changed = {name.split(".")[0] for (name, new), old in pairs if not torch.equal(new, old)}
    assert changed == {"predictor"}


@pytest.mark.parametrize("distance", ["mse", "l2"])
def test_the_bonus_equals_a_computation_by_hand(distance):
    """An independent forward pass in NumPy, on normalised and clipped true successors."""
    module = RND(VECTOR, **SMALL, distance=distance, obs_clip=1.0)
    module.warmup(random_vectors(seed=5))
    rollout = random_vectors()
    mean, std = module.moments.mean.numpy(), np.sqrt(module.moments.var.numpy())
    x = np.clip((rollout.obs["obs"][1:].numpy() - mean) / std, -1, 1)

    def forward(network, activations):
        h = x
        for layer in layers(network, nn.Linear):
            h = h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
            h = next(activations)(h)
        return h

    def leaky(h):
        return np.where(h > 0, h, 0.2 * h)

    def relu(h):
        return np.maximum(h, 0)

    def same(h):
        return h

    square = forward(module.target, iter((leaky, same)))
    square = (square - forward(module.predictor, iter((leaky, relu, relu, same)))) ** 2
    expected = square.mean(-1) if distance == "mse" else np.sqrt(square.sum(-1))
    np.testing.assert_allclose(module.compute(rollout), expected, rtol=1e-4)


def test_the_bonus_is_that_of_the_true_successor():
    module = RND(VECTOR, **SMALL)
    hidden = torch.full((6,), 3.0)
    rollout = random_vectors(finals={(2, 1): {"obs": hidden}, (7, 0): {"obs": -hidden}})
    shown = rollout.obs["obs"].clone()
    shown[3, 1], shown[8, 0] = hidden, -hidden
    expected = module.compute(hand_made.rollout({"obs": shown}))
    torch.testing.assert_close(module.compute(rollout), expected)
    assert not torch.equal(rollout.obs["obs"], shown)


def pictures(shape, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 2, *shape), dtype=torch.uint8, generator=numbers)


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((4, 44, 40), np.s_[..., 3:, :, :]),
        ((44, 40, 4), np.s_[..., 3:]),
        ((44, 40, 1), np.s_[..., :]),
        ((44, 40, 3), np.s_[..., :]),
        ((6, 44, 40), np.s_[..., 3:, :, :]),
    ],
)
def test_only_the_last_frame_is_used(shape, last):
    module = RND(spaces.Dict({"obs": spaces.Box(0, 255, shape, np.uint8)}), **SMALL)
    images, others = pictures(shape), pictures(shape, seed=1)
    others[last] = images[last]
    finals = {(0, 0): {"obs": others[0, 0]}}
    rollout = hand_made.rollout({"obs": images}, finals=finals)
    kept = copy.deepcopy(rollout.obs)
    bonus = module.compute(rollout)
    assert torch.equal(rollout.obs["obs"], kept["obs"])
    same = module.compute(hand_made.rollout({"obs": others}, finals=finals))
    assert torch.equal(bonus, same)
    others[last] = 255 - others[last]
    assert not torch.isclose(bonus, module.compute(hand_made.rollout({"obs": others}))).any()


def test_moments_start_from_warmup_and_change_in_update():
    module, rollout = RND(VECTOR, **SMALL), random_vectors()
    module.warmup(random_vectors(seed=1))
    assert float(module.moments.count) == pytest.approx(48, abs=1e-3)
    before = copy.deepcopy(module.state_dict())
    module.compute(rollout)
    for name in ("count", "mean", "var"):
        assert torch.equal(module.state_dict()[f"moments.{name}"], before[f"moments.{name}"])
    metrics = module.update(rollout)
    seen = [random_vectors(seed=seed).obs["obs"][1:].flatten(0, 1) for seed in (1, 0)]
    expected = torch.cat(seen).double().std(0, correction=0)
    torch.testing.assert_close(module.moments.var.sqrt(), expected, rtol=1e-4, atol=0)
    assert metrics["obs_std"] == pytest.approx(float(expected.mean()), rel=1e-4)


def test_the_first_loss_is_the_bonus_under_the_new_moments():
    """Burda et al. count the rollout after its bonus is computed and before they learn from it."""
    module, rollout = RND(VECTOR, **SMALL, num_minibatches=1, update_proportion=1), random_vectors()
    later = copy.deepcopy(module)
    later.warmup(rollout)
    expected = float(later.compute(rollout).mean())
    assert expected != pytest.approx(float(module.compute(rollout).mean()), rel=1e-3)
    assert module.update(rollout)["loss"] == pytest.approx(expected, rel=1e-4)


def test_learning_lowers_the_bonus_of_seen_states_only():
    seen = hand_made.rollout({"obs": torch.tensor([4.0, 0, 0, 0, 0, 0]).expand(17, 8, 6)})
    other = hand_made.rollout({"obs": torch.tensor([0, 0, -4.0, 4.0, 0, 0]).expand(17, 8, 6)})
    module = RND(
        VECTOR, network="mlp", embedding_dim=32, hidden=64, normalize_obs=False, num_epochs=4
    )
    before = [float(module.compute(rollout).mean()) for rollout in (seen, other)]
    losses = [module.update(seen)["loss"] for _ in range(20)]
    after = [float(module.compute(rollout).mean()) for rollout in (seen, other)]
    assert losses[-1] < 0.01 * losses[0]
    assert after[0] < 0.01 * before[0]
    assert after[1] > 0.5 * before[1]


def test_invalid_rows_get_0_and_are_not_learned():
    valid = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    rollout = random_vectors(valid=valid)
    garbage = rollout.obs["obs"].clone()
    garbage[1:][~valid] = 1e6
    one, two = RND(VECTOR, **SMALL), RND(VECTOR, **SMALL)
    assert not one.compute(rollout)[~valid].any()
    assert one.update(rollout) == two.update(dataclasses.replace(rollout, obs={"obs": garbage}))
    assert all(map(torch.equal, one.parameters(), two.parameters()))


@pytest.mark.parametrize("proportion", [0.0, 0.25])
def test_update_proportion_masks_the_loss(proportion, monkeypatch):
    module, rows = RND(VECTOR, **SMALL, update_proportion=proportion), []

    def vjp(network, inputs):
        rows.append(len(inputs["x"]))
        return type(module).vjp(module, network, inputs)

    monkeypatch.setattr(module, "vjp", vjp)
    module.update(random_vectors(T=200, N=10))
    assert sum(rows) / 2000 == pytest.approx(proportion, abs=0.02)


def test_it_uses_its_own_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = RND(VECTOR, **SMALL)
    one.compute(random_vectors())
    one.update(random_vectors())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    same, other = RND(VECTOR, **SMALL), RND(VECTOR, **SMALL, seed=1)
    same.update(random_vectors())
    assert all(map(torch.equal, one.parameters(), same.parameters()))
    assert not torch.equal(one.target[0].weight, other.target[0].weight)
    assert not torch.equal(one.target[0].weight, one.predictor[0].weight)


def through_json(value):
    """As a checkpoint keeps it: tensors apart, everything else as JSON."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {json.loads(json.dumps(name)): through_json(inner) for name, inner in value.items()}
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("updates", [0, 2])
def test_a_restored_module_continues_bit_for_bit(updates):
    kept, loaded = RND(VECTOR, **SMALL), RND(VECTOR, **SMALL, seed=1)
    loaded.update(random_vectors(seed=9))
    kept.warmup(random_vectors(seed=8))
    for seed in range(updates):
        kept.update(random_vectors(seed=seed))
    loaded.load_state_dict(through_json(kept.state_dict()))
    for seed in (5, 6):
        rollout = random_vectors(seed=seed)
        assert torch.equal(kept.compute(rollout), loaded.compute(rollout))
        assert kept.update(rollout) == loaded.update(rollout)


def test_fields_are_chosen_by_kind_and_by_name():
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (4, 36, 36), np.uint8),
            "grid": spaces.Box(0, 255, (7, 7, 3), np.uint8),
            "direction": spaces.Discrete(4),
            "action_mask": spaces.MultiBinary(3),
        }
    )
    assert RND(space, **SMALL).names == ("image",)
    vector = RND(space, **SMALL, keys=["grid", "direction"])
    assert vector.moments.mean.shape == (148,)
    assert RND(space, **SMALL | {"network": "mlp"}).moments.mean.shape == (4 * 36 * 36 + 148,)
    numbers = torch.Generator().manual_seed(0)
    obs = {
        "grid": torch.randint(0, 9, (4, 2, 7, 7, 3), dtype=torch.uint8, generator=numbers),
        "direction": torch.randint(0, 4, (4, 2), generator=numbers),
    }
    rollout = hand_made.rollout(obs)
    bonus = vector.compute(rollout)
    obs["direction"] = obs["direction"] + 1
    assert not torch.isclose(bonus, vector.compute(hand_made.rollout(obs))).any()
    with pytest.raises(ValueError, match="keys"):
        RND(space, keys=["img"])
    with pytest.raises(ValueError, match="one field of pixels"):
        RND(space, keys=["grid"], network="conv")
    with pytest.raises(ValueError, match="network is"):
        RND(space, network="cnn")
    with pytest.raises(ValueError, match="distance is"):
        RND(space, distance="l1")


def test_it_learns_from_pixels():
    images = pictures((36, 36, 1)).expand(3, 2, 36, 36, 1)
    space = spaces.Dict({"obs": spaces.Box(0, 255, (36, 36, 1), np.uint8)})
    module = RND(space, **SMALL, num_epochs=4, minibatch_size=1)
    rollout = hand_made.rollout({"obs": images})
    losses = [module.update(rollout)["loss"] for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_default_term_follows_the_bonus():
    term = RND.default_term()
    assert (term.gamma, term.episodic, term.clip) == (0.99, False, None)
    assert isinstance(term.transform, RecentScale)
    assert RND.default_term().transform is not term.transform


GRID = spaces.Dict(
    {"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "direction": spaces.Discrete(4)}
)


def grids(seed=0, T=6, N=3):
    numbers = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 6, (T + 1, N, 7, 7, 3), dtype=torch.uint8, generator=numbers)
    direction = torch.randint(0, 4, (T + 1, N), generator=numbers)
    return hand_made.rollout({"image": image, "direction": direction})


def test_encoders_are_of_the_policys_kind():
    module = RND(GRID)
    assert isinstance(module.target.encoder, Grid)
    assert isinstance(module.predictor.encoder, Grid)
    assert module.warmup_steps == 0  # nothing is normalised by running moments
    assert isinstance(RND(VECTOR).target.encoder, MLP)
    assert RND(VECTOR).warmup_steps == 128
    assert RND(VECTOR, normalize_obs=False).warmup_steps == 0
    own = RND(GRID, encoder=lambda space: MLP(space, hidden=(5,)), keys=["direction"])
    assert own.target.encoder.layers[0].weight.shape == (5, 4)


def test_with_an_encoder_the_bonus_is_the_error_of_each_row():
    module, rollout = RND(GRID, embedding_dim=8), grids()
    bonus = module.compute(rollout)
    for t in range(6):
        for n in range(3):
            obs = {name: field[t + 1, n][None] for name, field in rollout.obs.items()}
            square = (module.predictor(obs) - module.target(obs))[0] ** 2
            assert bonus[t, n].item() == pytest.approx(square.mean().item(), rel=1e-4)
    before = copy.deepcopy(module)
    losses = [module.update(rollout)["loss"] for _ in range(30)]
    assert losses[-1] < 0.3 * losses[0]
    pairs = zip(module.named_parameters(), before.parameters(), strict=True)
    changed = {name.split(".")[0] for (name, new), old in pairs if not torch.equal(new, old)}
    assert changed == {"predictor"}


def test_with_an_encoder_vectors_are_normalised_alike_in_both_networks():
    module = RND(VECTOR, embedding_dim=8)
    rollout = random_vectors()
    rollout.obs["obs"].mul_(3).add_(5)
    module.warmup(rollout)
    seen = rollout.obs["obs"][1:].flatten(0, 1)
    for network in (module.target, module.predictor):
        normaliser = network.encoder.flat.normaliser
        torch.testing.assert_close(normaliser.mean, seen.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["grid", "vector", "published"])
def test_a_predictor_learns_the_same_by_hand_and_by_autograd(kind, monkeypatch):
    space, T, N = VECTOR, 12, 4
    numbers = torch.Generator().manual_seed(0)
    obs = {"obs": torch.randn(T + 1, N, 6, generator=numbers)}
    if kind == "grid":
        space = spaces.Dict(
            image=spaces.Box(0, 255, (3, 3, 3), np.uint8), direction=spaces.Discrete(4)
        )
        obs = {"image": torch.randint(0, 6, (T + 1, N, 3, 3, 3), generator=numbers).byte()}
        obs["direction"] = torch.randint(0, 4, (T + 1, N), generator=numbers)
    options = SMALL if kind == "published" else {"embedding_dim": 8, "hidden": 16}
    modules = [RND(space, **options, minibatch_size=16, num_epochs=2) for _ in range(2)]
    inputs = modules[0].successors(rollout := hand_made.rollout(obs))
    rows = {name: field.flatten(0, 1) for name, field in inputs.items()}
    assert modules[0].vjp(modules[0].predictor, rows) is not None
    monkeypatch.setattr(modules[1], "vjp", lambda network, inputs: None)
    losses = [module.update(rollout)["loss"] for module in modules]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    before = RND(space, **options).predictor
    for one, other, first in zip(
        *(m.predictor.parameters() for m in modules), before.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        assert not torch.equal(one, first)


@pytest.mark.parametrize("network", ["encoder", "published"])
def test_check_module_passes(network):
    obs_space = spaces.Dict({"obs": spaces.Box(0, 1, (9,), np.uint8)})
    check_module(RND(obs_space, network=network))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_computes_and_learns_on_a_gpu():
    here, there = RND(VECTOR, **SMALL), RND(VECTOR, **SMALL)
    here.update(random_vectors(seed=1))
    there.update(random_vectors(seed=1))
    there.cuda()
    rollout = random_vectors()
    bonus = there.compute(rollout.to("cuda"))
    assert bonus.device.type == "cuda"
    torch.testing.assert_close(bonus.cpu(), here.compute(rollout), rtol=1e-3, atol=1e-4)
    losses = [
        module.update(r)["loss"] for module, r in ((here, rollout), (there, rollout.to("cuda")))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
