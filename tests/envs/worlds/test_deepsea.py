"""`DeepSea` equals a plain loop over bsuite's rules, and its returns have closed forms."""

import itertools

import numpy as np
import pytest
import torch

from firstlight.envs import check_vec
from firstlight.envs.worlds.deepsea import DeepSea

MODES = ("same_step", "next_step")


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


class Plain:
    """One environment in plain Python, after the published rules."""

    def __init__(self, size, right, next_step):
        self.size, self.right, self.next_step = size, right, next_step
        self.row = self.column = 0
        self.over = False

    def seen(self):
        picture = np.zeros((self.size, self.size), int)
        if self.row < self.size:
            picture[self.row, self.column] = 1
        return picture.ravel().tolist()

    def step(self, action):
        """Return observation, reward, ended, valid, is_first, hidden last observation."""
        if self.over:
            self.row = self.column = 0
            self.over = False
            return self.seen(), 0.0, False, False, True, None
        reward = 0.0
        if action == self.right[self.row][self.column]:
            if self.column == self.size - 1:
                reward += 1.0
            self.column = min(self.column + 1, self.size - 1)
            reward -= 0.01 / self.size
        else:
            self.column = max(self.column - 1, 0)
        self.row += 1
        ended, hidden = self.row == self.size, None
        if ended and self.next_step:
            self.over = True
        elif ended:
            hidden = self.seen()
            self.row = self.column = 0
        return self.seen(), reward, ended, True, ended and not self.next_step, hidden


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_transitions_equal_a_plain_loop(autoreset, size):
    vec = DeepSea(6, size=size, autoreset=autoreset, mapping_seed=size)
    plain = [Plain(size, vec.right.tolist(), autoreset == "next_step") for _ in range(6)]
    g, rewarded = numbers(), 0
    for _ in range(80):
        at = vec._row.clamp(max=size - 1), vec._column
        errs = torch.rand(6, generator=g) > 0.7
        action = torch.where(errs, 1 - vec.right[at], vec.right[at])
        step = vec.step(action)
        rows = [one.step(int(a)) for one, a in zip(plain, action, strict=True)]
        seen, reward, ended, valid, is_first, hidden = zip(*rows, strict=True)
        assert step.obs["obs"].tolist() == list(seen)
        assert step.reward.tolist() == pytest.approx(list(reward))
        assert step.terminated.tolist() == list(ended)
        assert not step.truncated.any()
        assert step.valid.tolist() == list(valid)
        assert step.is_first.tolist() == list(is_first)
        assert step.final_obs["obs"].tolist() == [each for each in hidden if each is not None]
        rewarded += sum(r > 0.5 for r in reward)
    assert rewarded > 5


def returns(size, sequences, **options):
    """Return of each sequence of moves [S, size] (True for right), and whether it succeeded."""
    vec = DeepSea(len(sequences), size=size, autoreset="next_step", **options)
    total = torch.zeros(len(sequences))
    for t in range(size):
        right = vec.right[vec._row, vec._column]
        step = vec.step(torch.where(sequences[:, t], right, 1 - right))
        total += step.reward
    assert step.terminated.all()
    return total, step.info["success"]


def test_one_of_all_sequences_of_moves_is_rewarded():
    every = torch.tensor(list(itertools.product([False, True], repeat=8)))
    total, success = returns(8, every)
    best = every.all(1)
    expected = best.float() - 0.01 / 8 * every.sum(1)
    torch.testing.assert_close(total, expected)
    assert torch.equal(success.bool(), best)
    assert total[best].item() == pytest.approx(0.99)
    assert total[~every.any(1)].item() == 0


def test_the_published_mapping_of_actions():
    """bsuite draws it from NumPy's old generator with seed 42."""
    vec = DeepSea(1, size=10)
    first = np.random.RandomState(42).binomial(1, 0.5, [10, 10])
    assert vec.right.tolist() == first.tolist()
    assert vec.right[0].tolist() == [0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert bool((DeepSea(1, size=3, mapping_seed=None).right == 1).all())
    assert not torch.equal(DeepSea(1, mapping_seed=1).right, DeepSea(1, mapping_seed=2).right)


def test_noise_has_the_published_frequencies():
    """Right fails in 1 of N; rewards are noisy at both ends of the last row and nowhere else."""
    size, count = 4, 20_000
    vec = DeepSea(count, size=size, stochastic=True, autoreset="next_step")
    rewards, columns = [], []
    for _ in range(size):
        columns.append(vec._column.clone())
        rewards.append(vec.step(vec.right[vec._row, vec._column]).reward)
    moved = columns[1].float().mean().item()
    assert moved == pytest.approx(1 - 1 / size, abs=0.02)
    cost = torch.full((count,), -0.01 / size)
    assert all(torch.equal(reward, cost) for reward in rewards[:-1])
    for column, mean in ((0, 0.0), (size - 1, 1.0)):
        here = rewards[-1][columns[-1] == column] - cost[0]
        assert here.mean().item() == pytest.approx(mean, abs=4 / len(here) ** 0.5)
        assert here.std().item() == pytest.approx(1, abs=4 / len(here) ** 0.5)
    between = (columns[-1] > 0) & (columns[-1] < size - 1)
    assert torch.equal(rewards[-1][between], cost[between])


def test_coordinates_show_row_and_column():
    one, other = DeepSea(3, size=4), DeepSea(3, size=4, view="coordinates")
    for action in torch.randint(0, 2, (9, 3), generator=numbers()):
        picture, step = one.step(action), other.step(action)
        assert torch.equal(step.obs["obs"], step.info["position"].float() / 4)
        assert torch.equal(picture.info["position"], step.info["position"])
        where = picture.obs["obs"].unflatten(1, (4, 4)).nonzero()[:, 1:]
        assert torch.equal(where, step.info["position"])
    assert step.final_obs["obs"].shape == (0, 2)


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("view", ["one_hot", "coordinates"])
def test_check_vec_passes_with_noise(autoreset, view):
    vec = DeepSea(5, size=3, stochastic=True, view=view, autoreset=autoreset)
    check_vec(vec)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="size is 0"):
        DeepSea(size=0)
    with pytest.raises(ValueError, match="view is 'pixels'"):
        DeepSea(view="pixels")


def test_render_shows_the_diver():
    vec = DeepSea(2, size=3)
    before = vec.render(1)
    assert before.shape == (36, 36, 3)
    assert before.dtype == np.uint8
    vec.step(torch.tensor([0, 1]))
    assert not np.array_equal(vec.render(1), before)
