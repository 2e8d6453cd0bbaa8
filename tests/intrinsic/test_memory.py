"""Visit tables and episodic visits against plain loops; kernels compiled and as plain Python."""

from collections import Counter

import hand_made
import numpy as np
import pytest
import torch

from firstlight.intrinsic import memory_kernels
from firstlight.intrinsic.memory import EpisodicVisits, VisitTable, hash_rows

WORD = 2**64 - 1


def plain_hash(words):
    """Compute `hash_words` of one row in Python integers."""
    h = 0x9E3779B97F4A7C15
    for word in words:
        h = (h ^ int(word)) * 0xBF58476D1CE4E5B9 & WORD
        h ^= h >> 32
    h = h * 0x94D049BB133111EB & WORD
    return h ^ h >> 32


def plain_count(memory, keys, owners, valid):
    """Compute `count_visits` with a Counter of (owner, key)."""
    out = np.zeros_like(keys)
    for t in range(len(keys)):
        visits = [(int(owners[t, n]), int(keys[t, n])) for n in range(keys.shape[1])]
        for n, visit in enumerate(visits):
            out[t, n] = memory[visit] + 1 if valid[t, n] else 0
        memory.update(visit for n, visit in enumerate(visits) if valid[t, n])
    return out


def entries(keys, owners, counts):
    """Entries of a table as a dict of (owner, key) to count."""
    kept = counts > 0
    found = zip(owners[kept].tolist(), keys[kept].tolist(), strict=True)
    return dict(zip(found, counts[kept].tolist(), strict=True))


def empty(capacity):
    return tuple(np.zeros(capacity, np.int64) for _ in range(3))


@pytest.fixture(params=["compiled", "python"])
def kernels(request, monkeypatch):
    """The module of kernels, compiled or as plain Python."""
    if request.param == "python":
        for name in ("hash_words", "_find", "_home", "count_visits", "move_entries"):
            monkeypatch.setattr(memory_kernels, name, getattr(memory_kernels, name).py_func)
    with np.errstate(over="ignore"):
        yield memory_kernels


@pytest.mark.parametrize("width", [0, 1, 19])
def test_hash_words_equals_a_hash_in_python_integers(kernels, width):
    words = np.random.default_rng(0).integers(0, WORD, (50, width), np.uint64, endpoint=True)
    out = np.empty(50, np.uint64)
    kernels.hash_words(words, out)
    assert out.tolist() == [plain_hash(row) for row in words]


@pytest.mark.parametrize("spread", [1, 64])
def test_count_visits_equals_a_count_in_a_dict(kernels, spread):
    """With `spread` 64 every key has the same first slot, so all keys collide."""
    numbers = np.random.default_rng(0)
    table, memory = empty(64), Counter()
    for _ in range(3):
        keys = numbers.integers(-5, 5, (20, 6)) * spread
        owners = numbers.integers(0, 3, (20, 6)) * spread
        valid = numbers.random((20, 6)) < 0.8
        out, expected = np.zeros_like(keys), plain_count(memory, keys, owners, valid)
        before = len(entries(*table))
        filled = kernels.count_visits(*table, keys, owners, valid, out)
        assert (out == expected).all()
        assert entries(*table) == dict(memory)
        assert before + filled == len(memory)


def test_environments_of_one_step_do_not_see_each_others_visits(kernels):
    keys = np.array([[7, 7, 7], [7, 8, 7]])
    out = np.zeros_like(keys)
    kernels.count_visits(*empty(16), keys, np.zeros_like(keys), np.ones((2, 3), bool), out)
    assert out.tolist() == [[1, 1, 1], [4, 1, 4]]


def test_move_entries_keeps_all_entries(kernels):
    keys, owners = (x.ravel() for x in np.meshgrid(np.arange(-20, 20) * 32, np.arange(3)))
    counts = np.arange(1, 121)
    new = empty(256)
    kernels.move_entries(keys, owners, counts, *new)
    pairs = zip(owners.tolist(), keys.tolist(), strict=True)
    assert entries(*new) == dict(zip(pairs, counts.tolist(), strict=True))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.int16, torch.int64, torch.float32]
)
def test_rows_have_equal_keys_exactly_if_they_are_equal(dtype):
    bits = torch.tensor([[i >> j & 1 for j in range(11)] for i in range(2048)]).to(dtype)
    keys = hash_rows([bits], 2048)
    assert keys.dtype == torch.int64
    assert len(keys.unique()) == 2048
    assert torch.equal(hash_rows([bits.flip(0)], 2048), keys.flip(0))


