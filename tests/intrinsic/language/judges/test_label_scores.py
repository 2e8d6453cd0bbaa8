"""Scores from the probabilities of label tokens, and their calibration."""

import json
import math
import random

import pytest
import torch
from llm_server import Server, label

from firstlight.intrinsic.language.judges.judge import JudgeError
from firstlight.intrinsic.language.judges.label_scores import Calibration, label_scores
from firstlight.intrinsic.language.judges.llm_judge import LLMJudge
from firstlight.intrinsic.language.prompts import Prompt

RATING = Prompt.load().labels
PAIRS = Prompt.load(pairs=True).labels


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def cut(content, numbers, chances):
    """Cut an answer into tokens at random; each label begins in a token with `chances`."""
    tokens = []
    while content:
        size = numbers.randint(1, 5)
        tokens.append(content[:size])
        content = content[size:]
    whole, at, found = "".join(tokens), 0, []
    starts = [i + 1 for i in range(len(whole)) if whole[: i + 1].endswith(': "')]
    for token in tokens:
        inside = [start for start in starts if at <= start < at + len(token)]
        places = {}
        if inside:
            before = token[: inside[-1] - at]
            shown = len(token) - len(before)
            for word, chance in chances.items():
                places[before + word[:shown]] = math.log(chance)
        found.append((token, places))
        at += len(token)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_score_is_the_mean_of_the_labels_however_the_answer_is_cut(seed):
    numbers = random.Random(seed)
    chances = {"DAX": 0.5 * numbers.random(), "WUG": 0.5 * numbers.random()}
    expected = chances["DAX"] / (chances["DAX"] + chances["WUG"])
    ids = ["ab12cd", "ff0011"]
    content = json.dumps({i: numbers.choice(["DAX", "WUG"]) for i in ids})
    tokens = cut(content, numbers, {**chances, "UNSURE": 0.001, "nothing": 0.002})
    scores = label_scores(tokens, RATING, ids)
    assert set(scores) == set(ids)
    assert [*scores.values()] == pytest.approx([expected] * 2)


def test_a_tie_counts_half_and_a_shared_first_letter_goes_to_the_label_that_was_drawn():
    start = ('{"a": "', {})
    three = {"FIRST": math.log(0.2), "SECOND": math.log(0.3), "SAME": math.log(0.5)}
    assert label_scores([start, ("SAME", three), ('"}', {})], PAIRS, ["a"]) == {
        "a": pytest.approx(0.3 + 0.25)
    }
    letters = [start, ("S", {"F": math.log(0.25), "S": math.log(0.75)}), ('AME"}', {})]
    # SECOND has the least likely token's probability, 0.25
    mean = (0.5 * 0.75 + 0.25) / (0.25 + 0.75 + 0.25)
    assert label_scores(letters, PAIRS, ["a"]) == {"a": pytest.approx(mean)}


def test_without_probabilities_or_with_an_id_that_is_not_there_once_there_is_no_score():
    assert label_scores([], RATING, ["a"]) == {}
    assert label_scores([('{"a": "', {}), ("DAX", {}), ('"}', {})], RATING, ["a"]) == {}
    places = {"DAX": -0.1, "WUG": -2.0}
    twice = [('{"a": "', {}), ("DAX", places), ('", "a": "', {}), ("WUG", places), ('"}', {})]
    assert label_scores(twice, RATING, ["a", "b"]) == {}
    assert label_scores([('{"a": "', {})], RATING, ["a"]) == {}


def test_calibration_recovers_a_logistic_function():
    numbers = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, generator=numbers)
    chance = (0.5 * logits + 1.0).sigmoid()
    labels = (torch.rand(4000, generator=numbers) < chance).float()
    fitted = Calibration.fit(logits.sigmoid().tolist(), labels.tolist())
    # classes of equal weight shift the intercept by the logit of the helpful ones' share
    share = labels.mean().item()
    assert fitted.slope == pytest.approx(0.5, abs=0.06)
    assert fitted.intercept == pytest.approx(1.0 - math.log(share / (1 - share)), abs=0.12)


def test_scores_that_do_not_go_with_the_labels_become_one_half():
    fitted = Calibration.fit([0.9, 0.8, 0.2, 0.1], [0.0, 0.0, 1.0, 1.0])
    assert [fitted(x) for x in (0.0, 0.3, 1.0)] == [0.5] * 3


@pytest.mark.parametrize(
    ("scores", "labels"), [([], []), ([None, None], [1.0, 0.0]), ([0.5, 0.5], [1.0, 0.0])]
)
def test_nothing_to_fit_changes_nothing(scores, labels):
    fitted = Calibration.fit(scores, labels)
    assert [fitted(x) for x in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]


