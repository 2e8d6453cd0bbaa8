"""Fields and channels of `MapMemory` equal plain loops over recorded episodes."""

import dataclasses

import numpy as np
import pytest
import torch
from python_kernels import use_python_kernels
from slow_map import Episode, Played, episodes_of

from firstlight.envs.minigrid import map_kernels, map_memory
from firstlight.envs.minigrid.map_memory import CHANNELS, MapMemory

FIELDS = ("image", "carrying", "visits", "visited")
WALL = (2, 5, 0)


def play_back(vec, size=15, **options):
    """Play `vec` through a map memory: (environment, episode, step) to fields and channels."""
    memory = MapMemory(vec, size=size, **options)
    obs, info = memory.reset()
    shown = {(n, 0, 0): row_of(obs, info, n) for n in range(vec.num_envs)}
    for action, index in zip(vec.actions, vec.index.tolist(), strict=True):
        step = memory.step(action)
        hidden = {n: i for i, n in enumerate(step.final_ids.tolist())}
        for n, (e, t) in enumerate(index):
            if n in hidden:
                shown[n, e, t] = row_of(step.final_obs, step.final_info, hidden[n])
                shown[n, e + 1, 0] = row_of(step.obs, step.info, n)
            else:
                shown[n, e, t] = row_of(step.obs, step.info, n)
    return shown


def row_of(obs, info, row):
    fields = {name: obs[name] for name in FIELDS if name in obs}
    fields |= {name: info[name] for name in CHANNELS}
    return {name: field[row].numpy() for name, field in fields.items()}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("same_step", [True, False], ids=["same_step", "next_step"])
@pytest.mark.parametrize("task", ["KeyCorridorS3R1", "ObstructedMaze-1Dlhb"])
def test_fields_and_channels_equal_plain_loops(task, same_step):
    """At every step of every episode, also in hidden last observations."""
    episodes = episodes_of(f"MiniGrid-{task}-v0", num_envs=3, steps=120, max_episode_steps=40)
    shown = play_back(Played(episodes, same_step=same_step))
    played = {(n, e) for n, e, _ in shown}
    assert len(played) >= 6
    totals = np.zeros(3)
    for n, e in played:
        for t, expected in enumerate(episodes[n][e].slow(15)):
            if (n, e, t) in shown:
                same(shown[n, e, t], expected)
                totals += [expected[name] for name in CHANNELS]
    assert (totals > 5).all()


def corridor(length):
    """Episode that goes `length` cells along an endless corridor, turns around and returns."""
    view = np.zeros((7, 7, 3), np.uint8)
    view[3], view[2], view[4] = (1, 0, 0), WALL, WALL
    action = np.array([2] * length + [0, 0] + [2] * length)
    turns = np.array([0, *np.cumsum(action == 0)])
    return Episode(np.stack([view] * (len(action) + 1)), (1 - turns) % 4, action)


def test_cells_beyond_the_edge_are_not_stored():
    far, near = corridor(90), corridor(0)
    near.image, near.direction = far.image.copy(), np.full(len(far.image), 2)
    near.action = np.full(len(far.action), 6)
    vec = Played([[near], [far], [near]], same_step=False)
    shown = play_back(vec, size=7)
    for n, episode in enumerate((near, far, near)):
        for t, expected in enumerate(episode.slow(7)):
            same(shown[n, 0, t], expected)
    assert not shown[1, 0, 85]["image"][:, :4].any()  # the agent's cell and those ahead are empty
    assert [shown[1, 0, t]["new_place"] for t in (63, 64)] == [1, 0]
    assert shown[1, 0, 180]["visits"] == 1  # inside again


@pytest.mark.parametrize("size", [1, 7, 9, 21])
def test_any_odd_size_can_be_shown(size):
    (episode,) = episodes_of("MiniGrid-DoorKey-5x5-v0", num_envs=1, max_episode_steps=30)[0][:1]
    vec = Played([[episode, episode]], same_step=False)
    shown = play_back(vec, size)
    for t, expected in enumerate(episode.slow(size)):
        same(shown[0, 0, t], expected)


