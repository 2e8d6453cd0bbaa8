"""A page with videos of trained agents, on which a person chooses the best and the worst."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from firstlight.intrinsic.design.designers.base import ProgramResult
from firstlight.intrinsic.design.designers.preferences import Preference
from firstlight.scripts.page_server import PageHandler, PageServer, RefusedError

HTML = Path(__file__).with_name("preference_page.html")


class PreferencePage(Preference):
    """Shows videos of the agents of a round on a page, and waits for the choice.

    The page tells nothing of programs or returns, so that what is seen decides.

    Args:
        goal: what the agents are to achieve.
        find_video: returns a GIF of the agent that was trained with a program; ValueError, with the
            reason, if there is none.
        show: tells the person the address of the page.
    """

    def __init__(
        self,
        goal: str,
        find_video: Callable[[ProgramResult], Path],
        show: Callable[[str], None] = print,
    ):
        self.goal, self.find_video, self.show = goal, find_video, show

    def choose(self, results: Sequence[ProgramResult]) -> tuple[int, int]:
        """Serve the page until a choice is sent."""
        videos: list[Path | str] = []
        for result in results:
            try:
                videos.append(self.find_video(result))
            except ValueError as error:
                videos.append(str(error))
        server = PreferenceServer(self.goal, videos)
        self.show(f"choose the best and the worst agent at {server.url} (Ctrl-C: choose later)")
        try:
            server.serve_forever(poll_interval=0.1)
        finally:
            server.server_close()
        assert server.choice is not None
        return server.choice


class PreferenceServer(PageServer):
    """Serves the page; ends when a choice is sent.

    Args:
        goal: what the agents are to achieve.
        videos: of each agent its GIF, or why there is none.

    Attributes:
        choice: places of the best and of the worst; None before.
    """

    def __init__(self, goal: str, videos: Sequence[Path | str]):
        self.goal, self.videos = goal, videos
        self.choice: tuple[int, int] | None = None
        super().__init__(_Handler)


class _Handler(PageHandler):
    server: PreferenceServer

    def get(self, path: str, query: dict[str, str]) -> None:
        if path == "":
            self.send_page(HTML)
        elif path == "agents":
            reasons = [None if isinstance(v, Path) else v for v in self.server.videos]
            self.send_json({"goal": self.server.goal, "reasons": reasons})
        else:
            folder, _, number = path.partition("/")
            known = dict(enumerate(self.server.videos))
            video = known.get(int(number)) if number.isdecimal() else None
            if folder != "videos" or not isinstance(video, Path):
                raise RefusedError(404, "there is no such page")
            self.send_data(video.read_bytes(), "image/gif")

    def post(self, path: str, body: bytes) -> None:
        if path != "choice":
            raise RefusedError(404, "there is no such page")
        self.server.choice = _read_choice(body, len(self.server.videos))
        self.send_json({})
        threading.Thread(target=self.server.shutdown).start()


def _read_choice(body: bytes, number: int) -> tuple[int, int]:
    """Places of the best and the worst of `number` agents."""
    try:
        fields: Any = json.loads(body)
        best, worst = fields["best"], fields["worst"]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise RefusedError(400, "expected best and worst") from None
    known = [*range(number)]
    if best not in known or worst not in known or best == worst:
        raise RefusedError(400, f"expected two different numbers from 0 to {number - 1}")
    return best, worst
