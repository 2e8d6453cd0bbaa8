"""The sparse encoder of NetHack against plain loops and a dense one-hot layer; kinds of glyphs."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from python_kernels import use_python_kernels

from firstlight.networks.encoders import SparseNetHack, sparse_nethack_kernels
from firstlight.networks.encoders.nethack_glyphs import NO_GLYPH, NUM_GLYPHS, glyph_kinds
from firstlight.networks.encoders.nethack_parts import STONE, statistics
from firstlight.networks.encoders.words_kernels import hash_bytes

H, W = 21, 79
PLAIN = ("glyphs", "blstats", "message")
ALL = (*PLAIN, "inv_glyphs")
FIELDS = {
    "glyphs": spaces.Box(0, NO_GLYPH, (H, W), np.int16),
    "blstats": spaces.Box(-(2**31), 2**31 - 1, (27,), np.int64),
    "message": spaces.Box(0, 255, (64,), np.uint8),
    "inv_glyphs": spaces.Box(0, NO_GLYPH, (55,), np.int16),
}


def space_of(*keys):
    return spaces.Dict({key: FIELDS[key] for key in keys})


def levels(keys=ALL, batch=8, seed=0):
    """Make mostly blank levels, heroes also in corners and beyond, and a few empty messages."""
    rng = np.random.default_rng(seed)
    few = rng.choice(NO_GLYPH, 30)
    glyphs = np.where(rng.random((batch, H, W)) < 0.3, rng.choice(few, (batch, H, W)), STONE)
    line = rng.integers(0, 20, (batch, 27))
    line[:4, :2] = (0, 0), (W - 1, H - 1), (-5, 300), (40, 10)
    message = np.zeros((batch, 64), np.uint8)
    for b in range(1, batch):
        words = " ".join(rng.choice(["You", "see", "here", "2 gold pieces", "the newt!"], b % 5))
        message[b, : len(words)] = np.frombuffer(words.encode(), np.uint8)
    fields = {
        "glyphs": glyphs.astype(np.int16),
        "blstats": line.astype(np.int64),
        "message": message,
        "inv_glyphs": rng.choice([5, 7, 1910, NO_GLYPH], (batch, 55)).astype(np.int16),
    }
    return {key: torch.from_numpy(fields[key]) for key in keys}


def band(distance, borders):
    """Number of borders up to a distance, negative to the left or above."""
    return int(np.sign(distance)) * sum(abs(distance) >= border for border in borders)


def plain_rows(encoder, obs, b):
    """List what observation `b` contains, as tuples that name it."""
    kinds, groups, species = glyph_kinds()
    half = encoder.layout.half
    x0, y0 = obs["blstats"][b, :2].tolist()
    found, patches = [], set()
    for y in range(H):
        for x in range(W):
            glyph = int(obs["glyphs"][b, y, x])
            kind, dy, dx = int(kinds[glyph]), y - y0, x - x0
            if kind < 0:
                continue
            if max(abs(dy), abs(dx)) <= half:
                found.append(("kind", dy, dx, kind))
                if groups[glyph] >= 0:
                    found.append(("group", dy, dx, int(groups[glyph])))
                if species[glyph] >= 0:
                    found.append(("species", int(species[glyph])))
            else:
                down = band(dy, [half + 1, half + 6])
                across = band(dx, [half + 1, half + 6, half + 15, half + 33])
                patches.add(("far", down, across, kind))
    return [*found, *patches]


def number(encoder, name, *what):
    """Row of the table for a tuple of `plain_rows`."""
    kinds, groups, _ = glyph_kinds().sizes
    half = encoder.layout.half
    size = 2 * half + 1
    starts = {"kind": 0, "group": size**2 * kinds, "far": size**2 * (kinds + groups)}
    if name == "species":
        return starts["far"] + 5 * 9 * kinds + what[0]
    down, across, which = what
    if name == "far":
        return starts[name] + ((down + 2) * 9 + across + 4) * kinds + which
    place = (down + half) * size + across + half
    return starts[name] + place * (kinds if name == "kind" else groups) + which


def dense(encoder, obs):
    """Compute the features from one-hot inputs, with a dense product."""
    batch = len(obs["glyphs"])
    inputs = torch.zeros(batch, len(encoder.table))
    for b in range(batch):
        for row in plain_rows(encoder, obs, b):
            inputs[b, number(encoder, *row)] += 1
        first = number(encoder, "species", glyph_kinds().sizes[2])
        if "message" in obs:
            hashes, _ = hash_bytes(obs["message"][b : b + 1].numpy(), 1, encoder.buckets)
            for value in hashes.tolist():
                inputs[b, first + value] += 1
            first += encoder.buckets
        for item in obs["inv_glyphs"][b].tolist() if "inv_glyphs" in obs else ():
            if item != NO_GLYPH:
                inputs[b, first + glyph_kinds().species[item]] += 1
    total = inputs @ encoder.table + encoder.line(statistics(obs["blstats"]))
    return torch.relu(encoder.linear(torch.relu(total)))


def gradients(encoder, out):
    """Return the gradients of a weighted sum of features."""
    encoder.zero_grad()
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters()}


@pytest.mark.parametrize(("keys", "crop_size"), [(ALL, 9), (PLAIN, 5), (PLAIN[:2], 1)])
def test_features_and_gradients_equal_those_of_a_dense_layer(keys, crop_size):
    torch.manual_seed(0)
    encoder = SparseNetHack(space_of(*keys), hidden=16, crop_size=crop_size, buckets=50)
    obs = levels(keys)
    out, wanted = encoder(obs), dense(encoder, obs)
    torch.testing.assert_close(out, wanted, atol=1e-4, rtol=1e-4)
    found = gradients(encoder, out)
    for name, grad in gradients(encoder, wanted).items():
        assert grad.abs().sum() > 0, name
        torch.testing.assert_close(found[name], grad, atol=1e-4, rtol=1e-4, msg=name)


@pytest.fixture(params=["compiled", "python"])
def kernels(request, monkeypatch):
    """Test a kernel both as compiled and as the Python function that it is compiled from."""
    if request.param == "python":
        use_python_kernels(monkeypatch, sparse_nethack_kernels)


@pytest.mark.usefixtures("kernels")
def test_kernels_find_the_rows_of_a_map():
    encoder, obs = SparseNetHack(space_of("glyphs", "blstats"), crop_size=3), levels(batch=5)
    hero = obs["blstats"][:, [1, 0]].numpy()
    rows, counts = sparse_nethack_kernels.map_rows(
        obs["glyphs"].numpy(), hero, encoder.layout, 0, np.int32
    )
    for b in range(5):
        wanted = sorted(number(encoder, *row) for row in plain_rows(encoder, obs, b))
        assert sorted(rows[b, : counts[b]].tolist()) == wanted
        assert not rows[b, counts[b] :].any()


@pytest.mark.usefixtures("kernels")
def test_kernels_append_ids_and_leave_one_out():
    rows, counts = np.zeros((3, 4), np.int16), np.array([1, 0, 2], np.int32)
    ids, lengths = np.array([5, -1, -1, 6, -1, 7]), np.array([2, 3, 1])
    sparse_nethack_kernels.append(ids, lengths, 100, rows, counts)
    assert counts.tolist() == [2, 1, 3]
    assert rows.tolist() == [[0, 105, 0, 0], [106, 0, 0, 0], [0, 0, 107, 0]]


def test_bands_become_wider_with_the_distance():
    found, number = sparse_nethack_kernels.bands([2, 5], 6)
    assert found.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    assert number == 5


@pytest.mark.parametrize("keys", [ALL, PLAIN[:2]])
def test_prepared_observations_give_the_same_features(keys):
    torch.manual_seed(0)
    encoder, obs = SparseNetHack(space_of(*keys), hidden=16), levels(keys, batch=12)
    rollout = {key: field.unflatten(0, (3, 4)) for key, field in obs.items()}
    prepared = encoder.prepare(rollout)
    assert all(field.shape[:2] == (3, 4) for field in prepared.values())
    flat = {key: field.flatten(0, 1) for key, field in prepared.items()}
    assert torch.equal(encoder(flat), encoder(obs))
    some = {key: field[[7, 2]] for key, field in flat.items()}  # rows of other lengths beside them
    torch.testing.assert_close(encoder(some), encoder(obs)[[7, 2]])


@pytest.mark.parametrize("batch", [0, 2])
def test_blank_observations_give_finite_features(batch):
    encoder, obs = SparseNetHack(space_of(*ALL), hidden=16), levels()
    obs["glyphs"][:], obs["message"][:], obs["inv_glyphs"][:] = STONE, 0, NO_GLYPH
    obs = {key: field[:batch] for key, field in obs.items()}
    assert not encoder.prepare(obs)["nethack counts"].any()
    out = encoder(obs)
    assert out.shape == (batch, 16)
    assert out.isfinite().all()
    out.sum().backward()


def test_the_number_of_threads_changes_no_bit():
    torch.manual_seed(0)
    encoder, obs = SparseNetHack(space_of(*PLAIN), hidden=16), levels(PLAIN, batch=300)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = encoder(obs)
            results.append((out.detach(), gradients(encoder, out)["table"]))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_a_glyph_out_of_range_raises():
    obs = levels()
    for glyph in (-1, NUM_GLYPHS):
        obs["glyphs"][1, 2, 3] = glyph
        with pytest.raises(IndexError, match=f"outside of 0 to {NO_GLYPH}"):
            SparseNetHack(space_of(*ALL), hidden=16)(obs)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"crop_size": 4}, "crop_size is 4"), ({"crop_size": -1}, "crop_size"), ({"hidden": 0}, "1")],
)
def test_sizes_that_do_not_fit_raise(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        SparseNetHack(space_of(*PLAIN), **options)


def test_numbers_of_glyphs_are_those_of_nle():
    """A kind never joins two ranges of glyphs, nor a group two of NetHack's own classes."""
    nethack = pytest.importorskip("nle.nethack")
    glyphs = glyph_kinds()
    assert (STONE, NO_GLYPH) == (nethack.GLYPH_CMAP_OFF, nethack.NO_GLYPH)
    starts = [v for n, v in vars(nethack).items() if n.startswith("GLYPH_") and n.endswith("_OFF")]
    forms = (
        *(nethack.glyph_is_normal_monster, nethack.glyph_is_pet, nethack.glyph_is_statue),
        *(nethack.glyph_is_ridden_monster, nethack.glyph_is_detected_monster),
    )
    monsters = {start for start in starts for form in forms if form(start)}
    origins, classes = {}, {}
    for glyph in range(NO_GLYPH):
        kind, group, species = (int(numbers[glyph]) for numbers in glyphs)
        origin = max(start for start in starts if start <= glyph)
        if glyph == STONE:
            assert (kind, group, species) == (-1, -1, -1)
            continue
        effects = nethack.GLYPH_EXPLODE_OFF <= glyph < nethack.GLYPH_WARNING_OFF
        origins.setdefault(kind, set()).add("an effect" if effects else origin)
        if origin in monsters:
            assert species == glyph - origin
            classes.setdefault(group, set()).add(("monster", nethack.permonst(species).mlet))
        elif nethack.glyph_is_body(glyph):
            assert species == glyph - origin
            classes.setdefault(group, set()).add(("object", nethack.FOOD_CLASS))
        elif nethack.glyph_is_normal_object(glyph):
            number = nethack.glyph_to_obj(glyph)
            assert species == nethack.NUMMONS + number
            classes.setdefault(group, set()).add(("object", ord(nethack.objclass(number).oc_class)))
        elif nethack.glyph_is_trap(glyph) and nethack.glyph_to_trap(glyph) < 24:  # 24 is none
            assert group == -1
            first = nethack.NUMMONS + nethack.NUM_OBJECTS
            assert species == first + nethack.glyph_to_trap(glyph) - 1
        else:
            assert (group, species) == (-1, -1)
    assert [sorted(origins), sorted(classes)] == [list(range(n)) for n in glyphs.sizes[:2]]
    for found in (*origins.values(), *classes.values()):
        assert len(found) == 1, found


def test_symbols_of_one_kind_mean_the_same():
    nethack = pytest.importorskip("nle.nethack")
    kinds = glyph_kinds().kind[STONE:]
    words = [nethack.symdef.from_idx(i).explanation for i in range(65)]
    walls, traps = range(1, 12), range(42, 65)
    for i in range(1, 65):
        for j in range(i):
            if kinds[i] == kinds[j]:
                same = words[i].split()[-1] == words[j].split()[-1]
                assert same or {i, j} <= {*walls} or {i, j} <= {*traps}, (words[i], words[j])


def test_kinds_tell_monsters_from_pets_and_from_the_floor():
    kind, group, species = (
        numbers[[10, 381 + 10, STONE + 19]].tolist() for numbers in glyph_kinds()
    )
    assert len(set(kind)) == 3
    assert group[0] == group[1] >= 0 > group[2]
    assert species == [10, 10, -1]
