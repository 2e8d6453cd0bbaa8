"""``firstlight-motif`` and the run that uses its reward; each command goes on after SIGKILL."""

import json
import shutil
import signal
import subprocess
import sys
from typing import ClassVar

import motif_memory
import pytest
from command_line import command, metrics
from hydra import compose, initialize_config_module
from llm_server import Server, questions, right_answer

from firstlight.agents.session.run_directory import checkpoint
from firstlight.intrinsic.language.caption_counts import CaptionCounts
from firstlight.intrinsic.language.judges import judge_options
from firstlight.intrinsic.language.judges.rule_judge import RuleJudge
from firstlight.intrinsic.language.motif_training import MotifReward
from firstlight.intrinsic.language.store import LabelStore
from firstlight.scripts import motif
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.train import train

SMALL = ("width=8", "length=54", "hidden=16", "lr=0.01", "epochs=6")
RUN = (
    *("env=minigrid/doorkey_5x5", "env.num_envs=8", "trainer.num_steps=32", "device=cpu"),
    *("learner.num_epochs=1", "learner.minibatch_size=64", "eval_episodes=2", "num_threads=1"),
    *("eval_max_steps=20", "intrinsic=[motif]"),
)
SLOW = """
import sys, time
from firstlight.intrinsic.language.judges import judge_options
from firstlight.intrinsic.language.judges.rule_judge import RuleJudge
from firstlight.scripts import motif
class Slow(RuleJudge):
    def compare(self, pairs):
        answers = super().compare(pairs)
        for pair in pairs:
            print("asked", *pair, sep="|", flush=True)
        time.sleep(0.05)
        return answers
judge_options.RuleJudge = Slow
sys.argv = ["firstlight-motif", *sys.argv[1:]]
motif.main()
"""


def run(*words):
    return command(motif.main, *map(str, words))


class Recording(RuleJudge):
    """The rules, and the pairs that they were asked for."""

    asked: ClassVar[list] = []

    def compare(self, pairs):
        self.asked.extend(pairs)
        return super().compare(pairs)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """A folder with captions of random play."""
    folder = tmp_path_factory.mktemp("motif") / "doorkey"
    done = run("collect", folder, "env=minigrid/doorkey_5x5", "env.num_envs=8", "steps=4096")
    assert done.status == 0, done.err
    return folder


@pytest.fixture(scope="module")
def fitted(collected, tmp_path_factory):
    """The same with comparisons and a reward."""
    folder = copy(collected, tmp_path_factory.mktemp("fitted") / "doorkey")
    done = run("annotate", folder, "judge=rule", "pairs=500", "seed=1")
    assert done.status == 0, done.err
    done = run("train", folder, *SMALL)
    assert done.status == 0, done.err
    return folder


def captions(folder):
    counts = CaptionCounts(folder / "captions.sqlite")
    found, numbers = counts.read()
    counts.close()
    return dict(zip(found, numbers.tolist(), strict=True))


def labels(folder):
    store = LabelStore(folder / "labels.sqlite")
    found = {label.item: label for label in store.labels()}
    store.close()
    return found


def copy(folder, to):
    """Copy the files of a folder, without the reward."""
    return shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))


def test_captions_of_two_policies_add_up_and_a_finished_recording_stays(tmp_path, collected):
    folder, words = tmp_path / "both", ("env=minigrid/doorkey_5x5", "env.num_envs=8")
    run("collect", folder, *words, "steps=4096")
    assert captions(folder) == captions(collected)
    once = captions(folder)
    assert "has played 4,096 steps" in run("collect", folder, *words, "steps=4000").out
    assert captions(folder) == once
    run("collect", folder, *words, "steps=1024", "seed=5")
    assert sum(captions(folder).values()) > sum(once.values())
    assert all(caption.sentence.endswith("then get to the goal)") for caption in once)


