"""Heat maps equal loops over steps, and drawing them does not change a run."""

import copy
import dataclasses
import json
import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from small_trainer import N, T, make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from firstlight.agents.diagnostics.pictures import (
    VISITS,
    HeatMaps,
    draw_map,
    positions,
)
from firstlight.agents.session.iteration_data import IterationData
from firstlight.envs.positions import position_channel
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic.mixer import Component

MODES = ("same_step", "next_step")


def after(rollout, channel, t, n):
    """Look up the position to which step t of environment n led."""
    for d, place in enumerate(rollout.final_at.tolist()):
        if place == [t, n]:
            return rollout.final_info[channel][d].tolist()
    return rollout.info[channel][t + 1, n].tolist()


def means(lasts, source, channel="position"):
    """Compute the mean of a source and the visits by position, step by step."""
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
    """Return the values of the visited cells of a map by position."""
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


@pytest.mark.parametrize("autoreset", MODES)
def test_a_map_equals_a_loop_over_every_step(autoreset):
    run = make_trainer(autoreset)
    maps, lasts, drawn = HeatMaps(run.vec, every_seconds=math.inf), [], []

    def keep(run, metrics):
        lasts.append(run.data)

    def look(run, metrics):
        drawn.append(copy.copy(maps))

    run.run(6 * N * T, [keep, maps, look])
    assert len(lasts) > 3
    agree(drawn[0], lasts[:1])  # the first picture is drawn after the first rollout
    assert drawn[1].maps is drawn[0].maps
    agree(maps, lasts[1:])  # the last one at the end, of everything since


def test_invalid_rows_are_not_counted():
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
    """Return the rollout with other positions [T+1, N, ...] and [D, ...]."""
    return dataclasses.replace(rollout, info={name: at}, final_info={name: final})


def test_maps_grow_in_all_directions():
    vec = Chain(4, length=2, horizon=3)
    runner, numbers = Runner(Chain(4, length=2, horizon=3)), torch.Generator().manual_seed(1)
    vec.info_space = spaces.Dict({"agent_pos": spaces.Box(-99, 99, (2,), np.int64)})
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


def test_fractional_positions_are_divided_into_cells():
    vec = Chain(2, length=2)
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 3)
    at = torch.tensor([0.0, 0.4, -0.1, 1.7])[:, None].expand(4, 2).clone()
    rollout = placed(rollout, at, torch.zeros(len(rollout.final_at)), "x")
    rollout = dataclasses.replace(rollout, final_at=rollout.final_at[:0])
    assert positions(rollout, "x", 0.5)[:, 0].tolist() == [[0, 0], [-1, 0], [3, 0]]


def test_pictures_are_written_to_the_run_directory_and_tensorboard(tmp_path):
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
        sizes = [draw_map(np.zeros((1, n)), "").shape[:2] for n in (2, 3, 4)]
        assert (image.height, image.width) in sizes  # of the cells up to the furthest seen


def test_pictures_do_not_change_a_run(tmp_path):
    lines = []
    for name in ("with", "without"):
        run = make_trainer(modules=("count", "rnd"), run_dir=tmp_path / name)
        maps = [HeatMaps(run.vec, every_seconds=0)] if name == "with" else []
        run.run(4 * N * T, maps)
        assert run.session.data is None  # no reference to the rollout is held
        told = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        quiet = ("perf/", "time")
        lines.append(
            [{k: v for k, v in json.loads(x).items() if not k.startswith(quiet)} for x in told]
        )
    assert lines[0] == lines[1]


def test_a_picture_that_cannot_be_written_does_not_stop_the_run(tmp_path, caplog):
    run = make_trainer(run_dir=tmp_path / "run")
    (tmp_path / "run" / "pictures").write_text("in the way")
    run.run(2 * N * T, [HeatMaps(run.vec, every_seconds=0)])
    assert run.session.steps == 2 * N * T
    assert "no picture at step 24" in caplog.text


def test_a_channel_without_positions_raises_and_lists_the_channels():
    info = spaces.Dict({"success": spaces.Box(-1, 1, (), np.int8), "map": spaces.Box(0, 1, (3,))})
    with pytest.raises(ValueError, match=r"neither 'agent_pos' nor 'position': it has .*'success'"):
        position_channel(info)
    with pytest.raises(ValueError, match=r"no 'where': it has"):
        position_channel(info, "where")
    with pytest.raises(ValueError, match=r"'map' has shape \(3,\)"):
        position_channel(info, "map")
    assert position_channel(info, "success") == "success"


def test_a_map_is_dark_where_low_yellow_where_high_and_grey_where_unvisited():
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
