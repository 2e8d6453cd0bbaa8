"""`ProgramReward` obeys the rules of reward modules, and survives a program that fails."""

import logging
import sys

import numpy as np
import pytest
import torch
from command_line import command
from gymnasium import spaces
from processes import fork, wait_until

from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.envs import Chain
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import ProgramReward, RewardMixer, Sum, Term, check_module
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.scripts import train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

PROGRAM = """
import numpy as np
RANGES = {"forward": (-1, 1), "new": (0, 1)}
def reward(obs, action, next_obs, info, memory):
    here = next_obs["obs"].argmax(-1)
    gone = here - obs["obs"].argmax(-1)
    farthest = memory.get("farthest", np.zeros(len(action), np.int64))
    memory["farthest"] = np.maximum(farthest, here)
    return {"forward": 0.1 * gone, "new": (here > farthest).astype(float)}
"""
kinds = pytest.mark.parametrize("trusted", [False, True], ids=["sandbox", "trusted"])


def rollout(vec=None, steps=32, seed=0):
    vec = vec or Chain(4, length=3)
    return Runner(vec, seed=seed).collect(RandomActor(vec.act_space), steps)


@kinds
def test_it_obeys_the_rules_of_modules(trusted):
    check_module(ProgramReward(source=PROGRAM, trusted=trusted))


@kinds
def test_the_bonus_is_the_weighted_sum_of_the_components(trusted):
    module = ProgramReward(source=PROGRAM, trusted=trusted, weights={"new": 3.0})
    data = rollout()
    bonus = module.compute(data)
    farthest = torch.zeros(4, dtype=torch.int64)
    here, before = data.next_obs()["obs"].argmax(-1), data.obs["obs"].argmax(-1)
    for t in range(32):
        farthest[data.is_first[t]] = 0
        expected = 0.1 * (here[t] - before[t]) + 3.0 * (here[t] > farthest)
        torch.testing.assert_close(bonus[t], expected.float())
        farthest = farthest.maximum(here[t])
    means = module.update(data)
    assert means["new"] == pytest.approx(float((bonus > 1).float().mean()))
    module.close()


def test_weight_one_changes_the_update_and_a_sum_with_weight_zero_does_not():
    def trained(weight=None):
        vec = Chain(4, length=6, horizon=20)
        modules = {} if weight is None else {"program": ProgramReward(source=PROGRAM)}
        terms = {name: Term(weight=weight) for name in modules}
        mixer = RewardMixer({"reward": Term(), **terms}, Sum())
        torch.manual_seed(0)
        policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(8,)))
        trainer = Trainer(vec, PPO(policy, minibatch_size=64), modules, mixer, num_steps=32)
        trainer.run(4 * 32 * 2)
        return torch.cat([p.detach().flatten() for p in policy.parameters()])

    assert torch.equal(trained(), trained(0.0))
    assert not torch.equal(trained(), trained(1.0))


def test_a_program_that_fails_at_its_start_ends_the_training_with_its_line():
    text = PROGRAM.replace("farthest = memory", "x = obs['image']\n    farthest = memory")
    with pytest.raises(ProgramError, match="failed at its start: line 7: KeyError: 'image'"):
        ProgramReward(source=text).compute(rollout())


def test_one_that_fails_later_gives_no_bonus_and_is_left_out_after_some_times(caplog):
    text = PROGRAM.replace(
        "here = next", "x = 1 / int(memory.get('farthest', 0 * action).max() < 2)\n    here = next"
    )
    module = ProgramReward(source=text, max_failures=2)
    short = rollout(steps=1)
    assert module.compute(short).shape == (1, 4)
    data = rollout(steps=32, seed=3)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not module.compute(data).any()
    assert module.update(data)["failures"] == 2
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2
    assert "ZeroDivisionError" in messages[0]
    assert "not run any more" in messages[1]
    module.close()


def test_a_checkpoint_of_another_program_is_refused():
    module = ProgramReward(source=PROGRAM)
    with pytest.raises(ValueError, match="it was changed"):
        ProgramReward(source=PROGRAM + "\n# changed").load_state_dict(module.state_dict())


def test_weights_of_unknown_components_are_refused():
    with pytest.raises(ValueError, match="'far', but the components are"):
        ProgramReward(source=PROGRAM, weights={"far": 1.0})
    with pytest.raises(ValueError, match="as a file or as source"):
        ProgramReward()


def test_a_program_of_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        ProgramReward(tmp_path / "none.py")


def test_info_and_continuous_actions_reach_the_program():
    text = """
RANGES = {"a": (-10, 10)}
def reward(obs, action, next_obs, info, memory):
    return {"a": action[:, 0] + info["success"]}
"""
    from firstlight.envs.worlds.hard_maze import HardMaze

    vec = HardMaze(2, max_steps=5)
    data = rollout(vec, steps=6)
    assert isinstance(vec.act_space, spaces.Box)
    name = next(iter(data.info))
    module = ProgramReward(
        source=text.replace("success", name).replace(
            f'info["{name}"]', f'info["{name}"].reshape(len(action), -1)[:, 0]'
        )
    )
    bonus = module.compute(data)
    first = data.next_info()[name].flatten(2)[..., 0].numpy()
    expected = np.clip(data.action[..., 0].numpy() + first, -10, 10)
    np.testing.assert_allclose(bonus[data.valid].numpy(), expected[data.valid], rtol=1e-5)
    module.close()


def test_an_evaluation_never_runs_a_program_whatever_the_config_of_the_run_says(tmp_path):
    run, program = tmp_path / "run", tmp_path / "program.py"
    program.write_text(PROGRAM)
    words = ["env=chain", "intrinsic=[program]", f"intrinsic.program.file={program}"]
    words += ["intrinsic.program.trusted=true", "total_steps=64", "eval_episodes=2", "device=cpu"]
    words += ["env.num_envs=2", "trainer.num_steps=8", f"run_dir={run}"]
    assert command(train.main, *words).status == 0
    assert "trusted: true" in (run / "config.yaml").read_text()
    program.write_text(f"{PROGRAM}\nfor _ in iter(int, 1):  # for ever\n    pass\n")
    process = fork("firstlight.scripts.evaluate:main", f"run={run}", "episodes=2")
    try:
        wait_until(lambda: process.poll() is not None)
    finally:
        process.kill()
    assert '"episodes": 2' in process.communicate()[0]