def test_every_byte_of_every_field_counts_and_memory_layout_does_not():
    numbers = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 7, 7), dtype=torch.uint8, generator=numbers)
    place = torch.randint(-9, 9, (1, 2), generator=numbers)
    key = hash_rows([image, place], 1)
    for field in (image, place):
        flat = field.view(-1)
        for i in range(len(flat)):
            flat[i] ^= 1
            assert hash_rows([image, place], 1) != key
            flat[i] ^= 1
    assert hash_rows([image.transpose(2, 3).contiguous().transpose(2, 3), place], 1) == key
    assert hash_rows([place, image], 1) != key


def test_keys_spread_over_their_low_bits():
    """The table takes the low bits for the place, so near states must not crowd there."""
    keys = hash_rows([torch.arange(4096)], 4096)
    filled = len((keys & 4095).unique())
    assert filled / 4096 == pytest.approx(1 - np.exp(-1), abs=0.03)


def test_table_counts_over_rollouts_and_grows():
    numbers = torch.Generator().manual_seed(0)
    table, memory, capacities = VisitTable(), Counter(), set()
    for i in range(30):
        keys = hash_rows([torch.randint(0, 40 * (i + 1), (60,), generator=numbers)], 60).view(10, 6)
        valid = torch.rand(10, 6, generator=numbers) < 0.9
        expected = plain_count(memory, keys.numpy(), np.zeros((10, 6), int), valid.numpy())
        assert (table.count(keys, valid).numpy() == expected).all()
        assert int(table.used) == len(memory)
        capacities.add(len(table.keys))
    assert len(capacities) > 2


def naive_episodic(rollouts):
    """Visits of each successor in its episode, by plain loops."""
    memory = {}
    for r in rollouts:
        obs, successor = r.obs["obs"], r.next_obs()["obs"]
        out = torch.zeros(r.num_steps, r.num_envs, dtype=torch.int64)
        for t in range(r.num_steps):
            for n, env in enumerate(r.env_ids.tolist()):
                if r.is_first[t, n]:
                    memory[env] = Counter([int(obs[t, n])])
                if r.valid[t, n]:
                    visits = memory.setdefault(env, Counter())
                    visits[int(successor[t, n])] += 1
                    out[t, n] = visits[int(successor[t, n])]
        yield out


def count(visits, rollout):
    return visits.count(rollout.obs["obs"], rollout.next_obs()["obs"], rollout)


@pytest.mark.parametrize("opens", [0.02, 0.5])
def test_episodic_visits_equal_a_count_by_plain_loops(opens):
    numbers = torch.Generator().manual_seed(0)
    rollouts = [hand_made.random_rollout(numbers, 25, 5, 6, opens=opens) for _ in range(6)]
    visits = EpisodicVisits()
    for rollout, expected in zip(rollouts, naive_episodic(rollouts), strict=True):
        assert torch.equal(count(visits, rollout), expected)


def test_both_memories_continue_identically_from_a_state_dict():
    numbers = torch.Generator().manual_seed(0)
    rollouts = [hand_made.random_rollout(numbers, 25, 5, 6) for _ in range(4)]
    expected = list(naive_episodic(rollouts))
    kept, loaded = EpisodicVisits(), EpisodicVisits()
    for rollout in rollouts[:3]:
        count(kept, rollout)
    loaded.load_state_dict(kept.state_dict())
    loaded.load_state_dict(kept.state_dict())  # of equal sizes now
    assert torch.equal(count(loaded, rollouts[3]), expected[3])
    assert torch.equal(count(kept, rollouts[3]), expected[3])


def test_entries_of_ended_episodes_are_dropped_when_the_table_grows():
    numbers = torch.Generator().manual_seed(0)
    visits, sizes = EpisodicVisits(), []
    for _ in range(200):
        count(visits, hand_made.random_rollout(numbers, 20, 4, 10**9))
        sizes.append(len(visits.table.keys))
    assert max(sizes) <= 8 * 2 * 4 * 25


def test_reset_clears_only_the_given_environments():
    rollout = hand_made.rollout({"obs": torch.tensor([[1, 1], [1, 1], [1, 1]])})
    on = hand_made.rollout(
        {"obs": torch.ones(2, 2, dtype=torch.int64)}, is_first=torch.zeros(2, 2) > 0
    )
    visits = EpisodicVisits()
    assert count(visits, rollout).tolist() == [[2, 2], [3, 3]]
    visits.reset(torch.tensor([1]))
    assert count(visits, on).tolist() == [[4, 1]]
    visits.reset()
    assert count(visits, on).tolist() == [[1, 1]]
