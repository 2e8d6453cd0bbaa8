"""Pictures show what was paid where, and taking them changes nothing."""

import copy
import dataclasses
import json
import math
import random
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import command
from gymnasium import spaces
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.diagnostics.pictures import (
    VISITS,
    HeatMaps,
    draw_map,
    position_channel,
    positions,
)
from firstlight.agents.diagnostics.reward_video import Strips, record_rewards
from firstlight.agents.evaluation import record
from firstlight.agents.policy import ActorCritic
from firstlight.agents.session.iteration_data import IterationData
from firstlight.agents.trainer import Trainer
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.seeding import generator
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import RND, HashCount, RewardMixer, Term
from firstlight.intrinsic.mixer import Component
from firstlight.networks.encoders import MLP
from firstlight.scripts import evaluate, train

N, T = 3, 8
MODES = ("same_step", "next_step")
WORDS, PLOT = 13, 24  # heights of a strip's words and of its bars


def make_trainer(autoreset="same_step", modules=("count",), **options):
    vec = Chain(N, length=3, autoreset=autoreset)
    made = {"count": HashCount(vec.obs_space), "rnd": RND(vec.obs_space, warmup_steps=T)}
    chosen = {name: made[name] for name in modules}
    terms = {name: module.default_term() for name, module in chosen.items()}
    mixer = RewardMixer({"reward": Term(), **terms})
    torch.manual_seed(0)
    encoder = MLP(vec.obs_space, hidden=(8,))
    policy = ActorCritic(
        vec.obs_space, vec.act_space, encoder=encoder, num_streams=mixer.num_streams
    )
    learner = PPO(policy, minibatch_size=16, num_epochs=1)
    return Trainer(vec, learner, chosen, mixer, num_steps=T, **options)


def after(rollout, channel, t, n):
    """Where step t of environment n led, by looking it up."""
    for d, place in enumerate(rollout.final_at.tolist()):
        if place == [t, n]:
            return rollout.final_info[channel][d].tolist()
    return rollout.info[channel][t + 1, n].tolist()


def means(lasts, source, channel="position"):
    """Position to the mean of a source there and how often it was reached, step by step."""
    values = defaultdict(list)
    for last in lasts:
        raw = last.rewards.components[source].raw
        for t in range(last.rollout.num_steps):
            for n in range(last.rollout.num_envs):
                if last.rollout.valid[t, n]:
                    place = after(last.rollout, channel, t, n)
                    key = tuple(place) if isinstance(place, list) else (place, 0)
                    values[key].append(raw[t, n].item())
    return {place: (np.mean(paid), len(paid)) for place, paid in values.items()}


def shown(maps, source):
    """Position to value of the cells of a map that are known."""
    left, top = maps.origin[source]
    values = maps.maps[source]
    return {
        (left + x, top + y): values[y, x]
        for y in range(values.shape[0])
        for x in range(values.shape[1])
        if not math.isnan(values[y, x])
    }


def agree(maps, lasts, channel="position"):
    for source in lasts[0].rewards.components:
        expected = means(lasts, source, channel)
        found = shown(maps, source)
        assert found.keys() == expected.keys()
        for place, (mean, count) in expected.items():
            assert found[place] == pytest.approx(mean, rel=1e-5)
            assert shown(maps, VISITS)[place] == count


# --- maps


@pytest.mark.parametrize("autoreset", MODES)
def test_a_map_says_what_a_loop_over_every_step_says(autoreset):
    run = make_trainer(autoreset)
    maps, lasts, drawn = HeatMaps(run.vec, every_seconds=math.inf), [], []

    def keep(run, metrics):
        lasts.append(run.data)

    def look(run, metrics):
        drawn.append(copy.copy(maps))

    run.run(6 * N * T, [keep, maps, look])
    assert len(lasts) > 3
    agree(drawn[0], lasts[:1])  # the first picture comes at once
    assert drawn[1].maps is drawn[0].maps
    agree(maps, lasts[1:])  # the last one at the end, of everything since


def test_rows_that_are_not_valid_count_nowhere():
    vec = Chain(4, length=2, horizon=3, autoreset="next_step")
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 20)
    assert (~rollout.valid).sum() > 5
    raw = torch.where(rollout.valid, 1.0, 1e6)
    part = Component(raw, raw, raw, 1.0)
    last = IterationData(rollout, {}, SimpleNamespace(components={"bonus": part}), 0.0)
    maps = HeatMaps(vec, every_seconds=0)
    maps(SimpleNamespace(data=last, directory=None, stopping=False, steps=0, total_steps=9), {})
    assert set(shown(maps, "bonus").values()) == {1.0}
    assert sum(shown(maps, VISITS).values()) == rollout.valid.sum()


