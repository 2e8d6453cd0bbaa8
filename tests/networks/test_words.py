"""The encoder of texts: a slow hash, both implementations, order of words, gradients, specs."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.envs.text import TextBytes, encode_text
from firstlight.networks.encoders import MLP, Flat, Grid, MultiInput, TwinMLP, Words, auto
from firstlight.networks.encoders.words_kernels import distinct_rows, hash_bytes, hash_tensor
from firstlight.networks.spec import describe, rebuild

SIZE = 40
TEXTS = [
    "pick up the red ball",
    "",
    "Pick UP, the -- red_ball!",
    "ball red the up pick",
    "a",
    "grüne Tür 42",
    "abababab abab ab",
    "x " * 20,
    "word" * 20,
    " leading and trailing ",
]
BASE, JOIN, MIX = 0x01000193000001B3, 0x2545F4914F6CDD1D, 0x1B873593CC9E2D51


def signed(value):
    """A number modulo 2^64, from -2^63 to 2^63 - 1."""
    return (value + 2**63) % 2**64 - 2**63


def slow_hashes(text, longest, buckets, size=SIZE):
    """Word by word, with Python's whole numbers."""
    words, word = [], b""
    for byte in text.encode()[:size] + b" ":
        byte += 32 * (65 <= byte <= 90)
        if 97 <= byte <= 122 or 48 <= byte <= 57 or byte >= 128:
            word += bytes([byte])
        elif word:
            words.append(sum(byte * BASE**i for i, byte in enumerate(word)))
            word = b""
    found = []
    for last in range(len(words)):
        joined = 0
        for k in range(min(last + 1, longest)):
            joined = signed(joined * JOIN + words[last - k])
            mixed = signed((joined ^ (joined >> 29)) * MIX)
            mixed = signed((mixed ^ (mixed >> 32)) * JOIN)
            found.append((mixed >> 32) % buckets)
    return found


def encoded(texts, size=SIZE):
    return torch.from_numpy(np.stack([encode_text(text, size) for text in texts]))


@pytest.mark.parametrize("buckets", [7, 2048])
@pytest.mark.parametrize("longest", [1, 2, 3])
def test_both_hashes_equal_a_slow_loop(longest, buckets):
    expected = [slow_hashes(text, longest, buckets) for text in TEXTS]
    rows = encoded(TEXTS)
    for ids, counts in (
        hash_bytes(rows.numpy(), longest, buckets),
        hash_tensor(rows, longest, buckets),
    ):
        assert counts.tolist() == [len(one) for one in expected]
        assert ids.tolist() == [number for one in expected for number in one]
    assert len(expected[7]) > 3


def test_hashes_are_spread_evenly():
    words = [f"w{i}" for i in range(4000)]
    ids, _ = hash_bytes(encoded(words, 8).numpy(), 1, 64)
    counts = np.bincount(ids, minlength=64)
    assert ((counts - 62.5) ** 2 / 62.5).sum() < 110  # chi-squared of 63 degrees: p about 2e-4


@pytest.mark.parametrize(
    ("rows", "size", "values"), [(300, 4, 3), (50, 1, 2), (64, 40, 250), (0, 5, 2)]
)
def test_equal_texts_are_found(rows, size, values):
    texts = np.random.default_rng(rows).integers(values, size=(rows, size), dtype=np.uint8)
    known: dict[bytes, int] = {}
    expected = [known.setdefault(row.tobytes(), len(known)) for row in texts]
    first, inverse = distinct_rows(texts)
    assert inverse.tolist() == expected
    assert [texts[i].tobytes() for i in first] == [*known]
    assert all(expected.index(d) == row for d, row in enumerate(first))


def made(seed=0, size=SIZE, **options):
    torch.manual_seed(seed)
    return Words(spaces.Dict({"mission": TextBytes(size)}), **options)


embed = Words._embed


def features(encoder, *texts):
    return encoder({"mission": encoded(texts)})


def test_features_are_the_scaled_sum_of_embeddings():
    encoder = made(embedding=5, out_dim=3, buckets=50)
    out = features(encoder, *TEXTS)
    for row, text in zip(out, TEXTS, strict=True):
        found = slow_hashes(text, 2, 50)
        total = sum((encoder.table[i] for i in found), torch.zeros(5)) / max(len(found), 1) ** 0.5
        torch.testing.assert_close(row, torch.relu(encoder.linear(total)))
    both = Words.forward(encoder, {"mission": encoded(TEXTS)[:0]})
    assert both.shape == (0, 3)


def test_case_punctuation_and_size_of_the_field_do_not_matter():
    one, *others = features(made(), TEXTS[0], "PICK up: the red\tball.", "pick_up_the_red_ball")
    assert all(torch.equal(other, one) for other in others)
    wide = made(size=64)({"mission": encoded(TEXTS[:1], 64)})
    torch.testing.assert_close(wide[0], one)


def test_pairs_of_words_tell_their_order():
    texts = "the red ball by the blue box", "the blue ball by the red box"
    one, two = features(made(), *texts)
    assert (one - two).abs().max() > 0.1
    one, two = features(made(longest=1), *texts)
    torch.testing.assert_close(one, two)


