"""Links of documents, rewritten for the site."""

import logging

import pytest

pytest.importorskip("mkdocs")

from firstlight.scripts.report.site_links import site_links


@pytest.fixture
def root(tmp_path):
    for name in (
        "README.md",
        "docs/a.md",
        "docs/sub/b.md",
        "docs/p.png",
        "docs/own/c.py",
        "code.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/a.md", "[b](sub/b.md#part)", "[b](sub/b.md#part)"),
        ("docs/sub/b.md", "[a](../a.md)", "[a](../a.md)"),
        ("docs/sub/b.md", "[readme](../../README.md#x)", "[readme](../readme.md#x)"),
        ("README.md", "[a](docs/a.md) ![p](docs/p.png)", "[a](a.md) ![p](p.png)"),
        ("docs/a.md", "[`code.py`](../code.py)", "`code.py`"),
        ("docs/a.md", "[own](own) [file](own/c.py)", "own [file](own/c.py)"),
        ("docs/a.md", "[web](https://x.y/z) [here](#part)", "[web](https://x.y/z) [here](#part)"),
        ("docs/a.md", "```\n[a](../code.py)\n```\n", "```\n[a](../code.py)\n```\n"),
    ],
)
def test_a_link_goes_where_its_target_is_on_the_site(source, text, expected, root):
    assert site_links(text, source, root, "docs") == expected


def test_a_link_to_nothing_is_a_warning(root, caplog):
    with caplog.at_level(logging.WARNING):
        site_links("[x](../nowhere.py)", "docs/a.md", root, "docs")
    assert "docs/a.md links to ../nowhere.py, which does not exist" in caplog.text