def test_the_four_commands_give_a_reward_that_is_paid(fitted, tmp_path):
    reward = MotifReward.load(fitted / "reward.safetensors")
    assert reward.facts["with_mission"] is True
    assert reward.facts["family"] == "minigrid"
    sentences = [*dict.fromkeys(caption.sentence for caption in captions(fitted))]
    scores = dict(zip(sentences, reward.model.raw(sentences).tolist(), strict=True))
    good = [x for text, x in scores.items() if text.startswith(("unlocked", "picked up"))]
    bad = [x for text, x in scores.items() if text.startswith("dropped")]
    assert min(good) > max(bad)
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        file = f"intrinsic.motif.file={fitted / 'reward.safetensors'}"
        words = (*RUN, file, "total_steps=2048", f"run_dir={tmp_path / 'run'}")
        train(compose("train", overrides=list(words)))
    lines = metrics(tmp_path / "run")
    assert any(line["reward/motif/raw"] > 0 for line in lines)


def test_a_policy_of_a_run_plays(fitted, tmp_path):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        file = f"intrinsic.motif.file={fitted / 'reward.safetensors'}"
        words = (*RUN, file, "total_steps=512", f"run_dir={tmp_path / 'run'}")
        train(compose("train", overrides=list(words)))
    done = run("collect", tmp_path / "played", f"run={tmp_path / 'run'}", "steps=1024")
    assert done.status == 0, done.err
    assert captions(tmp_path / "played")


def test_annotating_goes_on_after_sigkill_and_asks_for_nothing_answered_again(
    tmp_path, collected, monkeypatch
):
    folder = copy(collected, tmp_path / "killed")
    words = ("annotate", folder, "judge=rule", "pairs=500", "request_size=1")
    command_line = [sys.executable, "-P", "-c", SLOW, *map(str, words)]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(4)]
    process.send_signal(signal.SIGKILL)
    lines += process.communicate()[0].splitlines()
    asked = {tuple(x.strip().split("|")[1:]) for x in lines if x.startswith("asked")}
    before = labels(folder)
    assert len(before) >= 3
    assert len(asked - before.keys()) <= 1  # the one under way
    monkeypatch.setattr(judge_options, "RuleJudge", Recording)
    Recording.asked.clear()
    assert run(*words).status == 0
    again = [*Recording.asked]
    assert again
    assert len(again) == len(set(again))
    assert not set(again) & before.keys()
    after = labels(folder)
    assert before.keys() | set(again) == after.keys()
    assert all(after[item] == label for item, label in before.items())
    assert "in 0 requests now" in run(*words).out
    assert Recording.asked == again


def test_a_fit_that_was_interrupted_goes_on_to_the_same_model(tmp_path, fitted, monkeypatch):
    whole = MotifReward.load(fitted / "reward.safetensors")
    folder = copy(fitted, tmp_path / "parts")
    save = checkpoint.save

    def save_and_end(*args, step, **options):
        save(*args, step=step, **options)
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", save_and_end)
        assert run("train", folder, *SMALL).status == 130
    done = run("train", folder, *SMALL)
    assert "going on after epoch 3" in done.err
    assert "epoch 3 of 6" not in done.out
    parts = MotifReward.load(folder / "reward.safetensors")
    for name, value in whole.model.head.state_dict().items():
        assert (value == parts.model.head.state_dict()[name]).all()
    assert whole.ratings.tolist() == parts.ratings.tolist()
    assert not (folder / "training").exists()


def test_what_a_language_model_does_not_answer_is_asked_once_more(tmp_path, collected):
    folder = copy(collected, tmp_path / "llm")
    server = Server()
    words = ("annotate", folder, "judge=llm", f"url={server.url}", "llm=m", "pairs=200")
    server.content = lambda body: "I like them all."
    done = run(*words, "max_calls=2")
    assert done.status == 1
    assert "a limit is reached" in done.err
    asked = [{row["first"] for row in questions(body)} for body in server.bodies]
    assert asked[0] == asked[1]  # the one re-ask
    assert {label.score for label in labels(folder).values()} == {None}
    server.content = right_answer
    done = run(*words)
    server.close()
    assert done.status == 0
    texts = [(row["first"], row["second"]) for body in server.bodies[2:] for row in questions(body)]
    assert len(texts) == len(set(texts))
    assert "without a label" in done.out


