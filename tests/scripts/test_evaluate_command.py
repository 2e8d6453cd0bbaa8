"""`firstlight-evaluate` prints one JSON object, follows its seed, and writes nothing but videos."""

import json
import shutil
from pathlib import Path

from command_line import command, contents, metrics
from PIL import Image

from firstlight.agents.session.run_directory import checkpoint
from firstlight.scripts import evaluate, train

KEYS = ["return_mean", "return_std", "success_rate", "episodes", "length_mean"]
KEYS += ["env", "step", "seed"]


def evaluated(*words: str) -> dict:
    done = command(evaluate.main, "run=run", *words)
    assert done.status == 0, done.err
    return done.result()


def test_the_last_line_is_one_object_and_the_same_every_time(run):
    before = contents(run)
    first, second = (command(evaluate.main, "run=run", "episodes=5") for _ in range(2))
    assert first.status == 0, first.err
    assert first == second
    assert list(first.result()) == KEYS
    result = first.result()
    assert (result["episodes"], result["seed"]) == (5, 0)
    assert result["env"] == "firstlight.envs.worlds.chain.Chain"
    assert contents(run) == before


def test_sampled_actions_follow_the_seed(run):
    lengths = {evaluated("episodes=20", f"seed={seed}")["length_mean"] for seed in range(3)}
    assert len(lengths) > 1


def test_deterministic_actions_do_not_depend_on_the_seed(run):
    results = [evaluated("episodes=6", "deterministic=true", f"seed={seed}") for seed in range(2)]
    assert results[0]["return_std"] == results[1]["return_std"] == 0  # chain draws nothing itself
    assert results[0]["length_mean"] == results[1]["length_mean"]


def test_best_and_newest_checkpoint_can_be_chosen(run):
    shutil.copytree(run / "checkpoints" / "best", run / "checkpoints" / "step_000000000008")
    shutil.rmtree(run / "checkpoints" / "step_000000000032")
    best = json.loads((run / "checkpoints/best/manifest.json").read_text())["step"]
    for which in ("best", "newest"):
        assert evaluated("episodes=2", f"which={which}")["step"] == best
    shutil.rmtree(run / "checkpoints")
    done = command(evaluate.main, "run=run", "episodes=2")
    assert done.status == 2
    assert len(done.lines()) == 1


def test_a_video_is_written_and_can_be_read(run):
    done = command(evaluate.main, "run=run", "episodes=2", "video=true")
    assert done.status == 0, done.err
    assert list(done.result()) == KEYS
    (video,) = (run / "videos").iterdir()
    assert f"wrote run/videos/{video.name}" in done.out
    with Image.open(video) as image:
        assert image.format == "GIF"
        assert image.size == (16 * 4, 16)
        assert image.n_frames > 1
        image.seek(image.n_frames - 1)
        image.load()


def test_a_copy_for_evaluation_is_the_policy_and_the_config_alone(run, empty, small):
    shown = evaluated("episodes=5", "copy_to=copies/small")
    done = command(evaluate.main, "run=copies/small", "episodes=5")
    assert done.result() == shown
    assert contents(Path("copies/small")).keys() == {
        "config.yaml",
        *(f"checkpoints/best/{n}" for n in ("manifest.json", "state.json", "tensors.safetensors")),
    }
    state = checkpoint.load("copies/small/checkpoints/best")
    assert state["learner"].keys() == {"policy"}
    assert not state.keys() & {"modules", "mixer", "episodes", "rng"}
    again = command(evaluate.main, "run=run", "episodes=2", "copy_to=copies/small")
    assert (again.status, "copies/small exists already" in again.err) == (2, True)
    rewards = command(evaluate.main, "run=copies/small", "video=true", "rewards=true")
    assert (rewards.status, "holds no reward modules" in rewards.err) == (2, True)
    words = ("intrinsic=[count]", "policy=separate", "init_from=copies/small", "run_dir=further")
    further = command(train.main, *small, *words)
    assert further.status == 0, further.err


def test_returns_are_the_environments_reward_without_bonuses(empty, small):
    words = ("intrinsic=[count]", "mixer=sum", "run_dir=run", "eval_every=16", "total_steps=64")
    weights = ("mixer.terms.reward.weight=0", "mixer.terms.count.weight=100")
    done = command(train.main, *small, *words, *weights)
    assert done.status == 0, done.err
    for line in metrics(empty / "run"):  # the reward of a success is 1, every other is 0
        assert line["eval/return_mean"] == line["eval/success_rate"]
        assert line.get("reward/reward/weighted", 0) == 0
        assert line["reward/count/weighted"] > 1
        if "rollout/return_mean" in line:
            assert line["rollout/return_mean"] == line["rollout/success_rate"]
    result = evaluated("episodes=40")
    assert result["return_mean"] == result["success_rate"] > 0
