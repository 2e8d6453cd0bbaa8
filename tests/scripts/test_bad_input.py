"""Bad input of the commands is one line on stderr with exit status 2, and nothing is written."""

import pytest
import torch
from command_line import command, contents

from firstlight.scripts import evaluate, train
from firstlight.scripts.errors import suggestion


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["choose an environment", "env=minigrid/doorkey_8x8"]),
        (["env=envpool", "env.id=CartPool-v1"], ["'CartPool-v1'", "'CartPole-v1'"]),
        (["env=gym", "env.id=CartPool-v1"], ["CartPool", "CartPole"]),
        (["env=gym", "env.id=nowhere:CartPole-v1"], ["nowhere"]),
        (["env=gym"], ["env.id has no value", "give env.id="]),
        (["env=minigrid/any"], ["give env.task="]),
        (["env=minigrid/unlock", "env.backend=rust"], ["backend", "rust"]),
        (["env=gym", "env.id=CartPole-v1", "+env.colour=3"], ["colour"]),
        (["env=envpool", "env.id=CartPole-v1", "+env.colour=3"], ["colour"]),
        (["env._target_=nowhere.make"], ["'nowhere.make'", "No module named 'nowhere'"]),
        (["env._target_=make"], ["cannot import 'make'"]),
        (["env._target_=firstlight.envs.Chian"], ["'firstlight.envs.Chian'"]),
        (["env._target_=firstlight.envs.worlds.chain"], ["cannot be called"]),
        (["env._target_=user_module.make_number"], ["user_module.make_number made a int"]),
        (["env=chain", "env.num_envs=0"], ["env.num_envs=0"]),
        (["env=chain", "+intrinsic._target_=firstlight.intrinsic.RND"], ["nested under its name"]),
        (["env=chain", "+env.colour=3"], ["takes no 'colour'", "length"]),
        (["env=chain", "+env.lengthy=3"], ["takes no 'lengthy'", "'length'"]),
        (["env=chain", "env.lengthy=3"], ["option env.lengthy", "'length'"]),
        (["env=chain", "sede=3"], ["option sede", "'seed'"]),
        (["env=chain", "mixer.terms.nope.weight=1"], ["option mixer.terms.nope", "reward"]),
        (["env=chain", "+mixer.terms.nope.weight=1"], ["mixer.terms.nope", "reward"]),
        (["env=chain", "+mixer.terms.reward.weighty=1"], ["weighty", "'weight'"]),
        (["env=chains"], ["env=chains", "'chain'"]),
        (["env=minigrid/dorkey_8x8"], ["env=minigrid/dorkey_8x8", "'minigrid/doorkey_8x8'"]),
        (["env=chain", "intrinsic=[cuont]"], ["intrinsic=cuont", "'count'"]),
        (["env=chain", "learner=qqq"], ["learner=qqq", "choose from appo, cma_me, map_elites"]),
        (["env=chain", "seed"], ["'seed'", "EQUAL"]),
        (["env=chain", "seed=1,2"], ["seed=1,2", "--multirun"]),
        (["env=chain", "seed=${nope}"], ["nope"]),
        (["env=chain", "--config-dir", "nowhere"], ["nowhere"]),
        (["env=chain", "seed=-1"], ["seed=-1"]),
        (["env=chain", "seed=x"], ["seed=x"]),
        (["env=chain", "total_steps=0"], ["total_steps=0"]),
        (["env=chain", "total_steps=many"], ["total_steps=many"]),
        (["env=chain", "eval_episodes=0"], ["eval_episodes=0"]),
        (["env=chain", "checkpoint.every=0"], ["checkpoint.every=0"]),
        (["env=chain", "trainer.num_steps=0"], ["trainer.num_steps=0"]),
        (["env=chain", "resume=yes"], ["resume=", "auto"]),
        (["env=chain", "device=gpu"], ["device=gpu", "cuda"]),
        (["env=chain", "encoder=grid"], ["Grid", "image"]),
        (["env=chain", "learner.lr=fast"], ["PPO", "float", "str"]),
        (["env=chain", "intrinsic=[count]", "intrinsic.count.scope=all"], ["'all'", "episodic"]),
        (["env=chain", "intrinsic=[rnd]", "intrinsic.rnd.network=conv"], ["conv"]),
        (["env=chain", "learner.entropy_coef={_target_: nowhere.Fade}"], ["nowhere"]),
        (["env=chain", "core=gur"], ["core=gur", "'gru'"]),
        (["env=chain", "core=gru", "core.hidden=0"], ["hidden is 0"]),
        (["env=chain", "core=gru", "learner.minibatch_size=64"], ["would cut the sequences"]),
        (["env=chain", "core=gru", "learner.sequence_length=7"], ["a divisor of the 128 steps"]),
        (["env=chain", "core=lstm", "auxiliary=rapid"], ["Rapid clones single steps"]),
    ],
    ids=lambda v: " ".join(v) if v and "=" in v[0] else "",
)
def test_bad_training_input_is_one_line(words, parts, empty, user_module):
    done = command(train.main, *words)
    assert done.status == 2
    (line,) = done.lines()
    assert line.startswith("firstlight: ")
    for part in parts:
        assert part in line
    assert list(empty.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_refused(empty, small):
    done = command(train.main, *small, "device=cuda")
    assert done.status == 2
    (line,) = done.lines()
    assert "device=cuda" in line
    assert "device=cpu" in line
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["give run="]),
        (["run=nowhere"], ["run=nowhere is no run directory"]),
        (["run=run", "episodes=0"], ["episodes=0"]),
        (["run=run", "num_envs=0"], ["num_envs=0"]),
        (["run=run", "which=last"], ["'last'", "'newest'"]),
        (["run=run", "epsodes=3"], ["option epsodes", "'episodes'"]),
        (["run=run/checkpoints"], ["run=run/checkpoints is no run directory"]),
    ],
    ids=lambda v: " ".join(v) if v and "=" in v[0] else "",
)
def test_bad_evaluation_input_is_one_line(words, parts, run):
    before = contents(run.parent)
    done = command(evaluate.main, *words)
    assert done.status == 2
    assert done.out == ""
    (line,) = done.lines()
    assert line.startswith("firstlight: ")
    for part in parts:
        assert part in line
    assert contents(run.parent) == before


def test_an_error_while_an_environment_is_made_is_one_line_below_its_stack(empty, user_module):
    done = command(train.main, f"env._target_={user_module}.fail")
    assert done.status == 2
    assert 'user_module.py", line' in done.err
    assert "Traceback" not in done.err
    sentence = "firstlight: user_module.fail raised ValueError: no such luck (while it was made, "
    assert done.lines()[-1].startswith(sentence)
    assert list(empty.iterdir()) == []


def test_a_suggestion_is_the_nearest_name_or_all_names():
    assert suggestion("lengthy", ["length", "size"]) == "; did you mean 'length'?"
    assert suggestion("q", ["length", "size"]) == "; choose from length, size"
    assert suggestion("q", []) == ""
