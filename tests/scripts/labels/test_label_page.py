"""The page of labels in a real browser, and what it refuses to answer."""

import http.client
import json
import threading

import pytest

from firstlight.intrinsic.language.store import Label, LabelStore
from firstlight.scripts.labels.page import SHOWN, LabelServer

ATTACK = (
    "<img src=x onerror=\"document.title='taken'\"></li><script>document.title='taken'</script>"
)
KEY, BALL, ODD = ("picked up the key",), ("dropped the ball",), (ATTACK,)
PAIR = ("opened the door", "closed the door")


@pytest.fixture
def store(tmp_path):
    made = LabelStore(tmp_path / "labels.sqlite")
    made.put(
        [
            Label(KEY, 0.9, "judge", "abcdef", time=1.0),
            Label(BALL, 0.2, "judge", "abcdef", time=2.0),
            Label(ODD, None, "judge", "abcdef", time=3.0),
            Label(PAIR, 1.0, "judge", "abcdef", time=4.0),
        ]
    )
    yield made
    made.close()


@pytest.fixture
def server(store):
    made = LabelServer(store)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def page(chromium, server):
    chromium.open(server.url)
    chromium.wait("document.querySelectorAll('#list > li').length === 4")
    return chromium


def said(page):
    """The buttons that are pressed, by the text of their row."""
    return page.run(
        "Object.fromEntries([...document.querySelectorAll('#list > li')].map((row) =>"
        "[row.querySelector('.texts').innerText.split('\\n')[0],"
        " [...row.querySelectorAll('[aria-pressed=true]')].map((b) => b.dataset.label).join()]))"
    )


def row_of(text):
    return (
        "[...document.querySelectorAll('#list > li')]"
        f".find((row) => row.innerText.includes({json.dumps(text)}))"
    )


def test_a_click_and_a_key_label_a_text_and_the_same_again_takes_it_back(page, store):
    page.click("[data-label=helpful]", number=0)  # of the first row, on which the judge abstained
    page.wait("document.querySelector('#saved').textContent === 'saved'")
    assert store.corrections() == {ODD: 1.0}
    page.run(f"{row_of('dropped the ball')}.focus()")
    page.press("u")
    page.wait(f"{row_of('dropped the ball')}.querySelector('[aria-pressed=true]')")
    assert store.corrections() == {ODD: 1.0, BALL: None}
    assert store.find([KEY, BALL], "judge", "abcdef") == {KEY: 0.9, BALL: None}
    assert said(page)["dropped the ball"] == "unclear"
    page.press("u")
    page.wait(f"!{row_of('dropped the ball')}.querySelector('[aria-pressed=true]')")
    assert store.find([BALL], "judge", "abcdef") == {BALL: 0.2}


def test_pairs_have_labels_of_their_own(page, store):
    page.run(f"{row_of(PAIR[0])}.focus()")
    page.press("t")
    page.wait(f"{row_of(PAIR[0])}.querySelector('[aria-pressed=true]')")
    assert store.corrections() == {PAIR: 0.5}
    assert page.run(f"{row_of(PAIR[0])}.querySelectorAll('button').length") == 4


def test_filters_narrow_the_list(page):
    page.run("document.querySelector('#text').focus()")
    for key in "KEY":
        page.press(key)
    page.wait("document.querySelectorAll('#list > li').length === 1")
    assert "picked up the key" in page.text()
    page.run("document.querySelector('#text').value = ''; document.querySelector('#label').value")
    page.run(
        "document.querySelector('#label').value = 'unclear';"
        "document.querySelector('#label').dispatchEvent(new Event('change'))"
    )
    page.wait("document.querySelector('#list > li')?.innerText.includes('onerror')")
    assert "1 of 1 labels" in page.text()


def test_a_text_of_a_game_is_shown_and_never_run(page):
    assert ATTACK in page.text()
    assert page.run("document.title") == "Labels"
    assert page.run("document.querySelectorAll('#list img, #list script').length") == 0


def test_a_persons_label_is_shown_beside_the_judges_when_the_page_comes_again(page, store, server):
    store.correct(KEY, 0.0)
    page.open(server.url)
    page.wait("document.querySelectorAll('#list > li').length === 4")
    page.wait(f"{row_of('picked up the key')}.querySelector('[aria-pressed=true]')")
    assert said(page)["picked up the key"] == "unhelpful"
    assert "person" in page.run("document.querySelector('#counts').innerText")


