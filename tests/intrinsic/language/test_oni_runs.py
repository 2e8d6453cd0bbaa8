"""ONI in whole runs: absence at weight 0, text that it turns on, its tags, resume, refusal."""

import json

import pytest
import torch
from hydra import compose, initialize_config_module

from firstlight.intrinsic.language.store import LabelStore
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec, needed_options
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.train import train

SMALL = (
    *("env.num_envs=8", "trainer.num_steps=32", "learner.minibatch_size=64", "device=cpu"),
    *("learner.num_epochs=1", "eval_episodes=2", "eval_max_steps=50", "num_threads=1"),
)
DOORKEY = ("env=minigrid/doorkey_5x5", *SMALL)
RULE = ("intrinsic=[oni]", "intrinsic.oni.judge=rule", "intrinsic.oni.wait=true")
NETWORK = (
    *("intrinsic.oni.width=8", "intrinsic.oni.length=54", "intrinsic.oni.hidden=16"),
    *("intrinsic.oni.gradient_steps=8", "intrinsic.oni.min_labels=1"),
)
STEPS = 8 * 32 * 4


def composed(*overrides):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        return compose("train", overrides=list(overrides))


def trained(*overrides):
    """Parameters of the policy after a short run without a directory."""
    config = composed(*DOORKEY, "run_dir=null", *overrides)
    config.checkpoint.every = None
    vec = make_vec(config.env, **needed_options(config))
    trainer = build(config, vec)
    trainer.run(STEPS)
    vec.close()
    return {name: p.clone() for name, p in trainer.policy.state_dict().items()}


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_weight_zero_is_absence_and_weight_one_changes_the_update():
    without = trained("mixer=sum", "intrinsic=[]")
    zero = trained("mixer=sum", *RULE, "mixer.terms.oni.weight=0.0")
    assert all(torch.equal(zero[key], value) for key, value in without.items())
    one = trained("mixer=sum", *RULE, "mixer.terms.oni.weight=1.0")
    assert any(not torch.equal(one[key], value) for key, value in without.items())


def test_a_run_logs_its_tags_keeps_its_labels_and_a_resumed_one_asks_nothing_again(tmp_path):
    run = tmp_path / "run"
    train(composed(*DOORKEY, *RULE, f"total_steps={STEPS}", f"run_dir={run}"))
    last = metrics(run)[-1]
    for tag in ("labels", "coverage", "queue", "latency", "errors"):
        assert f"llm/{tag}" in last
    assert last["llm/labels"] > 0
    assert last["llm/coverage"] == 1.0
    assert any(line["reward/oni/raw"] > 0 for line in metrics(run))
    store = LabelStore(run / "labels.sqlite")
    before = {label.item: label.time for label in store.labels()}
    store.close()
    assert len(before) == last["llm/labels"]
    more = (f"total_steps={2 * STEPS}", f"run_dir={run}", "resume=auto")
    train(composed(*DOORKEY, *RULE, *more))
    store = LabelStore(run / "labels.sqlite")
    after = {label.item: label.time for label in store.labels()}
    store.close()
    assert all(after[item] == when for item, when in before.items())
    assert metrics(run)[-1]["llm/labels"] == len(after) >= len(before)


@pytest.mark.parametrize("model", ["retrieval", "classification", "ranking"])
def test_a_run_that_waits_resumes_bit_for_bit(tmp_path, model):
    options = (*DOORKEY, *RULE, f"intrinsic.oni.model={model}", *NETWORK)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(composed(*options, f"total_steps={2 * STEPS}", f"run_dir={whole}"))
    train(composed(*options, f"total_steps={STEPS}", f"run_dir={parts}"))
    train(composed(*options, f"total_steps={2 * STEPS}", f"run_dir={parts}", "resume=auto"))
    tags = ("reward/oni/raw", "llm/labels", "llm/coverage", "train/loss")
    lines = [[[line.get(tag) for tag in tags] for line in metrics(path)] for path in (whole, parts)]
    assert lines[0] == lines[1]
    assert any(line[0] for line in lines[0])


def test_messages_of_nethack_are_judged(tmp_path):
    env = ("env=nethack/score", "env.backend=serial", *SMALL[:-1], "env.num_envs=2")
    run = tmp_path / "run"
    train(composed(*env, *RULE, "total_steps=512", f"run_dir={run}", "eval_episodes=1"))
    assert metrics(run)[-1]["llm/labels"] > 3


def test_an_environment_without_text_is_refused_in_one_sentence(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(BadInputError, match="no text to judge") as caught:
        train(composed("env=chain", *SMALL, "intrinsic=[oni]", f"run_dir={run}"))
    assert "\n" not in str(caught.value)
