"""Text ids of NetHack's top line, and pictures of its terminal."""

import numpy as np
import pytest
from dungeon import KEYS, random_steps

from firstlight.envs.nethack import make
from firstlight.envs.nethack.draw import HEIGHT, WIDTH, draw_terminal, letters
from firstlight.envs.nethack.nethack_env import NetHackEnv
from firstlight.envs.nethack.text import Messages
from firstlight.envs.text import TextTable


@pytest.mark.parametrize("keys", [KEYS, ("blstats",)])
def test_text_ids_identify_the_messages(keys):
    texts = TextTable(["something known before"])
    plain = make("score", num_envs=2, keys=KEYS, max_episode_steps=13)
    told = Messages(make("score", num_envs=2, keys=KEYS, max_episode_steps=13), texts=texts)
    if keys != KEYS:
        told = make("score", num_envs=2, keys=keys, max_episode_steps=13, text=True)
        texts = told.text_table
    plain.reset(0)
    told.reset(0)
    assert set(told.obs_space.spaces) == set(keys)
    said = set()
    for a, b in zip(random_steps(plain, 40), random_steps(told, 40), strict=True):
        for raw, info in ((a.obs, b.info), (a.final_obs, b.final_info)):
            words = [bytes(row).rstrip(b"\0").decode() for row in raw["message"].numpy()]
            assert [texts.text(i) for i in info["text_id"].tolist()] == words
            assert "message" not in info
            said |= {*words}
    assert len(said) > 5


def test_text_ids_are_the_same_after_a_checkpoint():
    one, two = (make("score", num_envs=2, max_episode_steps=13, text=True) for _ in range(2))
    two.text_table.intern("in the way")
    one.reset(0)
    list(random_steps(one, 20))
    _, _, lost = two.load_state_dict(one.state_dict())
    assert not lost.any()
    for a, b in zip(random_steps(one, 20, 1), random_steps(two, 20, 1), strict=True):
        assert (a.info["text_id"] == b.info["text_id"]).all()
    assert one.text_table.state_dict() == two.text_table.state_dict()


def test_a_picture_has_every_character_in_its_colour():
    chars = np.array([[ord("@"), ord(" ")], [ord("#"), ord("d")]], np.uint8)
    colors = np.array([[15, 7], [3, 1]], np.int8)
    picture = draw_terminal(chars, colors, cursor=(1, 0))
    assert picture.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert picture.dtype == np.uint8
    for r, c in np.ndindex(2, 2):
        cell = picture[r * HEIGHT : (r + 1) * HEIGHT, c * WIDTH : (c + 1) * WIDTH]
        lit = cell.any(-1)
        assert (lit == (letters()[chars[r, c]] ^ ((r, c) == (1, 0)))).all()
        assert len(np.unique(cell[lit], axis=0)) <= 1
    assert len({letters()[code].tobytes() for code in range(33, 127)}) == 94


def test_the_terminal_is_rendered():
    env = NetHackEnv("score", keys=("blstats",))
    obs, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (24 * HEIGHT, 80 * WIDTH, 3)
    x, y = obs["blstats"][:2]
    hero = picture[(y + 1) * HEIGHT : (y + 2) * HEIGHT, x * WIDTH : (x + 1) * WIDTH]
    assert (hero.any(-1) == ~letters()[ord("@")]).all()  # under the cursor