def test_more_are_shown_on_demand_and_none_is_left_out_after_corrections(page, store, server):
    many = [Label((f"text {i:03}",), 0.6 + i / 1000, "judge", "abcdef") for i in range(2 * SHOWN)]
    store.put(many)
    page.open(server.url)
    page.wait(f"document.querySelectorAll('#list > li').length === {SHOWN}")
    for number in range(3):  # corrected ones go to the end of the order
        page.click("[data-label=unhelpful]", number=number)
        page.wait(f"document.querySelectorAll('[aria-pressed=true]').length === {number + 1}")
    while not page.run("document.querySelector('#more').hidden"):
        before = page.run("document.querySelectorAll('#list > li').length")
        page.click("#more")
        page.wait(
            f"document.querySelectorAll('#list > li').length > {before}"
            " || document.querySelector('#more').hidden"
        )
    shown = page.run("[...document.querySelectorAll('.texts')].map((x) => x.innerText)")
    assert len(shown) == len(set(shown)) == 4 + 2 * SHOWN


@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_is_wider_than_the_window(page, width):
    page.resize(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.resize(1200, 900)


def test_without_its_server_the_page_says_so(chromium, store):
    server = LabelServer(store)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    chromium.open(server.url)
    chromium.wait("document.querySelectorAll('#list > li').length === 4")
    server.shutdown()
    server.server_close()
    with chromium.offline():  # a connection that is open already would still be answered
        chromium.click("[data-label=helpful]")
        chromium.wait("!document.querySelector('#error').hidden")
    assert "has ended" in chromium.text()
    assert store.corrections() == {}


def ask(server, method="GET", path=None, body=None, **headers):
    """Status and body of a request with these headers, which ours would be without them."""
    host = f"127.0.0.1:{server.server_port}"
    given = {"Host": host, **({"Origin": f"http://{host}"} if method == "POST" else {})}
    given |= {"Content-Type": "application/json"} if method == "POST" else {}
    data = b"" if body is None else json.dumps(body).encode()
    given |= {"Content-Length": str(len(data))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.putrequest(method, path or f"/{server.token}/labels", skip_host=True)
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(data)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def correct(server, item=KEY, label="unhelpful", **options):
    path = f"/{server.token}/correct"
    options = {"path": path, "body": {"item": item, "label": label}, **options}
    return ask(server, "POST", **options)


def test_a_request_of_the_page_is_answered(server, store):
    answer, text = ask(server)
    assert answer.status == 200
    assert [tuple(entry["item"]) for entry in json.loads(text)["entries"]] == [PAIR, ODD, BALL, KEY]
    assert correct(server)[0].status == 200
    assert store.corrections() == {KEY: 0.0}
    assert correct(server, label=None)[0].status == 200
    assert store.corrections() == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},  # a name that was made to lead to this machine
        {"Host": "127.0.0.1:1"},
        {"Host": None},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Origin": None},
        {"path": "/wrong/correct"},
        {"path": "/correct"},
    ],
    ids=str,
)
def test_a_change_from_elsewhere_is_refused(server, store, headers):
    answer, text = correct(server, **headers)
    assert answer.status == 403
    assert server.token not in text
    assert store.corrections() == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Origin": "http://attacker.example"},
        {"path": "/labels"},
        {"path": "/"},
    ],
    ids=str,
)
def test_labels_are_not_read_from_elsewhere(server, headers):
    answer, text = ask(server, **headers)
    assert answer.status in (400, 403)
    assert "picked up" not in text
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"item": ("not in the store",)}, 404),
        ({"item": [1]}, 404),
        ({"item": []}, 400),
        ({"label": "first"}, 400),  # of a pair
        ({"item": PAIR, "label": "helpful"}, 400),
        ({"body": "x"}, 400),
        ({"Content_Type": "text/plain"}, 415),  # what another page may send unasked
        ({"Content_Length": "1000000000"}, 413),
        ({"path": "/other"}, 403),
    ],
    ids=str,
)
def test_a_change_that_makes_no_sense_is_refused(server, store, options, status):
    assert correct(server, **options)[0].status == status
    assert store.corrections() == {}


def test_the_page_may_load_nothing_and_be_framed_by_nobody(server):
    answer, text = ask(server, path=f"/{server.token}/")
    policy = answer.headers["Content-Security-Policy"]
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'none'"):
        assert rule in policy
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "http://" not in text
    assert "https://" not in text
    assert "src=" not in text


def test_it_listens_on_this_machine_only_with_a_new_token_each_time(server, store):
    assert server.server_address[0] == "127.0.0.1"
    other = LabelServer(store)
    other.server_close()
    assert other.token != server.token
    assert len(server.token) >= 32
