"""One game of NetHack: press keys, read NLE's buffers, and answer prompts automatically."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nle import nethack

_NEEDED = (
    *("glyphs", "blstats", "message", "program_state", "internal"),
    *("tty_chars", "tty_colors", "tty_cursor"),
)
OVER = 0  # index in program_state
QUESTION, LINE, WAITS = 1, 2, 3  # indices in internal: the kind of prompt
STAIRS, NUTRITION = 4, 7  # indices in internal: on stairs down; nutrition of the hero
ESCAPE, SPACE, _ENTER, _YES = 27, 32, 13, ord("y")
MAX_KEYS = 200  # that one action may press
AGENT_QUESTIONS = (b"eat", b"attack", b"direction?", b"pray")
_TRICKERY = b"trying some trickery"
_CONFIDENT = b"more confident in your"
_ENHANCE = 0x80 | ord("e")
_PAYING = ((b"Itemized billing?", ord("n")), (b"Pay?", _YES))
_MENUS = (  # title of a menu on the screen, and the keys that answer it
    (b"Choose which spell to cast", (ord("a"),)),
    (b"Pick up what?", (ord(","), _ENTER)),
)

ACTIONS: dict[str, tuple[int, ...]] = {
    "task": (
        nethack.MiscAction.MORE,
        *nethack.CompassDirection,
        *nethack.CompassDirectionLonger,
        *nethack.MiscDirection,
        nethack.Command.KICK,
        nethack.Command.EAT,
        nethack.Command.SEARCH,
    ),
    "useful": nethack.USEFUL_ACTIONS,
    "full": nethack.ACTIONS,
}
ACTIONS["extended"] = (
    *ACTIONS["task"],
    nethack.Command.CAST,
    nethack.Command.QUAFF,
    nethack.Command.PRAY,
    nethack.Command.PICKUP,
    nethack.Command.PAY,
)


def first_letter(question: bytes) -> int | None:
    """Find the first letter that a question offers; None if it offers no letters.

    >>> chr(first_letter(b"What do you want to drink? [fgh or ?*]"))
    'f'
    """
    found = re.search(rb"\? \[\$?([a-zA-Z])[a-zA-Z-]* or \?\*\]", question)
    return found[1][0] if found else None


class Game:
    """NetHack with its own observation buffers and automatic answers to most prompts.

    As in NLE, continuation prompts and menus are skipped, and requests for a line of text and
    questions are declined, except for the questions that the agent answers: what to eat, whether to
    attack or pray, which direction. With `answers`, as in the environments of ONI (Zheng et al.
    2024), the agent also answers what to drink, "y" chooses the first thing that a question offers,
    spell "a" is cast, everything in a menu of things to pick up is taken, bills are paid and skills
    are enhanced as soon as possible.

    Args:
        keys: names of NLE's observations to provide in `buffers`.
        character: role, race, gender and alignment, such as "mon-hum-neu-mal"; "@" draws them at
            random.
        answers: see above.
        options: of NetHack; default NLE's.
        wizard: NetHack's debugging mode.
        savedir: folder for recordings (ttyrec), one file for each game.

    Attributes:
        buffers: arrays that NetHack writes observations into, by name.
        messages: all messages since the last action or reset.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        *,
        character: str = "mon-hum-neu-mal",
        answers: bool = False,
        options: Iterable[str] | None = None,
        wizard: bool = False,
        savedir: str | Path | None = None,
    ):
        self.answers = answers
        self._agent_questions = (*AGENT_QUESTIONS, *[b"drink"] * answers)
        self._folder = None if savedir is None else Path(savedir)
        self._name, self._games = uuid.uuid4().hex[:8], 1
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._nethack: Any = nethack.Nethack(
            observation_keys=tuple(dict.fromkeys([*_NEEDED, *keys])),
            playername=f"Agent-{character}",
            ttyrec=self._recording(),
            options=None if options is None else list(options),
            wizard=wizard,
            fix_moon_phase=True,
        )
        self.buffers: dict[str, np.ndarray] = dict(self._nethack._obs_buffers)
        self.messages: list[bytes] = []
        self._done = False

    def set_buffers(self, views: Mapping[str, np.ndarray]) -> bool:
        """Have NetHack write into `views`. Returns False if it cannot, once a game has begun."""
        if self._games > 1:
            return False
        self.buffers |= views
        self._nethack._pynethack.set_buffers(**self.buffers)
        return True

    def reset(self, core: int, disp: int, levels: int) -> None:
        """Begin a game that depends only on three seeds: of events, of what is shown, of levels."""
        self._nethack.set_initial_seeds(core, disp, False, levels)
        self._nethack.reset(self._recording())
        self._games += 1
        self._done, self.messages = False, []
        for _ in range(MAX_KEYS):
            if self.buffers["program_state"][3]:  # the game takes commands
                return
            self._press(SPACE)
        raise RuntimeError(f"NetHack began no game from the seeds {core, disp, levels}")

    @property
    def over(self) -> bool:
        """Whether the game has ended; the buffers still show its last moment."""
        return self._done or bool(self.buffers["program_state"][OVER])

    @property
    def message(self) -> bytes:
        """Text of the top line."""
        return self.buffers["message"].tobytes().rstrip(b"\0")

    def act(self, key: int) -> None:
        """Press `key` as the agent, and answer the prompts that follow."""
        if self.over:
            raise RuntimeError("the game is over: call reset()")
        self.messages = []
        if self.answers and key == _YES and self.buffers["internal"][QUESTION]:
            key = first_letter(self.message) or key
        self._press(int(key))
        self._answer_prompts()
        if self.answers and any(_CONFIDENT in message for message in self.messages):
            self.enhance()

    def enhance(self) -> None:
        """Advance the first skill that can be advanced, and keep the top line as it was."""
        message = self.buffers["message"].copy()
        self._press(_ENHANCE)
        if self.buffers["internal"][QUESTION]:  # in NetHack's debugging mode: without practice?
            self._press(_YES)
        if b"Pick a skill to advance" in self._screen():
            self._press(ord("a"))
        self._answer_prompts()
        self.buffers["message"][:] = message

    def close(self) -> None:
        """Free the game; may be called twice."""
        self._nethack.close()

    def _answer_prompts(self) -> None:
        """Answer prompts until the game waits for a command, or for an answer of the agent."""
        for _ in range(MAX_KEYS):
            keys = () if self.over else self._reply()
            if not keys:
                return
            for key in keys:
                self._press(key)

    def _reply(self) -> tuple[int, ...]:
        """Keys that answer the current prompt; none without a prompt or if the agent answers it."""
        internal = self.buffers["internal"]
        if internal[WAITS]:
            screen = self._screen() if self.answers else b""
            return next((keys for title, keys in _MENUS if title in screen), (SPACE,))
        if internal[LINE]:
            return (ESCAPE,)
        if not internal[QUESTION]:
            return ()
        question = self.message
        if self.answers:
            for words, key in _PAYING:
                if words in question:
                    return (key,)
        return () if any(words in question for words in self._agent_questions) else (ESCAPE,)

    def _screen(self) -> bytes:
        return self.buffers["tty_chars"][:3].tobytes()

    def _press(self, key: int) -> None:
        self._nethack._pynethack.step(key)
        self._done = self._nethack._pynethack.done()
        if self.buffers["message"][0]:
            message = self.message
            if _TRICKERY in message:
                raise RuntimeError(
                    f"NetHack reports {message.decode('latin-1')!r}: its files were changed"
                )
            if not self.messages or self.messages[-1] != message:
                self.messages.append(message)

    def _recording(self) -> str | None:
        """Path of the next game's recording; None without a folder for recordings."""
        if self._folder is None:
            return None
        version = nethack.nethack.TTYREC_VERSION
        name = f"{self._name}_{self._games:06d}.ttyrec{version}.bz2"
        return str(self._folder / name)
