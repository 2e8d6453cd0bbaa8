"""The documents: their site builds without a broken link, and their commands and keys exist."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from firstlight.scripts.report import bonus_figures

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ("choosing.md", "coming_from.md", "trackers.md")
CONF = ROOT / "conf"
FAMILIES = [path.relative_to(DOCS).as_posix() for path in sorted((DOCS / "bonuses").glob("*.md"))]
FAMILIES += ["llm_feedback.md", "subgoals.md", "reward_programs.md", "submodular.md", "map.md"]
PARTS = ("**Idea.**", "**Formula.**", "**Helps** ", "**Hurts** ", "**Figures.**")
PARTS += ("**First command.**", "## Switches")


@functools.cache
def composed(*words):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        return compose("train", overrides=list(words))


def missing(words):
    """Keys of overrides that no config has; composing a config for each takes too long."""
    choices = [word for word in words if "." not in word.partition("=")[0]]
    if not any(word.startswith("env=") for word in choices):
        choices.append("env=chain")
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    config = composed(*(word for word in choices if word.partition("=")[0] in groups))
    known, keys = OmegaConf.to_container(config), (word.partition("=")[0] for word in words)
    return [key for key in keys if not key.startswith("+") and not has(known, key.split("."))]


def has(node, path):
    return not path or (isinstance(node, dict) and path[0] in node and has(node[path[0]], path[1:]))


def commands(page, name):
    """Arguments of each use of a command in the code blocks of a page."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line.split(" #")[0]) for line in lines if line.startswith(name)]
    return [words[1:] for words in found]


@pytest.mark.parametrize(
    "words", [words for page in PAGES for words in commands(page, "firstlight-train")], ids=" ".join
)
def test_commands_of_training_compose(words):
    assert composed(*words).env["_target_"]


def keys_of_other_libraries():
    """Each cell of the right columns that consists of overrides alone."""
    for line in (DOCS / "coming_from.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("| ") and len(cells) == 2:
            for code in re.findall(r"`([^`]+)`", cells[1]):
                words = shlex.split(code)
                if all(re.match(r"\+?[a-z_]+(\.\w+)*=", word) for word in words):
                    yield words


@pytest.mark.parametrize("words", keys_of_other_libraries(), ids=" ".join)
def test_keys_that_stand_for_those_of_other_libraries_exist(words):
    assert missing(words) == []


def test_most_rows_are_checked():
    assert len(list(keys_of_other_libraries())) > 50


def test_choices_name_configs_that_exist():
    text = (DOCS / "choosing.md").read_text()
    codes = re.findall(r"`((?:env|intrinsic|core|learner)=[^`]+)`", text)
    assert len(codes) > 15
    for code in codes:
        assert missing([w for w in code.split() if w != "env._target_=yourpackage.make_env"]) == []


@pytest.mark.parametrize("page", FAMILIES)
def test_a_page_of_rewards_has_its_parts_in_order_and_its_first_command_composes(page):
    text = (DOCS / page).read_text()
    places = [text.find(f"\n{part}") for part in PARTS]
    assert -1 not in places
    assert places == sorted(places)
    assert composed(*commands(page, "firstlight-train")[0]).intrinsic


def test_every_bonus_has_a_command_on_a_page_of_rewards():
    text = "\n".join((DOCS / page).read_text() for page in [*FAMILIES, "search.md"])
    bonuses = {path.stem for path in (CONF / "intrinsic").glob("*.yaml")}
    assert {name for name in bonuses if f"intrinsic=[{name}]" not in text} == set()


def test_pages_of_bonuses_have_the_rows_of_the_table():
    """`python -m firstlight.scripts.report.bonus_figures` copies them."""
    written = bonus_figures.pages(DOCS)
    assert [path.name for path, text in written.items() if path.read_text() != text] == []


def rows_of_claims():
    """Measured figures and page of each row of the claims that has both."""
    for line in (DOCS / "claims.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        page = re.search(r"\]\((\w+\.md)\)", cells[-1])
        if len(cells) == 3 and page:
            yield pytest.param(cells[1], page[1], id=cells[0])


@pytest.mark.parametrize(("measured", "page"), rows_of_claims())
def test_a_claim_has_the_figures_of_its_page(measured, page):
    text = " ".join((DOCS / page).read_text().split())
    figures = re.findall(r"−?\d[\d,.]*\d|−?\d", measured)
    missing = [figure for figure in figures if len(figure) > 1 and figure not in text]
    assert missing == []


def test_the_site_builds_and_every_link_on_it_leads_somewhere(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict"]  # --quiet finds nothing
    done = subprocess.run(
        [*command, "--site-dir", tmp_path / "site"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in tmp_path.rglob("*.html")}
    ours = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
    assert ours | {"readme.html", "changelog.html", "contributing.html"} <= pages
    start = (tmp_path / "site/index.html").read_text()
    assert 'href="readme.html"' in start
    text = (tmp_path / "site/architecture.html").read_text()
    assert 'href="../agents' not in text  # files of code are not on the site
    loaded = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', text)
    assert loaded == []