def shy(content):
    """Tokens of a model whose helpful texts have a score of 0.3, the others one of 0.1."""
    found = [("{", {})]
    for i, word in json.loads(content).items():
        chance = 0.3 if word == "DAX" else 0.1
        places = {"DAX": math.log(chance), "WUG": math.log(1 - chance)}
        found += [(f'"{i}": "', {}), (word, places), ('", ', {})]
    return found


EXAMPLES = [(f"good {i}", 1.0) for i in range(5)] + [(f"bad {i}", 0.0) for i in range(20)]


def test_a_shy_model_is_calibrated_by_examples_that_are_asked_once(server):
    server.tokens = shy
    texts = ["a good thing", "a bad thing"]
    plain = LLMJudge(model="m", url=server.url, prompt=Prompt.load())
    assert plain.rate(texts) == pytest.approx([0.3, 0.1])
    judge = LLMJudge(model="m", url=server.url, prompt=Prompt.load(), examples=EXAMPLES)
    assert judge.prompt != plain.prompt
    helpful, other = judge.rate(texts)
    assert helpful > 0.9
    assert other < 0.1
    assert judge.calls == 4 + 1
    judge.rate(texts)
    assert judge.calls == 4 + 2
    resumed = LLMJudge(model="m", url=server.url, prompt=Prompt.load(), examples=EXAMPLES)
    resumed.load_state_dict(judge.state_dict())
    assert resumed.rate(texts) == [helpful, other]
    assert resumed.calls == 4 + 3


def test_a_model_that_cannot_tell_gives_no_labels(server):
    def upside_down(content):
        swapped = {"DAX": "WUG", "WUG": "DAX"}
        answer = {i: swapped[word] for i, word in json.loads(content).items()}
        tokens = shy(json.dumps(answer))
        return [(swapped.get(token, token), places) for token, places in tokens]

    server.tokens = upside_down
    judge = LLMJudge(model="m", url=server.url, prompt=Prompt.load(), examples=EXAMPLES)
    assert judge.rate(["a good thing", "a bad thing"]) == [None, None]


def test_doubtful_scores_are_no_labels(server):
    server.tokens = lambda content: [
        (token, {"DAX": math.log(0.52), "WUG": math.log(0.48)} if places else {})
        for token, places in shy(content)
    ]
    assert LLMJudge(model="m", url=server.url, prompt=Prompt.load()).rate(["good"]) == [None]


def test_an_endpoint_that_refuses_log_probabilities_is_asked_without(server):
    server.refuses_logprobs = True
    judge = LLMJudge(model="m", url=server.url, prompt=Prompt.load(), examples=EXAMPLES[:6])
    assert judge.rate(["good", "bad"]) == pytest.approx([1.0, 0.0], abs=1e-3)
    assert ["logprobs" in body for body in server.bodies] == [True, False, False]
    assert all("response_format" in body for body in server.bodies)
    server.schemas = False  # and so with both
    server.bodies.clear()
    both = LLMJudge(model="m", url=server.url, prompt=Prompt.load())
    assert both.rate(["good", "bad"]) == [1.0, 0.0]
    assert both.rate(["good", "bad"]) == [1.0, 0.0]
    assert [len({"logprobs", "response_format"} & body.keys()) for body in server.bodies] == [
        *(2, 1, 1, 0, 0)
    ]


def test_pairs_have_the_mean_of_their_labels(server):
    def half(content):
        places = {"FIRST": math.log(0.6), "SECOND": math.log(0.2), "SAME": math.log(0.2)}
        ((i, word),) = json.loads(content).items()
        return [(f'{{"{i}": "', {}), (word, places), ('"}', {})]

    server.tokens = half
    judge = LLMJudge(
        model="m", url=server.url, prompt=Prompt.load(), pair_prompt=Prompt.load(pairs=True)
    )
    assert judge.compare([("good", "bad")]) == pytest.approx([0.2 + 0.1])


def test_calibration_does_not_ask_beyond_a_limit(server):
    server.tokens = shy
    judge = LLMJudge(model="m", url=server.url, prompt=Prompt.load(), examples=EXAMPLES)

    def permit():
        if judge.calls >= 2:
            raise JudgeError("a limit of the run is reached")

    judge.permit = permit
    with pytest.raises(JudgeError, match="limit"):
        judge.rate(["good"])
    assert judge.calls == 2
    assert label("good") == "DAX"
