"""The car-racing task of Submodular RL: rewards, training and pictures."""

import hydra
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image

from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.worlds.race import CELL, Race
from firstlight.intrinsic.submodular import check_set_function
from firstlight.scripts.benchmarks import submodular_tasks as tasks
from firstlight.scripts.benchmarks.submodular_evaluation import measure
from firstlight.scripts.build import make_modules
from firstlight.scripts.build_env import make_vec
from firstlight.scripts.report.paths import draw_paths
from firstlight.scripts.train import train

HASTY = RandomActor(spaces.Box(np.float32([0, -1]), np.float32([1, 1])))


def compose(*overrides):
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        return hydra.compose("train", ["experiment=subrl_race", *overrides])


def paid(modular, actor, steps, **env):
    """Bonuses of each of `steps` steps of a given driver, and the rollouts."""
    config = compose(f"intrinsic.submodular.modular={modular}")
    vec = make_vec(config.env, num_envs=4, **env)
    module = make_modules(config.intrinsic, vec, 0)[0]["submodular"]
    runner = Runner(vec, seed=0)
    rollouts = [runner.collect(actor, n) for n in steps]
    return torch.cat([module.compute(rollout).double() for rollout in rollouts]), rollouts


def test_the_set_function_fits_the_track_and_is_submodular():
    race, function = Race(1), tasks.race()
    assert function.num_facilities == race.cells
    assert function.value([torch.arange(race.cells)]).item() == pytest.approx(race.finish, abs=CELL)
    assert function.value([torch.tensor([700, 200, 650])]).item() == pytest.approx(7.0)
    check_set_function(function, torch.arange(0, race.cells, 13), trials=60)
    assert tasks.race(20.005).num_facilities == Race(1, finish=20.005).cells


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_the_bonuses_of_an_episode_add_up_to_its_progress(autoreset):
    """Gains add up to the farthest cell, over borders of rollouts and through crashes."""
    gains, rollouts = paid("false", HASTY, (37, 90, 51), horizon=60, autoreset=autoreset)
    at = torch.cat([rollout.next_info()["progress"] for rollout in rollouts])
    valid = torch.cat([rollout.valid for rollout in rollouts])
    over = torch.cat([rollout.terminated for rollout in rollouts])
    covered = torch.cat([rollout.next_info()["covered"] for rollout in rollouts])
    episodes = []
    for n in range(4):
        far, total = 0, 0.0
        for t in range(len(at)):
            if not valid[t, n]:
                assert gains[t, n] == 0
                continue
            far, total = max(far, int(at[t, n])), total + float(gains[t, n])
            assert total == pytest.approx(far * CELL, abs=1e-5)
            assert covered[t, n].item() == pytest.approx(total, abs=CELL)
            if over[t, n]:
                episodes.append(far)
                far, total = 0, 0.0
    assert len(episodes) >= 10
    assert max(episodes) > 100


def test_the_modular_reward_is_the_position_itself():
    """The paper's baseline: s at each step, so a car at rest is rewarded again and again."""
    gains, rollouts = paid("true", HASTY, (60,), horizon=100)
    rollout = rollouts[0]
    s = rollout.next_info()["progress"] * CELL
    torch.testing.assert_close(gains[rollout.valid], s[rollout.valid].double(), atol=1e-5, rtol=0)
    assert gains.max() > 1


def test_a_run_trains_and_its_paths_are_evaluated_and_drawn(tmp_path):
    small = ("env.num_envs=3", "env.horizon=40", "total_steps=200", "eval_episodes=3")
    train(compose("learner=subpo", *small, f"run_dir={tmp_path / 'run'}", "device=cpu"))
    found = measure(tmp_path / "run")
    assert 0 < found["value"] < 16.4
    assert found["curve"]
    said = draw_paths(tmp_path / "run", tmp_path / "new/paths.png", 5, seed=0)
    assert 0 < said["covered_mean"] <= said["covered_max"] < said["finish"] == 16.4
    assert said == draw_paths(tmp_path / "run", tmp_path / "new/paths.png", 5, seed=0)
    shown = Image.open(tmp_path / "new/paths.png").convert("RGB")
    assert len(shown.getcolors(1 << 16)) > 10
