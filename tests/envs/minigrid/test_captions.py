"""Captions of MiniGrid steps, from every backend and from checkpoints."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from firstlight.envs import minigrid
from firstlight.envs.minigrid.captions import Captions, Event, describe
from firstlight.envs.minigrid.cells import (
    BALL,
    BLUE,
    BOX,
    CLOSED,
    DOOR,
    EMPTY,
    GOAL,
    GREEN,
    GREY,
    KEY,
    LAVA,
    LOCKED,
    OPEN,
    RED,
    YELLOW,
)
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import Snapshot
from firstlight.scripts.build_env import make_vec

FORWARD, PICKUP, DROP, TOGGLE, DONE = 2, 3, 4, 5, 6
NOTHING = (EMPTY, 0, 0)


def view(hand, front):
    image = np.zeros((7, 7, 3), np.uint8)
    image[3, 6], image[3, 5] = hand, front
    return image


@pytest.mark.parametrize(
    ("action", "before", "after", "caption"),
    [
        (
            PICKUP,
            (NOTHING, (KEY, YELLOW, 0)),
            ((KEY, YELLOW, 0), NOTHING),
            "picked up the yellow key",
        ),
        (PICKUP, (NOTHING, (DOOR, RED, CLOSED)), (NOTHING, (DOOR, RED, CLOSED)), ""),
        (DROP, ((BALL, BLUE, 0), NOTHING), (NOTHING, (BALL, BLUE, 0)), "dropped the blue ball"),
        (DROP, ((BALL, BLUE, 0), (1, 0, 0)), ((BALL, BLUE, 0), (1, 0, 0)), ""),
        (
            TOGGLE,
            (NOTHING, (DOOR, RED, CLOSED)),
            (NOTHING, (DOOR, RED, OPEN)),
            "opened the red door",
        ),
        (
            TOGGLE,
            (NOTHING, (DOOR, RED, OPEN)),
            (NOTHING, (DOOR, RED, CLOSED)),
            "closed the red door",
        ),
        (
            *(TOGGLE, ((KEY, RED, 0), (DOOR, RED, LOCKED)), ((KEY, RED, 0), (DOOR, RED, OPEN))),
            "unlocked the red door",
        ),
        (TOGGLE, (NOTHING, (BOX, GREY, 0)), (NOTHING, (KEY, RED, 0)), "opened the grey box"),
        (TOGGLE, (NOTHING, (BOX, GREY, 0)), (NOTHING, NOTHING), "opened the grey box"),
        (FORWARD, (NOTHING, (GOAL, GREEN, 0)), (NOTHING, NOTHING), "reached the goal"),
        (FORWARD, (NOTHING, (LAVA, RED, 0)), (NOTHING, NOTHING), "fell into the lava"),
        (FORWARD, (NOTHING, (DOOR, RED, OPEN)), (NOTHING, NOTHING), ""),
        (FORWARD, (NOTHING, NOTHING), (NOTHING, (KEY, RED, 0)), ""),
        (0, (NOTHING, (GOAL, GREEN, 0)), (NOTHING, NOTHING), ""),
    ],
)
def test_describe_names_the_change_of_an_object(action, before, after, caption):
    assert describe(Event(view(*before), action, view(*after), 0.0)) == caption


def facing(front, hand=0, target=0):
    """Snapshot of an empty room of 8 x 8, the agent facing a cell with the code `front`."""
    grid = torch.full((8, 8), EMPTY, dtype=torch.int16)
    grid[4, 3] = front
    arrays = {"grid": grid, "agent": torch.tensor([3, 3, 0]), "target": torch.tensor(target)}
    arrays |= {name: torch.tensor(0) for name in ("elapsed", "rng")}
    return Snapshot(arrays={**arrays, "carrying": torch.tensor(hand)})


def test_captions_describe_the_step_of_each_environment():
    vec = Captions(GridWorld("MiniGrid-DoorKey-8x8-v0", num_envs=4, mission=True))
    _, info = vec.reset(0)
    assert info["text_id"].tolist() == [0] * 4
    mission = "use the key to open the door and then get to the goal"
    assert [vec.text_table.text(i) for i in info["mission_id"].tolist()] == [mission] * 4
    door = DOOR | RED << 4 | LOCKED << 7
    vec.restore(
        torch.arange(4),
        [
            facing(KEY | YELLOW << 4),
            facing(door, hand=KEY | RED << 4),
            facing(door, hand=KEY | BLUE << 4),
            facing(GOAL | GREEN << 4),
        ],
    )
    step = vec.step(torch.tensor([PICKUP, TOGGLE, TOGGLE, FORWARD]))
    captions = [vec.text_table.text(i) for i in step.info["text_id"].tolist()]
    assert captions == ["picked up the yellow key", "unlocked the red door", "", ""]
    assert step.terminated.tolist() == [False, False, False, True]
    assert [vec.text_table.text(i) for i in step.final_info["text_id"]] == ["reached the goal"]
    assert vec.step(torch.full((4,), DONE)).info["text_id"].tolist() == [0] * 4


def test_a_users_own_caption_is_called_for_every_step():
    events = []

    def caption(event):
        events.append((event.action, event.before.shape, event.after.shape, event.reward))
        return f"did {event.action}"

    vec = Captions(GridWorld("MiniGrid-DoorKey-5x5-v0", num_envs=2, mission=True), caption=caption)
    vec.reset(0)
    step = vec.step(torch.tensor([DONE, 0]))
    assert events == [(DONE, (7, 7, 3), (7, 7, 3), 0.0), (0, (7, 7, 3), (7, 7, 3), 0.0)]
    assert [vec.text_table.text(i) for i in step.info["text_id"].tolist()] == ["did 6", "did 0"]


@pytest.mark.parametrize("backend", ["native", "envpool", "python"])
@pytest.mark.parametrize("view", ["partial", "map"])
def test_every_backend_gives_the_same_kinds_of_sentences(backend, view):
    task = "MiniGrid-KeyCorridorS3R1-v0"
    vec = minigrid.make(task, num_envs=8, backend=backend, view=view, text=True, max_steps=50)
    obs, info = vec.reset(0)
    assert "mission" not in {*obs, *info, *vec.obs_space, *vec.info_space}
    said, missions = set(), set(info["mission_id"].tolist())
    g = torch.Generator().manual_seed(0)
    for _ in range(150):
        step = vec.step(torch.randint(0, 6, (8,), generator=g))
        said |= set(step.info["text_id"].tolist())
        missions |= set(step.info["mission_id"].tolist())
        assert (step.info["text_id"][step.is_first] == 0).all()
    texts = vec.text_table
    assert len(missions) > 3
    assert all(texts.text(i).startswith("pick up the ") for i in missions)
    assert {texts.text(i).split()[0] for i in said if i} & {"opened", "closed"}
    vec.close()


def test_ids_and_the_last_caption_are_restored_from_a_checkpoint():
    def make():
        return Captions(GridWorld("MiniGrid-KeyCorridorS3R1-v0", num_envs=16, mission=True))

    vec, other = make(), make()
    vec.reset(1)
    g = torch.Generator().manual_seed(0)
    actions = torch.randint(0, 6, (60, 16), generator=g)
    steps = [vec.step(action) for action in actions[:30]]
    state = vec.state_dict()
    ahead = [vec.step(action).info for action in actions[30:]]
    other.text_table.intern("another run's sentence")
    _, info, _ = other.load_state_dict(state)
    assert torch.equal(info["text_id"], steps[-1].info["text_id"])
    for action, expected in zip(actions[30:], ahead, strict=True):
        got = other.step(action).info
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert other.text_table.state_dict() == vec.text_table.state_dict()
    assert len(vec.text_table) > 4


@pytest.mark.parametrize("view", ["partial", "map"])
def test_ids_are_restored_even_if_episodes_are_dropped(view):
    """EnvPool cannot be restored, but reward modules have learnt from the ids."""

    def make():
        task = "MiniGrid-KeyCorridorS3R1-v0"
        vec = minigrid.make(task, num_envs=8, backend="envpool", view=view, text=True)
        return vec, Runner(vec, seed=3)

    (vec, runner), (other, restored) = make(), make()
    runner.collect(RandomActor(vec.act_space), 40)
    other.text_table.intern("a sentence of the new table")
    lost = restored.load_state_dict(runner.state_dict())
    assert len(lost) == 8
    assert len(vec.text_table) > 4
    assert other.text_table.state_dict() == vec.text_table.state_dict()
    known = len(other.text_table)
    rollout = restored.collect(RandomActor(other.act_space), 40)
    assert len(other.text_table) >= known  # ids are kept, new ones follow
    said = {other.text_table.text(int(i)) for i in rollout.info["text_id"].unique()}
    assert "a sentence of the new table" not in said
    vec.close()
    other.close()


def test_captions_are_equal_for_send_and_recv_and_for_step():
    vec = minigrid.make("MiniGrid-DoorKey-5x5-v0", num_envs=2, backend="envpool", text=True)
    vec.reset(0)
    vec.send(torch.tensor([DONE, 0]))
    ahead = vec.recv()
    same = minigrid.make("MiniGrid-DoorKey-5x5-v0", num_envs=2, backend="envpool", text=True)
    same.reset(0)
    step = same.step(torch.tensor([DONE, 0]))
    for name, field in step.info.items():
        assert torch.equal(field, ahead.info[name])
    vec.close()
    same.close()


def shout(event):
    return f"ACTION {event.action}!"


def test_a_caption_can_be_named_in_a_config():
    caption = {"_target_": f"{__name__}.shout", "_partial_": True}
    target = "firstlight.envs.minigrid.make"
    task = {"task": "MiniGrid-DoorKey-5x5-v0", "num_envs": 2, "backend": "native"}
    vec = make_vec(OmegaConf.create({"_target_": target, **task, "text": True, "caption": caption}))
    vec.reset(0)
    step = vec.step(torch.tensor([DONE, 0]))
    said = [vec.text_table.text(i) for i in step.info["text_id"].tolist()]
    assert said == ["ACTION 6!", "ACTION 0!"]
    with pytest.raises(ValueError, match="text=True"):
        minigrid.make("MiniGrid-DoorKey-5x5-v0", caption=shout)


def test_the_table_is_none_without_text():
    for view in ("partial", "map"):
        vec = minigrid.make("MiniGrid-DoorKey-5x5-v0", num_envs=1, backend="native", view=view)
        assert vec.text_table is None


def test_captions_need_the_partial_view():
    with pytest.raises(ValueError, match=r"\[7, 7, 3\]"):
        Captions(GridWorld("MiniGrid-DoorKey-5x5-v0", num_envs=1, view="full", mission=True))
