"""The benchmark of annotation: its rows train, and its endpoint answers late."""

import json
import urllib.request

import pytest

from firstlight.scripts.benchmarks import annotation, results
from firstlight.scripts.benchmarks.slow_endpoint import started

TINY = ("env.num_envs=4", "trainer.num_steps=16", "learner.minibatch_size=32", "num_threads=1")


def test_rows_are_compared_with_the_training_that_asks_nobody(monkeypatch, here):
    env = "minigrid/doorkey_5x5"
    rows = annotation.ROWS[annotation.MINIGRID]
    tiny = (*TINY, "intrinsic.oni.wait=true")
    chosen = {name: (*rows[name], *tiny) for name in ("off", "remote endpoint, 5 s")}
    monkeypatch.setattr(annotation, "ROWS", {env: chosen})
    monkeypatch.setattr(annotation, "LATENCY", 0.0)
    annotation.measure(rounds=1, steps=640)
    off, on = results.read("annotation")
    assert (off["row"], on["row"]) == ("off", "remote endpoint, 5 s")
    assert off["ratio"] == [1.0]
    assert off["calls"] == 0
    assert on["calls"] > 0
    assert on["labels"] > 0
    assert on["age"] > 0
    assert on["command"] == "firstlight-bench annotation rounds=1 steps=640"


@pytest.mark.parametrize("env", annotation.ROWS)
def test_each_row_names_options_that_exist(env):
    from hydra import compose, initialize_config_module

    assert next(iter(annotation.ROWS[env])) == "off"
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        for overrides in annotation.ROWS[env].values():
            assert compose("train", overrides=[f"env={env}", *overrides])


def test_the_endpoint_answers_with_a_label_for_each_text():
    question = '{"id": "a", "text": "picked up the key"}\n{"id": "b", "text": "wall"}'
    content = f"<data>\n{question}\n</data>\nLabel."
    body = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
    with (
        started(0.05) as url,
        urllib.request.urlopen(f"{url}/chat/completions", data=body, timeout=30) as reply,
    ):
        answer = json.load(reply)["choices"][0]["message"]["content"]
    assert json.loads(answer) == {"a": "DAX", "b": "WUG"}