def test_rows_are_independent_and_gradients_reach_all_that_is_used():
    encoder = made()
    out = features(encoder, *TEXTS)
    order = torch.randperm(len(TEXTS))
    torch.testing.assert_close(features(encoder, *(TEXTS[i] for i in order)), out[order])
    out.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())
    used = {i for text in TEXTS for i in slow_hashes(text, 2, 2048)}
    rows = encoder.table.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert set(rows) <= used
    assert len(rows) > len(used) / 2


def test_a_text_that_occurs_often_is_embedded_once(monkeypatch):
    encoder, texts = made(), [*TEXTS, *TEXTS[::-1], *TEXTS[:3]]
    expected = encoder._embed(encoded(texts))
    (expected * torch.arange(len(texts))[:, None]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in encoder.named_parameters()}
    encoder.zero_grad()
    seen = []
    monkeypatch.setattr(Words, "_embed", lambda self, t: seen.append(len(t)) or embed(self, t))
    out = features(encoder, *texts)
    assert seen == [len(TEXTS)]
    torch.testing.assert_close(out, expected)
    (out * torch.arange(len(texts))[:, None]).sum().backward()
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=1e-4)


def test_torch_and_numba_give_the_same_gradient(monkeypatch):
    encoder = made()
    features(encoder, *TEXTS).sum().backward()
    expected = encoder.table.grad.clone()
    encoder.zero_grad()
    monkeypatch.setattr(Words, "_hashes", lambda self, texts: hash_tensor(texts, 2, self.buckets))
    features(encoder, *TEXTS).sum().backward()
    torch.testing.assert_close(encoder.table.grad, expected)


# --- chosen by the space


FIELDS = {
    "image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "direction": spaces.Discrete(4),
    "mission": TextBytes(24),
}


def observed(fields, rows=2):
    sampled = {
        name: np.stack([space.sample() for _ in range(rows)]) for name, space in fields.items()
    }
    return {name: torch.from_numpy(array) for name, array in sampled.items()}


@pytest.mark.parametrize("names", [["mission"], ["mission", "direction"], [*FIELDS]])
def test_auto_reads_a_text_and_joins_it_with_the_rest(names):
    fields = {name: FIELDS[name] for name in names}
    encoder = auto(spaces.Dict(fields))
    assert type(encoder) is MultiInput
    assert encoder.describe_fields().keys() == fields.keys()
    told = "text, its words and runs of up to 2 hashed to 2,048 embeddings"
    assert encoder.describe_fields()["mission"] == told
    obs = observed(fields)
    out = encoder(obs)
    assert out.shape == (2, encoder.out_dim) == (2, 128)
    texts = {"mission": encoded(["go", "stop"], 24)}
    assert not torch.equal(encoder({**obs, **texts}), out)
    again = rebuild(json.loads(json.dumps(describe(encoder))))
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(obs), out)
    assert type(again.init_kwargs["obs_space"]["mission"]) is TextBytes


def test_without_a_text_no_layer_joins_the_features():
    """As in checkpoints of versions that read no text."""
    fields = {"image": FIELDS["image"], "ram": spaces.Box(0, 255, (16,), np.uint8)}
    encoder = auto(spaces.Dict(fields))
    assert type(encoder) is MultiInput
    assert encoder.joint is None
    assert {name.partition(".")[0] for name, _ in encoder.named_parameters()} == {"parts"}


@pytest.mark.parametrize("kind", [MLP, TwinMLP, Flat, Grid])
def test_other_encoders_leave_texts_out(kind):
    """So a policy without `encoder=auto` has the parameters that it had before texts were read."""
    fields = FIELDS if kind is Grid else {name: FIELDS[name] for name in ("mission", "direction")}
    others = {name: space for name, space in fields.items() if name != "mission"}
    torch.manual_seed(0)
    encoder = kind(spaces.Dict(fields))
    torch.manual_seed(0)
    expected = kind(spaces.Dict(others))
    obs = observed(fields)
    assert torch.equal(encoder(obs), expected({name: obs[name] for name in others}))
    assert "mission" not in encoder.describe_fields()


def test_a_grid_beside_nothing_but_a_text():
    fields = {name: FIELDS[name] for name in ("image", "mission")}
    encoder = Grid(spaces.Dict(fields))
    assert encoder(observed(fields)).shape == (2, 64)


@pytest.mark.parametrize("kind", [MLP, TwinMLP])
def test_an_mlp_over_texts_alone_is_refused(kind):
    with pytest.raises(ValueError, match="MultiInput does"):
        kind(spaces.Dict({"mission": TextBytes(9)}))


def test_a_field_of_bytes_is_no_text():
    with pytest.raises(ValueError, match=r"'mission' is Box.*expected a TextBytes"):
        Words(spaces.Dict({"mission": spaces.Box(0, 255, (96,), np.uint8)}))
    with pytest.raises(ValueError, match="must be at least 1"):
        made(longest=0)
