"""Rewards and ends of the published NetHack tasks, compared with bottom line and messages."""

import numpy as np
import pytest
from dungeon import DEPTH, SCORE, TIME, play
from nle import nethack

from firstlight.envs.nethack.game import ACTIONS, Game
from firstlight.envs.nethack.nethack_env import NetHackEnv
from firstlight.envs.nethack.tasks import (
    CONDITION,
    TASKS,
    GameState,
    X,
    Y,
    met_oracle,
    nearby_glyphs,
    oracle_glyph,
)


def wizard(env):
    """The environment with its game in NetHack's debugging mode, which can show the level."""
    env.game.close()
    env.game = Game(env.keys, wizard=True, answers=True)
    return env


def walk_to_stairs(env):
    """Map the level and travel to its stairs down."""
    game = env.game
    for keys in ([6], *[[ord(key) for key in "_>."]] * 30):
        for key in keys:
            game._press(key)
        game._answer_prompts()
        if game.buffers["internal"][4]:
            break
    assert game.buffers["internal"][4]
    env._before = env._state(0)


def press(env, key):
    return env.step(env._actions.index(int(key)))


def test_the_reward_of_score_is_the_increase_of_the_score():
    env = NetHackEnv("score")
    before = env.reset(seed=3)[0]["blstats"]
    frozen = 0
    for obs, reward, terminated, _, _ in play(env, 3, 600):
        now = obs["blstats"]
        if not terminated:
            stood = now[TIME] == before[TIME]
            assert reward == pytest.approx(now[SCORE] - before[SCORE] - 0.01 * stood)
            frozen += stood
        before = now
    assert frozen > 5


def test_descending_by_stairs_gives_the_reward_and_terminates():
    env = wizard(NetHackEnv("staircase_2"))
    _, info = env.reset(seed=2)
    assert info["success"] == 0
    walk_to_stairs(env)
    obs, reward, terminated, truncated, info = press(env, ord(">"))
    assert b"You descend the stairs." in env.game.messages
    assert (reward, terminated, truncated, info["success"]) == (50.0, True, False, 1)
    assert obs["blstats"][DEPTH] == info["depth"] == 2


def test_a_deeper_goal_needs_its_depth_and_a_continual_task_does_not_terminate():
    deeper = wizard(NetHackEnv("staircase_3"))
    deeper.reset(seed=2)
    for reward in (0.0, 50.0):
        walk_to_stairs(deeper)
        assert press(deeper, ord(">"))[1:3] == (reward, reward > 0)
    again = wizard(NetHackEnv("staircase_2_continual"))
    again.reset(seed=2)
    walk_to_stairs(again)
    answers = [press(again, ord(key)) for key in "><>"]
    assert [a[1] for a in answers] == [50.0, 0.0, 0.0]
    assert [a[4]["depth"] for a in answers] == [2, 1, 2]
    assert all(a[4]["success"] == 1 and not a[2] for a in answers)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (78, 20), (40, 10)])
def test_the_oracle_is_reached_in_a_neighbouring_cell(x, y):
    assert nethack.permonst(oracle_glyph() - nethack.GLYPH_MON_OFF).mname == "Oracle"
    line = np.zeros(27, np.int64)
    line[X], line[Y] = x, y
    hallucinating = line.copy()
    hallucinating[CONDITION] = 512 | 1
    for dx in range(-2, 3):
        for dy in range(-2, 3):
            glyphs = np.full((21, 79), nethack.GLYPH_CMAP_OFF, np.int16)
            if 0 <= y + dy < 21 and 0 <= x + dx < 79:
                glyphs[y + dy, x + dx] = oracle_glyph()
            beside = max(abs(dx), abs(dy)) <= 1 and 0 <= y + dy < 21 and 0 <= x + dx < 79
            now = GameState(line, np.zeros(9, np.int32), nearby_glyphs(glyphs, line), 0)
            hazy = GameState(hallucinating, now.internal, now.nearby, 0)
            assert met_oracle(now, 0, now) == met_oracle(now, 0, now, sober=True) == beside
            assert met_oracle(now, 0, hazy) == beside
            assert not met_oracle(now, 0, hazy, sober=True)


def test_published_tasks_have_the_published_rewards_and_actions():
    goals = ("staircase_2", "staircase_3", "staircase_4", "oracle", "oracle_sober")
    for name in goals:
        one, continual = TASKS[name], TASKS[f"{name}_continual"]
        assert (one.goal_reward, one.terminates) == (50, True)
        assert (continual.goal_reward, continual.terminates) == (50, False)
    assert len(ACTIONS["task"]) == 23
    assert len(ACTIONS["extended"]) == 28
    assert NetHackEnv("oracle").action_space.n == 28
