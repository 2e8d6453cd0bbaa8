"""``firstlight-report``: what a run's files hold stands in its page, which loads nothing."""

import html
import json
import re

import numpy as np
import pytest
from command_line import checked
from PIL import Image

from firstlight.scripts import run_report
from firstlight.scripts.report.run_data import differing, grouped, read_run
from firstlight.scripts.report.run_page import group_series, share_series
from firstlight.scripts.report.svg_chart import thinned

ATTACK = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
STEPS = range(100, 2_100, 100)


def lines_of(seed):
    for step in STEPS:
        share = step / 4_000
        yield {
            "step": step,
            "time": step / 50,
            "rollout/return_mean": None if step < 300 else (step / 2_000) ** (1 + seed),
            **({"eval/return_mean": 0.9, "eval/success_rate": 0.75} if step == 2_000 else {}),
            "reward/reward/share": share,
            "reward/count/share": 1 - share,
            "value/reward/explained_variance": 0.5,
            "perf/steps_per_second": 1_000.0,
        }


def make_run(folder, seed=0, bonus="count", command="", pictures=()):
    folder.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines_of(seed))
    (folder / "metrics.jsonl").write_text(text)
    head = f"# {command}\n" if command else ""
    module = f"{{{bonus}: {{_target_: firstlight.{bonus}, size: 3}}}}"
    (folder / "config.yaml").write_text(
        f"{head}seed: {seed}\nrun_dir: {folder}\nenv: {{id: A}}\nintrinsic: {module}\n"
    )
    (folder / "status.json").write_text(json.dumps({"status": "finished", "step": 2_000}))
    for name in pictures:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    return folder


def report(*words, status=0):
    return checked(run_report.main, *words, status=status)


def sections(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_page_has_curves_shares_maps_an_episode_options_and_the_command(tmp_path):
    maps = [f"pictures/step_{step}_{name}.png" for step in (1, 20, 300, 4_000) for name in "ab"]
    videos = ["videos/step_9.gif", "videos/step_7_rewards.gif"]
    typed = "firstlight-train env=chain 'intrinsic=[count]'"
    run = make_run(tmp_path / "run", command=typed, pictures=(*maps, *videos))
    assert report(f"run={run}").out == f"wrote {run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert sections(page) == [
        "Curves",
        "Share of each reward",
        "Where each reward occurred",
        "An episode",
        "Learning",
        "Commands",
        "Configuration",
        "All metrics",
    ]
    assert f"<pre>{html.escape(typed)}</pre>" in page
    shown = [step for step in (1, 20, 300, 4_000) if f"a, step {step:,}" in page]
    assert len(shown) == 3
    assert {shown[0], shown[-1]} == {1, 4_000}
    assert page.count("data:image/png;base64,") == 6
    assert page.count("data:image/gif;base64,") == 1
    assert "step_7_rewards.gif" in page  # the one with rewards
    assert html.escape((run / "config.yaml").read_text()) in page
    for line in lines_of(0):
        assert set(line) - {"step", "time"} <= {*re.findall(r"<td>([\w/]+)</td>", page)}