def test_a_person_corrects_a_comparison_and_the_next_fit_uses_it(tmp_path, fitted):
    folder = copy(fitted, tmp_path / "corrected")
    store = LabelStore(folder / "labels.sqlite")
    for item in labels(folder):
        first, second = (text.startswith(("dropped", "closed")) for text in item)
        store.correct(item, 0.5 + (second - first) / 2)  # a person who likes to drop things
    store.close()
    assert run("train", folder, *SMALL).status == 0
    reward = MotifReward.load(folder / "reward.safetensors")
    sentences = [*dict.fromkeys(caption.sentence for caption in captions(folder))]
    scores = dict(zip(sentences, reward.model.raw(sentences).tolist(), strict=True))
    bad = [x for text, x in scores.items() if text.startswith("dropped")]
    good = [x for text, x in scores.items() if text.startswith("unlocked")]
    assert min(bad) > max(good)


def test_a_status_line_is_shown_to_the_judge_and_not_to_the_model(tmp_path):
    pytest.importorskip("nle")
    folder = tmp_path / "nethack"
    words = ("env=nethack/score", "env.backend=serial", "env.num_envs=2", "steps=600")
    done = run("collect", folder, *words, "status=true")
    assert done.status == 0, done.err
    found = captions(folder)
    assert any("experience level 1" in caption.status for caption in found)
    assert all(" of " in caption.status for caption in found)
    assert run("annotate", folder, "judge=rule", "pairs=200").status == 0
    assert all("[depth " in text for item in labels(folder) for text in item)
    done = run("train", folder, *SMALL)
    assert done.status == 0, done.err
    assert "[depth" not in done.out
    assert MotifReward.load(folder / "reward.safetensors").facts["with_mission"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["colect", "F"], "did you mean 'collect'"),
        (["collect"], "takes one folder"),
        (["collect", "F"], "needs a policy"),
        (["collect", "F", "env=minigrid/doorkey_5x5", "run=x"], "needs a policy"),
        (["collect", "F", "run=nowhere"], "is no run directory"),
        (["collect", "F", "env=chain"], "has no captions"),
        (["collect", "F", "env=minigrid/doorkey_55"], "did you mean 'minigrid/doorkey_5x5'"),
        (
            ["collect", "F", "env=minigrid/doorkey_5x5", "status=true"],
            "needs NetHack's bottom line",
        ),
        (["collect", "F", "env=minigrid/doorkey_5x5", "status=yes"], "expected true or false"),
        (["collect", "F", "run=x", "which=latest"], "expected newest or best"),
        (["annotate", "F"], "holds no captions"),
        (["train", "F"], "holds no captions"),
        (["train", "F", "lr=0"], "expected a number above 0"),
        (["train", "F", "epoch=3"], "did you mean 'epochs'"),
        (["train", "C"], "holds no comparisons"),
        (["annotate", "C", "judge=rules"], "did you mean 'rule'"),
        (
            ["collect", "C", "env=nethack/score", "env.backend=serial"],
            "another kind of environment",
        ),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_sentence(tmp_path, collected, words, message):
    places = {"F": tmp_path / "f", "C": copy(collected, tmp_path / "c")}
    done = run(*(places.get(word, word) for word in words))
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_run_without_the_file_is_told_which_command_makes_it(tmp_path):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        words = [*RUN, f"run_dir={tmp_path / 'run'}"]
        with pytest.raises(BadInputError, match=r"give intrinsic\.motif\.file="):
            train(compose("train", overrides=words))
        with pytest.raises(BadInputError, match="firstlight-motif makes one"):
            train(compose("train", overrides=[*words, "intrinsic.motif.file=nowhere"]))


def test_half_a_million_pairs_fit_into_memory(soak, tmp_path):
    """With the rule judge: a soak compares the peaks of processes with few and with many pairs."""
    found = {}
    if soak.full:
        for pairs in (20_000, 500_000):
            words = [sys.executable, "-P", motif_memory.__file__, str(tmp_path / str(pairs))]
            out = subprocess.run([*words, str(pairs)], capture_output=True, text=True, check=True)
            found[pairs] = json.loads(out.stdout.splitlines()[-1])
    else:
        found[1_000] = motif_memory.measure(tmp_path / "few", 1_000)
    for pairs, measured in found.items():
        assert measured["answered"] > pairs / 4
    soak.repeats = len(found)
    soak.found.update({str(pairs): measured for pairs, measured in found.items()})
    for peak in ("annotate_mb", "train_mb"):
        assert found[max(found)][peak] - found[min(found)][peak] < 100
