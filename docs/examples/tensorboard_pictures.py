"""Take the pictures of `docs/tensorboard.md`: train, open TensorBoard in a browser, draw marks.

In a checkout, with Chromium installed (five minutes on one core; runs that are there are kept)::

    PYTHONPATH=tests/helpers python -P docs/examples/tensorboard_pictures.py runs/pictures
"""

import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
from browser import Browser, find_browser  # in tests/helpers
from PIL import Image, ImageDraw, ImageFont
from tensorboard import program

COMMAND = ("env=minigrid/doorkey_8x8", "intrinsic=[count,rnd]", "mixer.terms.rnd.weight=0.3")
COMMAND += ("total_steps=600_000", "seed=0")
RUNS = {
    "healthy": ("heat_maps=true", "heat_map_seconds=20"),
    "drowned": ("mixer.terms.count.weight=20",),
    "random": ("learner.entropy_coef=0.3",),
    "large_steps": ("learner.lr=0.3", "learner.adaptive_kl=null"),
}
PICTURES = {  # name: regex of runs, tags, {number: (tag, first and last step to frame)}
    "first_look": (
        "^healthy$",
        "rollout/return_mean rollout/success_rate eval/success_rate"
        " reward/reward/share reward/count/share reward/rnd/share",
        {
            1: ("rollout/return_mean", (0, 400_000)),
            2: ("rollout/success_rate", (400_000, 520_000)),
            3: ("eval/success_rate", None),
            4: ("reward/reward/share", (400_000, 606_000)),
            5: ("reward/count/share", (0, 100_000)),
        },
    ),
    "drowned": (
        "^(healthy|drowned)$",
        "rollout/return_mean reward/count/share reward/reward/share",
        {1: ("rollout/return_mean", None), 2: ("reward/count/share", (0, 606_000))},
    ),
    "learner": (
        "^(healthy|random|large_steps)$",
        "rollout/return_mean train/entropy train/approx_kl train/grad_norm train/lr"
        " value/reward/explained_variance",
        {
            1: ("train/entropy", (0, 606_000)),
            2: ("value/reward/explained_variance", (400_000, 606_000)),
            3: ("train/grad_norm", None),
            4: ("train/approx_kl", None),
            5: ("train/lr", None),
        },
    ),
    "speed": (
        "^healthy$",
        "perf/steps_per_second perf/collect_seconds perf/learn_seconds perf/intrinsic_seconds"
        " perf/module_update_seconds rollout/episodes",
        {1: ("perf/steps_per_second", None), 2: ("perf/module_update_seconds", None)},
    ),
}
RED = (214, 30, 40)
PLACES = """(() => {
  const box = (element) => {
    const b = element.getBoundingClientRect();
    return [b.left, b.top, b.right, b.bottom];
  };
  return Object.fromEntries([...document.querySelectorAll('scalar-card')].map((card) => {
    const ticks = [...card.querySelectorAll('line-chart-axis:not([axis=y]) text, .x-axis text')];
    return [card.querySelector('.tag').title, {
      card: box(card), plot: box(card.querySelector('.series-view')),
      ticks: ticks.map((t) => [t.textContent.trim(), (box(t)[0] + box(t)[2]) / 2])}];
  }));
})()"""
QUIET = """(() => {
  for (const box of document.querySelectorAll('mat-checkbox'))
    if (/step selection|Ignore outliers/.test(box.innerText) && box.querySelector('input').checked)
      box.querySelector('input').click();
  const buttons = [...document.querySelectorAll('button')];
  if (document.querySelector('metrics-dashboard-settings-component, settings-view'))
    buttons.find((b) => b.innerText.trim().endsWith('Settings')).click();
})()"""


def train(folder):
    """Train the runs that are not there yet."""
    for name, words in RUNS.items():
        if not (folder / name / "status.json").exists():
            command = [sys.executable, "-P", "-m", "firstlight.scripts.train", *COMMAND, *words]
            subprocess.run([*command, f"run_dir={folder / name}"], check=True)


def open_charts(browser, url, runs, tags):
    """Show the charts of some tags and wait until they are drawn."""
    wanted = "|".join(f"^{tag}$" for tag in tags)
    query = f"?tagFilter={quote(wanted, safe='')}&runFilter={quote(runs, safe='')}&smoothing=0"
    browser.send("Page.navigate", url=f"{url}{query}#timeseries")
    shown = "document.querySelectorAll('scalar-card').length"
    browser.wait(f"{shown} > 0", seconds=400)
    browser.run(QUIET)  # without the settings there is room for all
    browser.wait(f"{shown} === {len(tags)}", seconds=400)


def is_drawn(picture, place):
    """Whether there is a curve in a plot: all else in it is black, grey or white."""
    pixels = np.asarray(picture.crop([int(end) for end in place["plot"]]), np.int16)
    return bool((np.ptp(pixels, axis=-1) > 20).sum() > 50)


def take(browser, path, seconds=400):
    """Write a picture once every curve is drawn; return where things are on it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(1)
        browser.screenshot(path)
        places = browser.run(PLACES)
        picture = Image.open(path).convert("RGB")
        if all(is_drawn(picture, place) for place in places.values()):
            return places
    raise TimeoutError(f"a chart of {path} is not drawn")


def steps(label):
    """Read a label of the horizontal axis: 200k."""
    return float(label.removesuffix("k")) * (1_000 if label.endswith("k") else 1)


def band(place, first, last):
    """Rectangle of the steps `first` to `last` in a plot."""
    (label, x), *_, (other, y) = [tick for tick in place["ticks"] if tick[0]]
    left, top, right, bottom = place["plot"]
    scale = (y - x) / (steps(other) - steps(label))
    ends = [x + (step - steps(label)) * scale for step in (first, last)]
    return [max(left, ends[0]), top + 2, min(right, ends[1]), bottom - 2]


def mark(path, places, marks):
    """Draw numbers and frames onto a picture, and make its file small."""
    picture = Image.open(path).convert("RGB")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    for number, (tag, frame) in marks.items():
        place = places[tag]
        if frame:
            draw.rounded_rectangle(band(place, *frame), 6, outline=RED, width=3)
        x, y = place["card"][0] + 4, place["card"][1] + 4
        draw.ellipse([x - 14, y - 14, x + 14, y + 14], fill=RED)
        draw.text((x, y), str(number), fill="white", font=font, anchor="mm")
    bottom = max(place["card"][3] for place in places.values())
    picture = picture.crop((0, 0, picture.width, min(picture.height, int(bottom) + 12)))
    picture.quantize(64).save(path, optimize=True)


def main(folder, out):
    """Train if need be, and write the pictures."""
    train(folder)
    out.mkdir(parents=True, exist_ok=True)
    board = program.TensorBoard()
    board.configure([None, "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"])
    url = board.launch()
    browser = Browser(find_browser())
    try:
        browser.resize(1_160, 1_180)  # a chart out of sight is not drawn
        for name, (runs, tags, marks) in PICTURES.items():
            open_charts(browser, url, runs, tags.split())
            mark(out / f"{name}.png", take(browser, out / f"{name}.png"), marks)
    finally:
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path("docs/results/tensorboard"))
