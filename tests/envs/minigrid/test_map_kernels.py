"""Every moment that a map memory shows, against plain loops over recorded episodes."""

import dataclasses

import numpy as np
import pytest
import torch
from slow_map import Episode, Played, episodes_of
from uncompiled import compiled, passes_uncompiled

from firstlight.envs.minigrid.map_memory import CHANNELS, MapMemory

FIELDS = ("image", "carrying", "visits", "visited")
WALL = (2, 5, 0)


def play_back(vec, size=15, **options):
    """What a map memory adds: (environment, episode, step) to fields and channels.

    Of true successors, and of the first observations by the rows that show them.
    """
    memory = MapMemory(vec, size=size, **options)
    obs, info = memory.reset()
    said = {(n, 0, 0): moment(obs, info, n) for n in range(vec.num_envs)}
    for action, index in zip(vec.actions, vec.index.tolist(), strict=True):
        step = memory.step(action)
        hidden = {n: i for i, n in enumerate(step.final_ids.tolist())}
        for n, (e, t) in enumerate(index):
            if n in hidden:
                said[n, e, t] = moment(step.final_obs, step.final_info, hidden[n])
                said[n, e + 1, 0] = moment(step.obs, step.info, n)
            else:
                said[n, e, t] = moment(step.obs, step.info, n)
    return said


def moment(obs, info, row):
    fields = {name: obs[name] for name in FIELDS if name in obs}
    fields |= {name: info[name] for name in CHANNELS}
    return {name: field[row].numpy() for name, field in fields.items()}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("same_step", [True, False], ids=["same_step", "next_step"])
@pytest.mark.parametrize("task", ["KeyCorridorS3R1", "ObstructedMaze-1Dlhb"])
def test_it_says_what_plain_loops_say(task, same_step):
    """All that is shown and counted, at every moment of every episode, hidden last ones too."""
    episodes = episodes_of(f"MiniGrid-{task}-v0", num_envs=3, steps=120, max_episode_steps=40)
    said = play_back(Played(episodes, same_step=same_step))
    told = {(n, e) for n, e, _ in said}
    assert len(told) >= 6
    totals = np.zeros(3)
    for n, e in told:
        for t, expected in enumerate(episodes[n][e].slow(15)):
            if (n, e, t) in said:
                same(said[n, e, t], expected)
                totals += [expected[name] for name in CHANNELS]
    assert (totals > 5).all()


def corridor(length):
    """Straight on, about, and back, in a corridor without end."""
    view = np.zeros((7, 7, 3), np.uint8)
    view[3], view[2], view[4] = (1, 0, 0), WALL, WALL
    action = np.array([2] * length + [0, 0] + [2] * length)
    turns = np.array([0, *np.cumsum(action == 0)])
    return Episode(np.stack([view] * (len(action) + 1)), (1 - turns) % 4, action)


def test_beyond_the_edge_it_forgets_and_writes_nowhere_else():
    far, near = corridor(90), corridor(0)
    near.image, near.direction = far.image.copy(), np.full(len(far.image), 2)
    near.action = np.full(len(far.action), 6)
    vec = Played([[near], [far], [near]], same_step=False)
    said = play_back(vec, size=7)
    for n, episode in enumerate((near, far, near)):
        for t, expected in enumerate(episode.slow(7)):
            same(said[n, 0, t], expected)
    assert not said[1, 0, 85]["image"][:, :4].any()  # where it stands and before it: nothing
    assert [said[1, 0, t]["new_place"] for t in (63, 64)] == [1, 0]
    assert said[1, 0, 180]["visits"] == 1  # there again


@pytest.mark.parametrize("size", [1, 7, 9, 21])
def test_any_odd_size_can_be_shown(size):
    (episode,) = episodes_of("MiniGrid-DoorKey-5x5-v0", num_envs=1, max_episode_steps=30)[0][:1]
    vec = Played([[episode, episode]], same_step=False)
    said = play_back(vec, size)
    for t, expected in enumerate(episode.slow(size)):
        same(said[0, 0, t], expected)


@compiled
def test_the_same_holds_uncompiled():
    passes_uncompiled(__file__, "plain_loops and next_step or edge", count=3)


