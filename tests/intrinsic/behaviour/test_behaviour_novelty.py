"""`BehaviourNovelty`: its bonus by plain loops, its archive, learned spaces, saving and options."""

import copy
import dataclasses

import hand_made
import numpy as np
import pytest
import torch
import vector_walks
from gymnasium import spaces
from vector_walks import OBS_SPACE

from firstlight.envs.worlds.chain import Chain
from firstlight.envs.worlds.hard_maze import HardMaze
from firstlight.intrinsic import BehaviourNovelty, check_module

SMALL = {"k": 3, "num_recent": 12, "archive_share": 0.5, "capacity": 5, "warmup_steps": 8}


def make(**kwargs):
    return BehaviourNovelty(OBS_SPACE, **(SMALL | kwargs))


def episodes(*paths):
    """One environment's episodes through numbered states, whose last ones autoreset hides."""
    states, finals, is_first = [], {}, []
    for path in paths:
        states += path[:-1]
        is_first += [True] + [False] * (len(path) - 2)
        finals[len(states) - 1, 0] = {"obs": torch.tensor(path[-1])}
    obs = torch.tensor([*states, paths[0][0]])[:, None]
    first = torch.tensor([*is_first, True])[:, None]
    return vector_walks.with_vectors(hand_made.rollout({"obs": obs}, is_first=first, finals=finals))


def plain_novelty(x, references, k):
    far = sorted(float((x - r).double().square().sum().sqrt()) for r in references)[:k]
    return sum(far) / len(far)


def plain_ends(rollout):
    """Place and last observation of each episode that ended, in order of time."""
    after = rollout.next_obs()["obs"]
    for t in range(rollout.num_steps):
        for n in range(rollout.num_envs):
            over = rollout.terminated[t, n] or rollout.truncated[t, n]
            if over and rollout.valid[t, n]:
                yield t, n, after[t, n]


@pytest.mark.parametrize("spread", [True, False])
def test_the_bonus_equals_a_computation_step_by_step(spread):
    first, *rollouts = vector_walks.rollouts(3)
    module = make(spread=spread)
    module.warmup(first)
    for rollout in rollouts:
        held = [*module.archive.recent, *module.archive.chosen]
        expected = torch.zeros(rollout.valid.shape)
        ends = {(t, n): x for t, n, x in plain_ends(rollout)}
        assert ends
        for t in range(rollout.num_steps):
            for n in range(rollout.num_envs):
                here, after = rollout.obs["obs"][t, n], rollout.next_obs()["obs"][t, n]
                if spread and rollout.valid[t, n]:
                    change = plain_novelty(after, held, 3) - plain_novelty(here, held, 3)
                    expected[t, n] = change
                elif not spread and (t, n) in ends:
                    expected[t, n] = plain_novelty(ends[t, n], held, 3)
        torch.testing.assert_close(module.compute(rollout), expected, rtol=1e-4, atol=1e-5)
        module.update(rollout)


def test_changes_add_up_to_the_novelty_at_the_end_minus_that_of_the_start():
    first = vector_walks.rollouts(1)[0]
    spread, at_end = make(), make(spread=False)
    for module in (spread, at_end):
        module.warmup(first)
    rollout = episodes([1, 4, 2, 9, 9, 3])
    start = plain_novelty(vector_walks.TABLE[1], spread.archive.behaviours(), 3)
    total = spread.compute(rollout)[:, 0].sum() + start
    assert at_end.compute(rollout)[:, 0].tolist() == pytest.approx([0, 0, 0, 0, float(total)])


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("options", [{}, {"spread": False}, {"learned": True, "num_epochs": 2}])
def test_it_is_a_module(autoreset, options):
    """With the sensitivity clause of `check_module` where every step has a bonus."""
    vec = Chain(autoreset=autoreset)
    module = BehaviourNovelty(vec.obs_space, info_space=vec.info_space, **options)
    assert module.novelty == options.get("spread", True)
    check_module(module, vec=vec)


def test_an_end_that_was_reached_a_thousand_times_has_less_novelty_than_a_new_one():
    module, often = make(spread=False), episodes([0, 1])
    for _ in range(1000):
        module.update(often)
    known, new = (module.compute(episodes([0, end]))[0, 0] for end in (1, 5))
    assert new > known
    assert known == 0


