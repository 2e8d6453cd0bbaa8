"""A chat endpoint as a designer's model: nothing is asked twice, limits hold, failures end."""

import pytest
from llm_server import Server, status

from firstlight.intrinsic.design.designers.text_models import AnswerJudge, ChatModel
from firstlight.intrinsic.language.judges.judge import JudgeError
from firstlight.intrinsic.language.limits import CircuitBreaker, Limits

pytest.importorskip("openai")
MESSAGES = [{"role": "user", "content": "Write."}]
PRICES = {"input_price": 1e5, "output_price": 2e5}  # a reply of the server costs 2


@pytest.fixture
def server():
    made = Server()
    made.content = lambda body: f"answer {len(made.bodies)}"
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short waits after failures."""
    from firstlight.intrinsic.language import annotation

    monkeypatch.setattr(
        annotation, "CircuitBreaker", lambda: CircuitBreaker(first_wait=0.01, longest_wait=0.02)
    )


def make(server, store=None, **options):
    return ChatModel(
        lambda: AnswerJudge(model="m", url=server.url), name="m", store=store, **options
    )


def test_answers_are_free_texts_drawn_independently(server):
    model = make(server)
    answers = model.ask(MESSAGES, 3)
    assert sorted(answers) == ["answer 1", "answer 2", "answer 3"]
    for body in server.bodies:
        assert body["messages"] == MESSAGES
        assert body["temperature"] == 1.0
        assert "response_format" not in body
    model.close()


def test_the_same_question_and_number_is_never_asked_again_also_by_another_process(
    server, tmp_path
):
    store = tmp_path / "answers.sqlite"
    model = make(server, store)
    first = model.ask(MESSAGES, 2)
    assert model.ask(MESSAGES, 2) == first
    model.close()
    other = make(server, store)
    assert other.ask(MESSAGES, 2) == first
    assert len(server.bodies) == 2
    assert len({*other.ask(MESSAGES, 2, start=2), *first}) == 4
    other.close()


@pytest.mark.parametrize(
    "limits",
    [{"calls": 2}, {"tokens": 20}, {"cost": 4.0, **PRICES}],
    ids=["calls", "tokens", "cost"],
)
def test_limits_stop_a_question_and_count_what_was_spent_before(limits, server):
    model = make(server, limits=Limits(**limits), num_workers=1)
    assert len(model.ask(MESSAGES, 5)) == 2
    state = model.state_dict()
    later = make(server, limits=Limits(**limits), num_workers=1)
    later.load_state_dict(state)
    with pytest.raises(JudgeError, match="a limit of the run is reached"):
        later.ask(MESSAGES, 1, start=9)
    assert len(server.bodies) == 2
    assert state["spent"]["calls"] == 2
    price = 4.0 if "cost" in limits else 0.0
    for each in (model, later):  # both have ended, and a report still tells what was spent
        spent = each.metrics()
        assert (spent["calls"], spent["tokens"], spent["cost"]) == (2, 30, price)


def test_a_failure_is_repeated_and_a_key_that_is_refused_is_not(server):
    server.script.extend([status(500), status(429)])
    model = make(server, num_workers=1)
    assert len(model.ask(MESSAGES, 1)) == 1
    assert len(server.bodies) == 3
    model.close()
    server.script.extend([status(401)] * 9)
    with pytest.raises(JudgeError, match="m gave no answer"):
        model.ask(MESSAGES, 1, start=1)
    assert len(server.bodies) == 4


def test_an_endpoint_that_keeps_failing_ends_the_question(server):
    server.script.extend([status(503)] * 99)
    model = make(server, num_workers=1, max_failures=3)
    with pytest.raises(JudgeError, match="m gave no answer"):
        model.ask(MESSAGES, 2)
    asked = len(server.bodies)
    assert asked >= 3
    server.script.clear()
    assert model.ask(MESSAGES, 1) == [f"answer {len(server.bodies)}"]  # later it may answer
    model.close()


def test_the_preview_shows_the_conversation_and_the_cost_and_asks_nothing(server):
    model = make(server, limits=Limits(input_price=1.0, output_price=2.0))
    text = model.preview([{"role": "user", "content": "x" * 4000}], 4, 5, "programs")
    assert "--- user\nxxx" in text
    assert "5 rounds of 4 programs: 20 requests, about 20,000 tokens sent and 14,000 answered" in (
        text
    )
    assert "cost 0.048" in text
    assert server.bodies == []