def test_the_kernels_pass_as_plain_python(monkeypatch):
    for module in (map_kernels, map_memory):
        use_python_kernels(monkeypatch, module)
    test_fields_and_channels_equal_plain_loops("KeyCorridorS3R1", same_step=False)
    test_cells_beyond_the_edge_are_not_stored()


def test_a_map_does_not_depend_on_earlier_episodes():
    ((a, b, *_), (c, *_)) = episodes_of(
        "MiniGrid-DoorKey-6x6-v0", num_envs=2, steps=150, max_episode_steps=40
    )
    for same_step in (True, False):
        shown = play_back(Played([[a, b, a], [c, b, a], [b, b, a]], same_step=same_step))
        for t in range(len(b.image)):
            same(shown[0, 1, t], shown[1, 1, t])
            same(shown[0, 1, t], shown[2, 1, t])


def test_permuting_environments_permutes_everything():
    episodes = episodes_of("MiniGrid-DoorKey-6x6-v0", num_envs=4, max_episode_steps=30)
    order = [2, 0, 3, 1]
    here = play_back(Played(episodes, same_step=True))
    there = play_back(Played([episodes[n] for n in order], same_step=True))
    for n, e, t in there:
        same(there[n, e, t], here[order[n], e, t])


def test_a_repeated_change_or_place_counts_once():
    """A key is taken, dropped and taken again; then the agent moves onto its cell."""
    view = np.zeros((7, 7, 3), np.uint8)
    view[2:5, 4:] = (1, 0, 0)
    with_key, taken = view.copy(), view.copy()
    with_key[3, 5], taken[3, 6] = (5, 4, 0), (5, 4, 0)
    action = np.array([3, 4, 3, 6, 2])
    seen = [with_key, taken, with_key, taken, taken, taken]
    episode = Episode(np.stack(seen), np.zeros(6, np.int64), action)
    shown = play_back(Played([[episode, episode]], same_step=False))
    for t in range(6):
        same(shown[0, 1, t], shown[0, 0, t])  # the next episode begins anew
    counts = [[int(shown[0, 0, t][name]) for name in CHANNELS] for t in range(6)]
    assert [changes for _, changes, _ in counts] == [0, 1, 1, 0, 0, 0]
    assert [place for _, _, place in counts] == [0, 1, 0, 0, 0, 1]
    assert [new for new, _, _ in counts] == [0, 0, 0, 0, 0, 3]  # one row further
    carried = [shown[0, 0, t]["carrying"].tolist() for t in range(6)]
    assert carried == [[1, 0], [5, 4], [1, 0], [5, 4], [5, 4], [5, 4]]
    last = shown[0, 0, 5]["image"]
    assert last[7, 7].tolist() == last[7, 8].tolist() == [1, 0, 0]  # not the carried object
    assert shown[0, 0, 4]["visits"] == 3
    assert [shown[0, 0, 5][name].tolist() for name in ("visits", "visited")] == [0, [0, 0, 1, 0]]


def test_the_first_view_of_the_start_cell_is_no_change():
    """The agent starts on a floor tile that its view does not show, leaves and looks back."""
    view = np.zeros((7, 7, 3), np.uint8)
    view[2:5, 4:] = (1, 0, 0)
    beside, back = view.copy(), view.copy()
    beside[4, 6] = back[3, 5] = (3, 2, 0)
    episode = Episode(
        np.stack([view, view, beside, back]), np.array([0, 0, 1, 2]), np.array([2, 1, 1])
    )
    shown = play_back(Played([[episode]], same_step=False))
    assert [int(shown[0, 0, t]["new_changes"]) for t in range(4)] == [0] * 4
    assert shown[0, 0, 3]["image"][7, 6].tolist() == [3, 2, 0]


def test_an_action_replaced_by_a_wrapper_raises():
    episode = corridor(3)
    vec = Played([[episode], [episode]], same_step=False)
    memory = MapMemory(vec)
    memory.reset()
    memory.step(torch.tensor([2, 2]))
    with pytest.raises(RuntimeError, match="environment 1 has a heading"):
        memory.step(torch.tensor([2, 1]))


def test_an_invalid_row_does_not_change_the_map():
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