def placed(rollout, at, final, name="agent_pos"):
    """The rollout with other positions [T+1, N, ...] and [D, ...]."""
    return dataclasses.replace(rollout, info={name: at}, final_info={name: final})


def test_maps_grow_to_all_sides_as_places_are_found():
    vec = Chain(4, length=2, horizon=3)
    vec.info_space = spaces.Dict({"agent_pos": spaces.Box(-99, 99, (2,), np.int64)})
    runner, numbers = Runner(vec), torch.Generator().manual_seed(1)
    maps, lasts = HeatMaps(vec, every_seconds=math.inf), []
    for reach in (2, 1, 5, 9):
        rollout = runner.collect(RandomActor(vec.act_space), T)
        shape, final = (T + 1, 4, 2), (len(rollout.final_at), 2)
        at, hidden = (
            torch.randint(-reach, reach + 1, s, generator=numbers) for s in (shape, final)
        )
        raw = torch.rand((T, 4), generator=numbers)
        parts = {"bonus": Component(raw, raw, raw, 1.0)}
        lasts.append(
            IterationData(placed(rollout, at, hidden), {}, SimpleNamespace(components=parts), 0.0)
        )
        stopping = reach == 9
        maps(
            SimpleNamespace(
                data=lasts[-1], directory=None, stopping=stopping, steps=0, total_steps=9
            ),
            {},
        )
    agree(maps, lasts[1:], "agent_pos")


def test_positions_that_are_no_whole_numbers_are_cut_into_cells():
    vec = Chain(2, length=2)
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 3)
    at = torch.tensor([0.0, 0.4, -0.1, 1.7])[:, None].expand(4, 2).clone()
    rollout = placed(rollout, at, torch.zeros(len(rollout.final_at)), "x")
    rollout = dataclasses.replace(rollout, final_at=rollout.final_at[:0])
    assert positions(rollout, "x", 0.5)[:, 0].tolist() == [[0, 0], [-1, 0], [3, 0]]


def test_pictures_are_left_in_the_run_directory_and_in_tensorboard(tmp_path):
    run = make_trainer(modules=("count", "rnd"), run_dir=tmp_path / "run")
    run.run(4 * N * T, [HeatMaps(run.vec, every_seconds=0)])
    steps = [2 * N * T, 3 * N * T, 4 * N * T]  # the first iteration only warms up
    names = {f"step_{step}_{n}.png" for step in steps for n in ("reward", "count", "rnd", VISITS)}
    files = {path.name: path for path in (tmp_path / "run" / "pictures").iterdir()}
    assert files.keys() == names
    board = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    assert [event.step for event in board.Images("pictures/count")] == steps
    with Image.open(files[f"step_{steps[-1]}_count.png"]) as image:
        assert image.format == "PNG"
        assert (image.height, image.width) == draw_map(np.zeros((1, 4)), "").shape[:2]


def test_pictures_change_no_number_of_a_run(tmp_path):
    lines = []
    for name in ("with", "without"):
        run = make_trainer(modules=("count", "rnd"), run_dir=tmp_path / name)
        maps = [HeatMaps(run.vec, every_seconds=0)] if name == "with" else []
        run.run(4 * N * T, maps)
        assert run.session.data is None  # nobody holds the rollout
        told = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        quiet = ("perf/", "time")
        lines.append(
            [{k: v for k, v in json.loads(x).items() if not k.startswith(quiet)} for x in told]
        )
    assert lines[0] == lines[1]


def test_a_disk_that_takes_no_picture_stops_nothing(tmp_path, caplog):
    run = make_trainer(run_dir=tmp_path / "run")
    (tmp_path / "run" / "pictures").write_text("in the way")
    run.run(2 * N * T, [HeatMaps(run.vec, every_seconds=0)])
    assert run.session.steps == 2 * N * T
    assert "no picture at step 24" in caplog.text


