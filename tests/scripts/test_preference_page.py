"""The page on which a person chooses the best and the worst agent, in a real browser."""

import http.client
import json
import threading

import designs
import numpy as np
import pytest

from firstlight.envs.video import write_gif
from firstlight.scripts.programs.preference_page import PreferencePage, PreferenceServer

ATTACK = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def videos(tmp_path):
    """Two videos and a reason for none."""
    for number in range(2):
        frames = [np.full((40, 60, 3), 80 * number + 9 * t, np.uint8) for t in range(5)]
        write_gif(tmp_path / f"{number}.gif", frames)
    return [tmp_path / "0.gif", ATTACK, tmp_path / "1.gif"]


@pytest.fixture
def asked(videos):
    """A person who is asked in a thread: the address of the page, and the choices."""
    addresses, choices, is_shown = [], [], threading.Event()

    def find(result):
        video = videos[int(result.proposal.source)]
        if isinstance(video, str):
            raise ValueError(video)
        return video

    def show(text):
        addresses.append(next(word for word in text.split() if word.startswith("http")))
        is_shown.set()

    results = [designs.result(str(number)) for number in range(3)]
    person = PreferencePage("reach the <b>end</b>", find, show)
    thread = threading.Thread(target=lambda: choices.append(person.choose(results)), daemon=True)
    thread.start()
    assert is_shown.wait(10)
    yield addresses[0], choices, thread
    if thread.is_alive():
        send(addresses[0], best=0, worst=1)
    thread.join(10)


@pytest.fixture
def page(chromium, asked):
    chromium.resize(1200, 900)
    chromium.open(asked[0])
    chromium.wait("document.querySelectorAll('#agents > li').length === 3")
    return chromium


def send(address, method="POST", path="choice", body=None, **fields):
    """Status and body of a request as the page would make it."""
    host, _, token = address.removeprefix("http://").strip("/").partition("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    headers = {"Content-Type": "application/json", "Origin": f"http://{host}"}
    data = json.dumps(fields) if body is None else body
    connection.request(method, f"/{token}/{path}", data, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def pressed(page):
    """Labels of the buttons that are pressed."""
    return page.run("[...document.querySelectorAll('[aria-pressed=true]')].map((b) => b.ariaLabel)")


def test_what_is_clicked_and_sent_is_the_choice_and_ends_the_page(page, asked):
    _, choices, thread = asked
    assert page.run("document.querySelector('#send').disabled")
    page.click("[data-kind=best]", number=0)
    page.click("[data-kind=worst]", number=1)
    assert pressed(page) == ["Agent 1 is best", "Agent 2 is worst"]
    page.click("[data-kind=best]", number=1)  # what is best is not worst
    assert pressed(page) == ["Agent 2 is best"]
    assert page.run("document.querySelector('#send').disabled")
    page.click("[data-kind=best]", number=2)
    page.click("[data-kind=worst]", number=0)
    assert "agent 3 is best, agent 1 is worst" in page.text()
    page.click("#send")
    page.wait("!document.querySelector('#done').hidden")
    thread.join(10)
    assert choices == [(2, 0)]


def test_videos_play_and_a_missing_one_is_explained_in_plain_text(page):
    page.wait("[...document.images].length === 2 && [...document.images].every((i) => i.complete)")
    assert page.run("[...document.images].map((image) => image.naturalWidth)") == [60, 60]
    assert f"There is no video: {ATTACK}" in page.text()
    assert "Task: reach the <b>end</b>" in page.text()
    assert page.run("document.title") == "Best and worst agent"


@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_is_wider_than_the_window(page, width):
    page.resize(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_without_its_server_the_page_says_so(chromium):
    server = PreferenceServer("walk", ["no", "no"])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    chromium.open(server.url)
    chromium.wait("document.querySelectorAll('#agents > li').length === 2")
    server.shutdown()
    server.server_close()
    chromium.click("[data-kind=best]", number=0)
    chromium.click("[data-kind=worst]", number=1)
    with chromium.offline():  # a connection that is open already would still be answered
        chromium.click("#send")
        chromium.wait("!document.querySelector('#error').hidden")
    assert "run the same command again" in chromium.text()


@pytest.mark.parametrize(
    "body",
    [
        *('{"best": 0}', '{"best": 0, "worst": 0}', '{"best": 0, "worst": 3}', "[0, 1]", "{"),
        *('{"best": "0", "worst": 1}', '{"best": [0], "worst": 1}', '{"best": -1, "worst": 1}'),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(asked, body):
    assert send(asked[0], body=body)[0] == 400
    assert asked[1] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("videos/0", 200), ("videos/1", 404), ("videos/3", 404), ("videos/-1", 404)),
        *(("videos/../0", 404), ("videos/", 404), ("other/0", 404), ("", 200), ("agents", 200)),
    ],
)
def test_only_what_the_page_needs_is_served(asked, videos, path, status):
    found, content = send(asked[0], "GET", path)
    assert found == status
    if path == "videos/0":
        assert content == videos[0].read_bytes()


def test_another_address_is_refused(asked):
    host, _, token = asked[0].removeprefix("http://").strip("/").partition("/")
    other = token[:-1] + ("y" if token.endswith("x") else "x")
    assert send(f"http://{host}/{other}/", best=0, worst=1)[0] == 403
    assert asked[1] == []
