"""Texts as observations of policies: every backend, defaults, and what is refused."""

import functools

import gymnasium
import minigrid  # noqa: F401  (registers the ids)
import numpy as np
import pytest
import torch
from gymnasium import spaces
from omegaconf import OmegaConf
from sentences import ORDERS, Bandit, TextAlone

from firstlight.envs import GymVec, PoolVec, check_vec
from firstlight.envs.faults import EnvironmentFaultError
from firstlight.envs.minigrid import make
from firstlight.envs.text import TEXT_BYTES, TextBytes, encode_text, text_bytes
from firstlight.scripts.build_env import make_vec


def sentences(field):
    """Texts of a field [N, size]."""
    return [row.numpy().tobytes().rstrip(b"\0").decode() for row in field]


def rows(vec, steps=12, seed=3):
    """Sentences of a trajectory, also the hidden last ones; `vec` is closed."""
    obs, _ = vec.reset(seed)
    found = [sentences(obs["sentence"])]
    for t in range(steps):
        step = vec.step(torch.arange(vec.num_envs) + t & 1)
        found += [sentences(step.obs["sentence"]), sentences(step.final_obs["sentence"])]
    vec.close()
    return found


def test_texts_are_left_out_unless_they_are_asked_for():
    vec = GymVec([Bandit] * 2)
    assert [*vec.obs_space] == ["time"]
    assert vec.left_out == {"sentence": "text"}
    vec = GymVec([Bandit] * 2, observe_text=True)
    assert type(vec.obs_space["sentence"]) is TextBytes
    assert vec.obs_space["sentence"].shape == (32,)
    assert vec.left_out == {}


def test_every_backend_gives_the_sentences_of_the_environments():
    found = rows(GymVec([Bandit] * 3, observe_text=True))
    envs = [Bandit() for _ in range(3)]
    vec = GymVec([lambda env=env: env for env in envs], observe_text=True)
    obs, _ = vec.reset(3)
    assert sentences(obs["sentence"]) == [ORDERS[env.right] for env in envs] == found[0]
    assert {text for part in found for text in part} == {*ORDERS}
    assert sum(map(len, found[2::2])) == 3  # each episode is eight steps long
    assert rows(GymVec([Bandit] * 3, observe_text=True, asynchronous=True)) == found
    assert rows(PoolVec(Bandit, num_envs=3, num_workers=2, observe_text=True)) == found


def test_check_vec_passes():
    make_one = functools.partial(Bandit, 5)
    check_vec(GymVec([make_one] * 2, observe_text=True), steps=20)
    check_vec(GymVec([TextAlone] * 2, observe_text=True), steps=20)


def test_nested_texts_get_dotted_names():
    class Nested(Bandit):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Dict(
                {
                    "task": spaces.Tuple([self.observation_space["sentence"]]),
                    "n": spaces.Discrete(2),
                }
            )

        def seen(self):
            return {"task": (super().seen()["sentence"],), "n": 1}

    vec = GymVec([Nested], observe_text=True)
    obs, _ = vec.reset(0)
    assert sentences(obs["task.0"])[0] in ORDERS


def test_a_text_may_be_all_of_the_observation():
    with pytest.raises(EnvironmentFaultError, match="observe_text=True reads a text"):
        GymVec([TextAlone])
    obs, _ = GymVec([TextAlone], observe_text=True).reset(0)
    assert sentences(obs["obs"])[0] in ORDERS


@pytest.mark.parametrize(("value", "found"), [(7, "7"), (None, "None"), (b"go", "text b'go'")])
def test_what_is_no_text_is_refused(value, found):
    class Wrong(Bandit):
        def seen(self):
            return {**super().seen(), "sentence": value}

    with pytest.raises(EnvironmentFaultError, match=f"'sentence' is .*{found}.*expected a text"):
        GymVec([Wrong], observe_text=True).reset(0)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Text(20), 20),
        (spaces.Text(20, charset="aé"), 80),
        (spaces.Text(10_000), TEXT_BYTES),
        (gymnasium.make("MiniGrid-DoorKey-5x5-v0").observation_space["mission"], TEXT_BYTES),
    ],
)
def test_the_size_of_a_text(space, size):
    assert text_bytes(space).shape == (size,)
    assert text_bytes(space) == spaces.Box(0, 255, (size,), np.uint8)


def test_longer_texts_are_cut():
    assert bytes(encode_text("ä" * 9, 5)) == "ää".encode() + "ä".encode()[:1]


def test_minigrid_through_gymnasium():
    task = functools.partial(gymnasium.make, "MiniGrid-GoToDoor-5x5-v0")
    vec = GymVec([task] * 4, observe_text=True)
    obs, _ = vec.reset(0)
    found = sentences(obs["mission"])
    assert all(text.startswith("go to the ") and text.endswith(" door") for text in found)


MISSIONS = [
    *(
        {"backend": name, "view": view}
        for name in ("native", "envpool", "python")
        for view in ("partial", "map")
    ),
    {"backend": "native", "view": "full"},
]


@pytest.mark.parametrize("options", MISSIONS, ids=str)
def test_minigrid_shows_its_mission(options):
    text = options["view"] != "full"
    vec = make("MiniGrid-KeyCorridorS3R1-v0", num_envs=4, text=text, mission=True, **options)
    assert type(vec.obs_space["mission"]) is TextBytes
    assert "mission" not in vec.left_out
    obs, info = vec.reset(1)
    found = sentences(obs["mission"])
    assert all(text.startswith("pick up the ") for text in found)
    assert "mission" not in info
    if text:
        assert found == [vec.text_table.text(i) for i in info["mission_id"].tolist()]
    step = vec.step(torch.zeros(4, dtype=torch.int64))
    assert sentences(step.obs["mission"]) == found
    vec.close()


@pytest.mark.parametrize("backend", ["native", "envpool"])
def test_check_vec_passes_with_missions(backend):
    task = "MiniGrid-KeyCorridorS3R1-v0"
    vec = make(task, num_envs=2, backend=backend, mission=True, text=True, max_steps=7)
    check_vec(vec, steps=16)


def test_the_mission_is_not_shown_by_default():
    vec = make("MiniGrid-DoorKey-5x5-v0", num_envs=1, backend="native", text=True)
    assert "mission" not in vec.obs_space.spaces


# --- from the config


@pytest.mark.parametrize(
    ("words", "shown"),
    [({}, False), ({"observe_text": False}, False), ({"observe_text": True}, True)],
)
def test_an_option_of_the_environment_reads_texts(words, shown):
    """A config without the option is that of a run of an older version."""
    vec = make_vec(OmegaConf.create({"_target_": "sentences.Bandit", "num_envs": 2, **words}))
    assert ("sentence" in vec.obs_space.spaces) is shown
