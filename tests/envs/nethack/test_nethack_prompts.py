"""Which NetHack prompts are answered automatically, and how."""

import pytest
from dungeon import TIME
from nle import nethack

from firstlight.envs.nethack.game import Game, first_letter

C = nethack.Command


@pytest.mark.parametrize(
    ("question", "letter"),
    [
        (b"What do you want to drink? [fgh or ?*] ", "f"),
        (b"What do you want to eat? [$b-d or ?*] ", "b"),
        (b"There is a newt corpse here; eat it? [ynq] (n) ", None),
        (b"In what direction? ", None),
    ],
)
def test_the_first_letter_that_a_question_offers(question, letter):
    found = first_letter(question)
    assert (None if found is None else chr(found)) == letter


@pytest.fixture
def mage():
    """A game of a wizard with spells, potions and things to drop."""
    game = Game(["inv_letters"], character="wiz-hum-neu-mal", answers=True)
    game.reset(1, 2, 3)
    yield game
    game.close()


def has_question(game):
    return bool(game.buffers["internal"][1])


def things(game):
    return bytes(game.buffers["inv_letters"]).rstrip(b"\0").decode()


def test_a_spell_is_cast_in_the_direction_that_the_agent_chooses(mage):
    energy = mage.buffers["blstats"][14]
    mage.act(C.CAST)
    assert b"In what direction?" in mage.message
    mage.act(ord("h"))
    assert not has_question(mage)
    assert mage.buffers["blstats"][14] == energy - 5


def test_yes_drinks_the_first_potion(mage):
    assert "f" in things(mage)
    mage.act(C.QUAFF)
    assert b"What do you want to drink? [f" in mage.message
    mage.act(ord("y"))
    assert not has_question(mage)
    assert "f" not in things(mage)


def test_without_answers_questions_are_declined():
    game = Game(["inv_letters"], character="wiz-hum-neu-mal")
    game.reset(1, 2, 3)
    before = things(game)
    game.act(C.QUAFF)
    assert not has_question(game)
    assert things(game) == before


def test_the_agent_answers_whether_to_pray(mage):
    mage.act(C.PRAY)
    assert b"Are you sure you want to pray?" in mage.message
    mage.act(ord("y"))
    assert not has_question(mage)
    assert any(b"You feel" in message or b"You begin" in message for message in mage.messages)


def test_everything_in_a_menu_is_picked_up(mage):
    before = things(mage)
    for letter in "de":
        for key in (C.DROP, ord(letter)):
            mage._press(int(key))
        mage._answer_prompts()
    assert set(before) - set(things(mage)) == {"d", "e"}
    mage.act(C.PICKUP)
    assert not mage.buffers["internal"][3]
    assert things(mage) == before


def test_enhancing_skills_keeps_the_top_line():
    game = Game(character="sam-hum-law-mal", wizard=True, answers=True)
    game.reset(1, 2, 3)
    greeting = game.message
    assert b"Konnichi wa" in greeting
    turn = game.buffers["blstats"][TIME]
    game.enhance()
    assert any(b"You are now more skilled" in message for message in game.messages)
    assert game.message == greeting
    assert not game.buffers["internal"][1:4].any()
    assert game.buffers["blstats"][TIME] == turn
    game.act(ord("."))
    assert game.buffers["blstats"][TIME] > turn
    game.close()