def test_what_is_no_position_is_refused_with_what_there_is():
    info = spaces.Dict({"success": spaces.Box(-1, 1, (), np.int8), "map": spaces.Box(0, 1, (3,))})
    with pytest.raises(ValueError, match=r"neither 'agent_pos' nor 'position': it has .*'success'"):
        position_channel(info)
    with pytest.raises(ValueError, match=r"no 'where': it has"):
        position_channel(info, "where")
    with pytest.raises(ValueError, match=r"'map' has shape \(3,\)"):
        position_channel(info, "map")
    assert position_channel(info, "success") == "success"


def test_a_map_is_dark_where_low_yellow_where_high_and_grey_where_unknown():
    picture = draw_map(np.array([[0.0, 1.0], [math.nan, 0.5]]), "a title")
    side = 128
    low, high, unknown, middle = (
        picture[24 + y * side + 60, 8 + x * side + 60].tolist()
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))
    )
    assert sum(low) < sum(middle) < sum(high)
    assert high[0] > 200 > high[2]
    assert unknown[0] == unknown[1] == unknown[2]
    flat = draw_map(np.full((2, 2), 7.0), "")
    assert (flat[40:100, 40:100] == flat[40, 40]).all()


# --- films


def read(path):
    with Image.open(path) as image:
        frames = []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
        return frames


def watched(autoreset="same_step"):
    """Environments, modules that have learnt a little, their mixer and a policy."""
    run = make_trainer(autoreset, ("count", "rnd"))
    run.run(3 * N * T)
    vec = Chain(1, length=3, horizon=12, autoreset=autoreset)
    return vec, run.modules, run.mixer, run.policy


@pytest.mark.parametrize("autoreset", MODES)
def test_a_film_has_a_frame_for_the_beginning_and_one_for_each_step(autoreset, tmp_path):
    vec, modules, mixer, policy = watched(autoreset)
    rewards = record_rewards(policy, vec, modules, mixer, tmp_path / "a.gif", seed=3)
    steps = len(rewards.reward)
    frames = read(tmp_path / "a.gif")
    assert len(frames) == steps + 1
    height, width = vec.render(0).shape[:2]
    assert frames[0].shape == (height + len(rewards.components) * (WORDS + PLOT + 5), 256, 3)
    record(policy, vec, tmp_path / "b.gif", seed=3)  # the same episode without the rewards
    left = (256 - width) // 2
    plain = read(tmp_path / "b.gif")
    assert len(plain) == steps + (autoreset == "next_step")
    for frame, other in zip(frames, plain, strict=False):
        assert (frame[:height, left : left + width] == other).all()
    if autoreset == "same_step":  # the last observation was hidden
        assert (frames[-1][:height] == frames[-2][:height]).all()


@pytest.mark.parametrize("autoreset", MODES)
def test_what_a_film_shows_is_what_the_rollout_would_have_been_paid(autoreset, tmp_path):
    vec, modules, mixer, _ = watched(autoreset)
    actor = RandomActor(vec.act_space, mixer.num_streams)
    paid = record_rewards(actor, vec, modules, mixer, tmp_path / "a.gif", seed=5)
    chain = Chain(1, length=3, horizon=12, autoreset=autoreset)
    runner = Runner(chain, seed=5, generator=generator(5, "evaluation"))  # as in `evaluate`
    rollout = runner.collect(actor, len(paid.reward))
    assert len(paid.reward) > 2
    assert bool((rollout.terminated | rollout.truncated)[-1, 0])
    bonus = {name: copy.deepcopy(module).compute(rollout) for name, module in modules.items()}
    whole = mixer(rollout, bonus, 1.0)
    assert torch.allclose(paid.reward, whole.reward, atol=1e-6)
    assert torch.equal(paid.discount, whole.discount)
    for name, part in whole.components.items():
        assert torch.allclose(paid.components[name].raw, part.raw, atol=1e-6)


def test_taking_a_film_changes_nothing(tmp_path):
    vec, modules, mixer, policy = watched()
    policy.train()

    def everything():
        states = [
            policy.state_dict(),
            mixer.state_dict(),
            *(m.state_dict() for m in modules.values()),
        ]
        return copy.deepcopy(states)

    before = everything()
    numbers = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    record_rewards(policy, vec, modules, mixer, tmp_path / "a.gif", seed=3)
    again = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(numbers[0], again[0])
    assert numbers[1:] == again[1:]
    assert policy.training
    torch.testing.assert_close(everything(), before, rtol=0, atol=0)


def strips(values, weight=1.0):
    scaled = torch.tensor(values)[:, None]
    return Strips({"a": Component(scaled, scaled, scaled, weight)})


