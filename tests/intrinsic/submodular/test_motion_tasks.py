"""Grid cells of continuous positions, the ant task of Submodular RL, and its evaluation."""

import itertools
import math

import hydra
import pytest
import torch
from PIL import Image

from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic.submodular import Binned, Coverage, check_set_function
from firstlight.scripts.benchmarks import submodular_tasks as tasks
from firstlight.scripts.benchmarks.submodular_evaluation import (
    episode_values,
    first_episodes,
    load_for_evaluation,
    measure,
)
from firstlight.scripts.benchmarks.walk_evaluation import measure as walks_measure
from firstlight.scripts.build import make_modules
from firstlight.scripts.build_env import make_vec
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.report.paths import draw_bodies, draw_paths
from firstlight.scripts.train import train

SMALL = ("total_steps=40", "eval_episodes=2", "device=cpu", "learner=subpo")


def compose(*overrides):
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        return hydra.compose("train", list(overrides))


def painted(places):
    """Cells of 100 x 100 over [-20, 20)^2 that are at most two from one of `places`, by a loop."""
    cells = set()
    for x, y in places:
        i, j = math.floor((x + 20) / 40 * 100), math.floor((y + 20) / 40 * 100)
        if 0 <= i < 100 and 0 <= j < 100:
            near = {(i + a, j + b) for a in range(-2, 3) for b in range(-2, 3)}
            cells |= {(a, b) for a, b in near if 0 <= a < 100 and 0 <= b < 100}
    return len(cells)


def test_the_ant_covers_five_by_five_cells_and_none_outside_the_grid():
    generator = torch.Generator().manual_seed(0)
    ground = Binned("at", low=-20, high=20, cells=100)
    walks = (torch.rand(30, 12, 2, generator=generator) - 0.5) * 44  # some of it off the ground
    walks[:10] /= 10  # some on the same cells again
    value = tasks.ant().value([ground({"at": walk}, {}) for walk in walks])
    assert value.tolist() == [painted(walk.tolist()) for walk in walks]
    check_set_function(tasks.ant(), torch.tensor([-1, 0, 1, 102, 5050, 5051, 9999]), trials=60)


def test_cells_are_numbered_x_first_and_others_of_the_field_do_not_matter():
    at = torch.tensor([[-1.0, 0.9], [0.0, -0.01], [0.99, 0.0], [1.0, 0.0], [-1.1, 0.5]])
    alone = Binned("at", low=-1, high=1, cells=2)({}, {"at": at})
    among = Binned("body", low=-1, high=1, cells=2, columns=[2, 0])
    body = torch.stack([at[:, 1], torch.full((5,), 9.0), at[:, 0]], 1)
    assert alone.tolist() == among({"body": body}, {}).tolist() == [1, 2, 3, -1, -1]
    assert among({"body": body[:0]}, {}).tolist() == []