def test_what_came_before_an_episode_changes_nothing_in_it():
    ((a, b, *_), (c, *_)) = episodes_of(
        "MiniGrid-DoorKey-6x6-v0", num_envs=2, steps=150, max_episode_steps=40
    )
    for same_step in (True, False):
        said = play_back(Played([[a, b, a], [c, b, a], [b, b, a]], same_step=same_step))
        for t in range(len(b.image)):
            same(said[0, 1, t], said[1, 1, t])
            same(said[0, 1, t], said[2, 1, t])


def test_permuting_environments_permutes_everything():
    episodes = episodes_of("MiniGrid-DoorKey-6x6-v0", num_envs=4, max_episode_steps=30)
    order = [2, 0, 3, 1]
    here = play_back(Played(episodes, same_step=True))
    there = play_back(Played([episodes[n] for n in order], same_step=True))
    for n, e, t in there:
        same(there[n, e, t], here[order[n], e, t])


def test_one_thing_taken_and_put_back_counts_each_once():
    """A key ahead: taken, dropped and taken again; then the agent goes where it lay."""
    view = np.zeros((7, 7, 3), np.uint8)
    view[2:5, 4:] = (1, 0, 0)
    with_key, taken = view.copy(), view.copy()
    with_key[3, 5], taken[3, 6] = (5, 4, 0), (5, 4, 0)
    action = np.array([3, 4, 3, 6, 2])
    seen = [with_key, taken, with_key, taken, taken, taken]
    episode = Episode(np.stack(seen), np.zeros(6, np.int64), action)
    said = play_back(Played([[episode, episode]], same_step=False))
    for t in range(6):
        same(said[0, 1, t], said[0, 0, t])  # the next episode knows nothing of it
    told = [[int(said[0, 0, t][name]) for name in CHANNELS] for t in range(6)]
    assert [changes for _, changes, _ in told] == [0, 1, 1, 0, 0, 0]
    assert [place for _, _, place in told] == [0, 1, 0, 0, 0, 1]
    assert [new for new, _, _ in told] == [0, 0, 0, 0, 0, 3]  # a row further on
    carried = [said[0, 0, t]["carrying"].tolist() for t in range(6)]
    assert carried == [[1, 0], [5, 4], [1, 0], [5, 4], [5, 4], [5, 4]]
    last = said[0, 0, 5]["image"]
    assert last[7, 7].tolist() == last[7, 8].tolist() == [1, 0, 0]  # not what it carries
    assert said[0, 0, 4]["visits"] == 3
    assert [said[0, 0, 5][name].tolist() for name in ("visits", "visited")] == [0, [0, 0, 1, 0]]


def test_the_ground_of_the_start_is_no_change_when_it_is_seen():
    """It begins on a floor tile that its view hides, steps off, turns and looks back."""
    view = np.zeros((7, 7, 3), np.uint8)
    view[2:5, 4:] = (1, 0, 0)
    beside, back = view.copy(), view.copy()
    beside[4, 6] = back[3, 5] = (3, 2, 0)
    episode = Episode(
        np.stack([view, view, beside, back]), np.array([0, 0, 1, 2]), np.array([2, 1, 1])
    )
    said = play_back(Played([[episode]], same_step=False))
    assert [int(said[0, 0, t]["new_changes"]) for t in range(4)] == [0] * 4
    assert said[0, 0, 3]["image"][7, 6].tolist() == [3, 2, 0]


def test_an_action_that_was_replaced_on_its_way_is_noticed():
    episode = corridor(3)
    vec = Played([[episode], [episode]], same_step=False)
    memory = MapMemory(vec)
    memory.reset()
    memory.step(torch.tensor([2, 2]))
    with pytest.raises(RuntimeError, match="environment 1 looks another way"):
        memory.step(torch.tensor([2, 1]))


def test_a_row_that_is_no_step_moves_nothing_and_counts_nothing():
    vec = Played([[corridor(5)]], same_step=False)
    memory, forward = MapMemory(vec), torch.tensor([2])
    memory.reset()
    before = memory.step(forward)
    again, vec.now = vec.step, 0
    vec.step = lambda action: dataclasses.replace(again(action), valid=torch.tensor([False]))
    idle = memory.step(forward)
    assert [int(before.info[name]) for name in CHANNELS] == [3, 0, 1]
    assert [int(idle.info[name]) for name in CHANNELS] == [0, 0, 0]
    assert all(torch.equal(idle.obs[name], before.obs[name]) for name in FIELDS)