def bars(picture, frame):
    top = len(frame) + WORDS
    return picture[top : top + PLOT]


@pytest.mark.parametrize("steps", [4, 10, 300, 1000])
def test_a_strip_changes_exactly_where_a_reward_is_paid(steps):
    frame = np.zeros((20, 300, 3), np.uint8)
    nothing, paid = [0.0] * steps, [0.0] * steps
    paid[steps // 2] = 0.7
    pictures = [bars(strips(values).under(frame, 0), frame) for values in (nothing, paid)]
    changed = np.flatnonzero((pictures[0] != pictures[1]).any((0, 2)))
    expected = {x for x in range(300) if x * steps // 300 == steps // 2}
    expected |= {(steps // 2) * 300 // steps}  # of several steps in a column the largest is shown
    assert set(changed.tolist()) <= expected
    assert len(changed) == max(1, 300 // steps)


def test_a_strip_has_its_own_scale_whatever_the_weight():
    frame = np.zeros((20, 300, 3), np.uint8)
    values = [0.0, 1.0, -0.5, 0.25]
    small, large = (bars(strips(values, weight).under(frame, 0), frame) for weight in (1e-3, 1e3))
    assert (small == large).all()
    hue = (small == small[5, 100]).all(-1)  # of the tallest bar
    tall = [int(hue[:, x].sum()) for x in (10, 100, 170, 250)]
    assert tall[0] == 0
    assert tall[1] == pytest.approx(2 * tall[2], abs=1)
    assert tall[1] == pytest.approx(4 * tall[3], abs=2)


def test_the_cursor_goes_along_with_the_steps():
    frame = np.zeros((20, 300, 3), np.uint8)
    made = strips([0.0] * 6)
    still = bars(made.under(frame, 0), frame)
    at = [
        np.flatnonzero((bars(made.under(frame, step), frame) != still).any((0, 2))).tolist()
        for step in range(1, 7)
    ]
    assert at == [[0], [50], [100], [150], [200], [250]]


def test_a_film_ends_after_max_steps_and_can_take_the_likeliest_actions(tmp_path):
    vec, modules, mixer, policy = watched()
    lengths = set()
    for seed in range(3):
        rewards = record_rewards(
            *(policy, vec, modules, mixer, tmp_path / "a.gif"), seed=seed, deterministic=True
        )
        lengths.add(len(rewards.reward))
    assert len(lengths) == 1
    rewards = record_rewards(policy, vec, modules, mixer, tmp_path / "a.gif", seed=0, max_steps=2)
    assert len(read(tmp_path / "a.gif")) == len(rewards.reward) + 1 == 3


# --- from the command line

SMALL = (
    *("env=chain", "env.length=3", "env.num_envs=2", "trainer.num_steps=8", "total_steps=48"),
    *("learner.num_epochs=1", "eval_episodes=2", "device=cpu", "run_dir=run"),
    *("intrinsic=[count,rnd]", "intrinsic.rnd.warmup_steps=8", "intrinsic.rnd.embedding_dim=8"),
)


def test_the_commands_leave_maps_and_a_film_and_touch_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *SMALL, "heat_maps=true")
    assert done.status == 0, done.err
    pictures = {path.name for path in (tmp_path / "run/pictures").iterdir()}
    assert {"step_32_count.png", "step_48_rnd.png", "step_48_visits.png"} <= pictures
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    done = command(evaluate.main, "run=run", "episodes=2", "video=true", "rewards=true")
    assert done.status == 0, done.err
    (film,) = (tmp_path / "run/videos").iterdir()
    assert film.name.endswith("_rewards.gif")
    assert f"wrote run/videos/{film.name}" in done.out
    assert len(read(film)) > 2
    assert before == {p: p.read_bytes() for p in before}
    assert "episodes" in json.loads(done.out.splitlines()[-1])
    done = command(evaluate.main, "run=run", "rewards=true")
    assert done.status == 2
    assert "video=true" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env=gym", "env.id=CartPole-v1", "heat_maps=true"], "neither 'agent_pos' nor"),
        (["env=chain", "heat_maps=true", "heat_map_channel=where"], "no 'where'"),
        (["env=chain", "heat_maps=often"], "heat_maps=often: expected true or false"),
        (["env=chain", "heat_map_seconds=0"], "heat_map_seconds=0"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused_in_a_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *words)
    assert done.status == 2
    assert said in done.lines()[-1]
    assert list(tmp_path.iterdir()) == []