def test_one_number_is_a_position_on_a_line_and_other_shapes_are_rejected():
    line = Binned("x", low=0, high=4, cells=4)
    assert line({}, {"x": torch.tensor([3.5, 0.0, 4.0])}).tolist() == [3, 0, -1]
    with pytest.raises(ValueError, match=r"'x' has shape \(\), .* columns \[1\]"):
        Binned("x", low=0, high=4, cells=4, columns=[1])({}, {"x": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"'x' has shape \(2, 2\)"):
        line({}, {"x": torch.zeros(3, 2, 2)})


@pytest.mark.parametrize(
    ("low", "high", "cells", "columns"), [(1, 1, 2, None), (0, 1, 0, None), (0, 1, 2, [])]
)
def test_invalid_grids_are_rejected(low, high, cells, columns):
    with pytest.raises(ValueError, match="expected low below high"):
        Binned("at", low=low, high=high, cells=cells, columns=columns)


def test_the_ants_reward_is_the_number_of_newly_covered_cells():
    """Of a random ant's whole episodes; the reward of the environment has weight 0."""
    config = compose("experiment=subrl_ant", "env.num_envs=3", "env.max_episode_steps=20")
    assert config.mixer.terms.reward.weight == 0
    vec = make_vec(config.env)
    assert vec.obs_space["obs"].shape == (29,)  # 27, and where it is
    modules, vec = make_modules(config.intrinsic, vec, 0)
    rollout = Runner(vec, seed=0).collect(RandomActor(vec.act_space), 60)
    paid = modules["submodular"].compute(rollout).double()
    place = rollout.obs["obs"][..., :2]
    assert (rollout.info["x_position"][rollout.is_first] == 0).all()  # where it is not: a trap
    assert (place[rollout.is_first] != 0).all()
    episodes = 0
    for n in range(3):
        ends = [-1, *(rollout.terminated | rollout.truncated)[:, n].nonzero()[:, 0].tolist()]
        for before, end in itertools.pairwise(ends):
            start = before + 1 + int(before >= 0)  # EnvPool's reset has a row of its own
            walk = place[start : end + 2, n].tolist()
            worth = painted(walk) - painted(walk[:1])
            assert paid[start : end + 1, n].sum().item() == pytest.approx(worth)
            episodes += 1
    assert episodes >= 6
    vec.close()


def test_episodes_are_evaluated_by_f_with_any_reward(tmp_path):
    """Chains in which F counts the places beyond the start: as far as the episode went."""
    for modular in ("false", "true"):
        run = tmp_path / modular
        config = compose(
            *(
                "env=chain",
                "env.num_envs=2",
                "env.length=8",
                "+env.horizon=9",
                "trainer.num_steps=10",
                *SMALL,
            ),
            *("intrinsic=[submodular]", f"intrinsic.submodular.modular={modular}"),
            "intrinsic.submodular.function={_target_: "
            "firstlight.intrinsic.submodular.Coverage, num_cells: 9, senses: "
            f"{[[i] for i in range(9)]}}}",
            "intrinsic.submodular.items={_target_: firstlight.intrinsic.submodular.Field, "
            "name: position}",
            f"run_dir={run}",
        )
        train(config)
        worth = episode_values(run, 20, seed=3, steps=2)  # several rollouts an episode
        assert torch.equal(worth, episode_values(run, 20, seed=3))
        vec, policy, _ = load_for_evaluation(run, 20, seed=3)
        ((rollout, rows),) = first_episodes(vec, policy, seed=3, steps=9)
        farthest = rollout.next_info()["position"].where(rows, 0).amax(0)
        assert worth.tolist() == farthest.tolist()
        assert len(set(worth.tolist())) > 1
        said = measure(run)
        assert 0 < said["value"] < 8
        assert bool(said["curve"]) == (modular == "false")


def test_the_ants_paths_are_drawn_and_evaluated(tmp_path):
    train(
        compose(
            *("experiment=subrl_ant", "env.num_envs=2", "env.max_episode_steps=12", *SMALL),
            *("encoder.hidden=[8]", f"run_dir={tmp_path / 'run'}"),
        )
    )
    said = draw_paths(tmp_path / "run", tmp_path / "paths.png", 3, seed=0)
    assert said["value_mean"] == episode_values(tmp_path / "run", 3, seed=0).mean().item()
    assert (said["episodes"], "bound" in said) == (3, False)
    shown = Image.open(tmp_path / "paths.png").convert("RGB")
    assert len(shown.getcolors(1 << 16)) > 10
    vec, policy, module = load_for_evaluation(tmp_path / "run", 3, seed=0)
    module.items.columns = [0]
    with pytest.raises(BadInputError, match="places have 1 axes"):
        draw_bodies(vec, policy, module, tmp_path / "none.png", seed=0)
    vec.close()


def test_items_without_positions_have_no_paths(tmp_path):
    run = tmp_path / "run"
    config = compose("env=minigrid/doorkey_5x5", "intrinsic=[submodular]", "env.num_envs=2", *SMALL)
    config.run_dir = str(run)
    train(config)
    with pytest.raises(BadInputError, match="only items that are places"):
        draw_paths(run, tmp_path / "paths.png", 2, seed=0)
    with pytest.raises(BadInputError, match="no run on Walks"):
        walks_measure(run)


def test_a_run_without_a_set_function_has_no_gains(tmp_path):
    train(compose("env=chain", "trainer.num_steps=8", *SMALL, f"run_dir={tmp_path}"))
    with pytest.raises(BadInputError, match="no run with a submodular reward"):
        episode_values(tmp_path, 2, seed=0)
    with pytest.raises(BadInputError, match="no run with a submodular reward"):
        draw_paths(tmp_path, tmp_path / "paths.png", 2, seed=0)


def test_a_negative_place_covers_nothing():
    pairs = Coverage(3, senses=[[0, 1], [1, 2]])
    assert pairs.value([torch.tensor([-1]), torch.tensor([-1, 1])]).tolist() == [0, 2]