def test_a_page_loads_nothing(tmp_path):
    run = make_run(tmp_path / "run", pictures=["videos/step_1.gif"])
    report(f"run={run}")
    page = (run / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert not re.findall(r"https?://|url\(|@import|<script", page)
    assert "default-src 'none'" in page


def test_text_of_a_run_is_not_markup(tmp_path):
    run = make_run(tmp_path / "run", command=ATTACK)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2_100, "time": 50, ATTACK: 1.0}) + "\n")
    (run / "status.json").write_text(json.dumps({"status": "failed", "error": ATTACK}))
    report(f"run={run}")
    page = (run / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count(html.escape(ATTACK)) == 4  # status, command, config and metric
    assert page.count("&lt;img src=x") == 4


def test_runs_that_differ_in_their_seed_are_one_line_with_a_band(tmp_path):
    runs = [make_run(tmp_path / f"count-{seed}", seed) for seed in range(3)]
    other = make_run(tmp_path / "rnd", bonus="rnd")
    groups = grouped([read_run(path) for path in (*runs, other)])
    assert [(group.label, len(group.runs)) for group in groups] == [("count", 3), ("rnd", 1)]
    series = group_series(groups[0], "rollout/return_mean")
    for (x, middle), (_, low, high) in zip(series.points, series.band, strict=True):
        lines = [
            np.interp(x, STEPS[2:], [(s / 2_000) ** (1 + seed) for s in STEPS[2:]])
            for seed in range(3)
        ]
        assert (low, middle, high) == pytest.approx((min(lines), np.median(lines), max(lines)))
    assert group_series(groups[1], "rollout/return_mean").band == ()
    assert group_series(groups[0], "no/such") is None
    assert differing(groups) == {
        "intrinsic.count._target_": ["firstlight.count", ""],
        "intrinsic.rnd._target_": ["", "firstlight.rnd"],
    }
    out = tmp_path / "new/page.html"
    report(f"run={','.join(map(str, runs))}", f"run={other}", f"out={out}")
    page = out.read_text()
    assert page.count('class="band c0"') == len(re.findall(r"\(3 runs\)", page)) > 3
    assert "count: interquartile mean" in page


def test_groups_have_different_names(tmp_path):
    runs = [make_run(tmp_path / f"mine-s{seed}", seed) for seed in range(2)]
    assert [group.label for group in grouped([read_run(path) for path in runs])] == ["mine"]
    other = make_run(tmp_path / "b" / "mine-s0")
    (other / "config.yaml").write_text("seed: 0\nlearner: {lr: 0.1}\n")
    third = make_run(tmp_path / "c" / "mine-s0")
    (third / "config.yaml").write_text("seed: 0\nlearner: {lr: 0.2}\n")
    labels = [group.label for group in grouped([read_run(path) for path in (other, third)])]
    assert labels == [str(other), str(third)]


def test_shares_are_those_of_the_metrics(tmp_path):
    task, count = share_series(read_run(make_run(tmp_path / "run")))
    assert (task.label, count.label) == ("reward", "count")
    assert task.points == [(step, step / 4_000) for step in STEPS]
    assert [a + b for (_, a), (_, b) in zip(task.points, count.points, strict=True)] == [1.0] * 20


def test_a_thinned_curve_has_the_same_mean_and_ends():
    points = [(float(x), float(x % 7)) for x in range(1_002)]
    short = thinned(points, 102)
    assert len(short) == 102
    assert (short[0], short[-1]) == (points[0], points[-1])
    assert np.mean([y for _, y in short[1:-1]]) == pytest.approx(
        np.mean([y for _, y in points[1:-1]])
    )


def test_a_run_that_has_just_begun_or_is_from_python_has_a_page(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 8, "time": 0.1, "rollout/return_mean": 0.0}\n')
    report(f"run={run}")
    page = (run / "report.html").read_text()
    assert sections(page) == ["Curves", "Commands", "All metrics"]
    assert "not recorded" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=nowhere"], "run=nowhere is no run directory: it holds no metrics.jsonl"),
        (["out=x.html"], "run has no value"),
        (["rum=a"], "not 'rum=a'; did you mean 'run'?"),
        (["run=begun"], "run=begun holds no metrics yet"),
        (["run=torn"], "run=torn cannot be read: "),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("begun", ""), ("torn", '{"step": 1,')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text)
    (line,) = report(*words, status=2).lines()
    assert message in line


@pytest.mark.parametrize(("width", "columns"), [(1_300, 2), (390, 1)])
def test_in_a_browser_nothing_is_cut_off_or_on_top_of_another(width, columns, tmp_path, chromium):
    pictures = [f"pictures/step_{s}_count.png" for s in (1, 2, 3)] + ["videos/step_3_rewards.gif"]
    runs = [
        make_run(tmp_path / f"a-{'long-' * 12}name-{seed}", seed, command=ATTACK, pictures=pictures)
        for seed in range(2)
    ] + [make_run(tmp_path / "rnd", bonus="rnd")]
    report(*(f"run={run}" for run in runs), f"out={tmp_path / 'page.html'}")
    chromium.resize(width, 900)
    chromium.open(f"file://{tmp_path / 'page.html'}")
    chromium.wait("document.readyState === 'complete'")
    assert chromium.run("document.title") == "2 methods: count, rnd - firstlight"
    assert chromium.run("document.documentElement.scrollWidth") <= width
    tops = chromium.run(
        "[...document.querySelector('.charts').querySelectorAll('figure')]"
        ".map((figure) => Math.round(figure.getBoundingClientRect().top))"
    )
    assert max(tops.count(top) for top in tops) == columns
    wide = chromium.run(
        "[...document.querySelectorAll('figure, pre, h1, .scroll, details')]"
        f".filter((e) => e.getBoundingClientRect().right > {width}).map((e) => e.outerHTML)"
    )
    assert wide == []
    drawn = chromium.run("[...document.images].every((i) => i.complete && i.naturalWidth === 60)")
    assert drawn
    heights = chromium.run(
        "[...document.querySelectorAll('svg')].map((e) => e.getBoundingClientRect().height)"
    )
    assert min(heights) > 100
    chromium.run("document.querySelectorAll('details').forEach((e) => e.open = true)")
    assert chromium.run("document.documentElement.scrollWidth") <= width
    for text in ("Share of each reward", "value/reward/explained_variance", "intrinsic:"):
        assert text in chromium.text()