def test_the_archive_holds_the_latest_and_a_random_sample():
    module = make(num_recent=7, capacity=40, archive_share=0.25)
    ends = torch.arange(400.0)[:, None].expand(-1, vector_walks.SIZE)
    for part in ends.split(20):
        module.archive.add(part[:0], part)
    assert module.archive.recent[:, 0].tolist() == [393, 394, 395, 396, 397, 398, 399]
    held = module.archive.chosen[:, 0]
    assert len(held) == len(held.unique()) == 40
    assert held.min() < 200 < held.max()
    module.archive.add(ends[:3], ends[:0])  # starts are recent only
    assert module.archive.recent[-3:, 0].tolist() == [0, 1, 2]
    assert torch.equal(module.archive.chosen[:, 0], held)


def test_crashed_episodes_are_no_ends():
    rollout = episodes([0, 1, 2])
    module = make(archive_share=1.0)
    module.update(dataclasses.replace(rollout, crashed=rollout.truncated))
    assert len(module.archive.chosen) == 0
    module.update(rollout)
    assert torch.equal(module.archive.chosen, vector_walks.TABLE[2:3])


@pytest.mark.parametrize("learned", [False, True])
def test_a_saved_module_continues_identically(learned):
    first, *rollouts = vector_walks.rollouts(4)
    options = {"learned": learned, "train_every": 3, "num_epochs": 2}
    kept, loaded = make(**options), make(seed=1, **options)
    kept.warmup(first)
    kept.update(rollouts[0])
    loaded.load_state_dict(copy.deepcopy(kept.state_dict()))
    for rollout in rollouts:
        assert torch.equal(kept.compute(rollout), loaded.compute(rollout))
        assert kept.update(rollout) == loaded.update(rollout)


def test_trainings_become_rarer_and_lower_the_error():
    module = make(learned=True, train_every=4, latent=2, num_epochs=30, lr=1e-2, num_recent=200)
    first = vector_walks.rollouts(1)[0]
    module.warmup(first)
    waited, losses = [0], []
    ended = episodes([3, 5])
    for _ in range(4 * (2 + 3 + 4)):
        metrics = module.update(ended)
        waited[-1] += 1
        if "loss" in metrics:
            losses.append(metrics["loss"])
            waited.append(0)
    assert waited == [8, 12, 16, 0]
    assert losses[-1] < losses[0]
    again = module.autoencoder.learn(module.archive.behaviours())
    assert again < losses[0]


def test_a_learned_space_is_that_of_codes_of_normalised_numbers():
    module = make(learned=True)
    first, rollout = vector_walks.rollouts(2)
    module.warmup(first)
    net, moments = module.autoencoder, module.autoencoder.moments

    def code(x):
        scaled = ((x - moments.mean) / moments.var.sqrt()).float().clamp(-5, 5)
        return net.encoder(scaled).detach()

    held = [code(x) for x in module.archive.behaviours()]
    bonus = module.compute(rollout)
    t, n = rollout.valid.nonzero()[3].tolist()
    here, after = rollout.obs["obs"][t, n], rollout.next_obs()["obs"][t, n]
    expected = plain_novelty(code(after), held, 3) - plain_novelty(code(here), held, 3)
    assert float(bonus[t, n]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_fields_are_the_position_or_else_floats():
    maze = HardMaze(num_envs=2)
    assert BehaviourNovelty(maze.obs_space, info_space=maze.info_space).names == ("position",)
    assert BehaviourNovelty(maze.obs_space).names == ("sensors",)
    learned = BehaviourNovelty(maze.obs_space, info_space=maze.info_space, learned=True)
    assert learned.names == ("sensors",)
    grid = spaces.Dict({"image": spaces.Box(0, 255, (7, 7, 3), np.uint8)})
    assert BehaviourNovelty(grid, learned=True).archive.recent.shape == (0, 147)
    with pytest.raises(ValueError, match="no position among no side channels"):
        BehaviourNovelty(grid)
    with pytest.raises(ValueError, match="'depth' is no field of numbers"):
        BehaviourNovelty(grid, keys=["depth"])
    pixels = spaces.Dict({"image": spaces.Box(0, 255, (84, 84, 3), np.uint8)})
    with pytest.raises(ValueError, match="have 21168 numbers"):
        BehaviourNovelty(pixels, learned=True)


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"num_recent": 0}, {"archive_share": 1.5}, {"learned": True, "latent": 0}],
)
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ValueError, match=r"expected|must be"):
        make(**options)
