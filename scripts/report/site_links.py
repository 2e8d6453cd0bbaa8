"""Hooks of mkdocs: pages of the repository's root, and links that leave the folder of documents.

On the site a link to a file of code is its text alone. A link to a file that does not exist is a
warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT_PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md"}
ROOT_PAGES |= {"CHANGELOG.md": "changelog.md"}
"""Documents in the repository's root, and their names on the site."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s#]*)(#[^()\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```[^\n]*$|^~~~.*?^~~~[^\n]*$)", re.DOTALL | re.MULTILINE)

log = logging.getLogger("mkdocs.hooks.site_links")


def on_files(files: Any, config: Any) -> Any:
    """Add the documents of the root to the site."""
    root = Path(config.docs_dir).parent
    for name, page in ROOT_PAGES.items():
        text = (root / name).read_text(encoding="utf-8")
        text = site_links(text, name, root, Path(config.docs_dir).name)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page."""
    if page.file.src_uri in ROOT_PAGES.values():
        return markdown
    docs = Path(config.docs_dir)
    return site_links(markdown, f"{docs.name}/{page.file.src_uri}", docs.parent, docs.name)


def site_links(text: str, source: str, root: Path, docs: str) -> str:
    """Rewrite the links of a document for the site.

    Args:
        text: of the document.
        source: its path in the repository.
        root: of the repository.
        docs: name of the folder of documents.

    Returns:
        The text, in which links go from the document's place on the site to those of others.
    """
    parts = _CODE.split(text)  # the odd ones are blocks of code

    def rewritten(match: re.Match[str]) -> str:
        picture, words, path, anchor = match.groups()
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (root / target).exists():
            log.warning("%s links to %s, which does not exist", source, path)
            return match[0]
        place = _place(target, docs)
        if place is None or (root / target).is_dir():
            return words
        here = posixpath.dirname(_place(source, docs) or "")
        return f"{picture}[{words}]({os.path.relpath(place, here or '.')}{anchor or ''})"

    return "".join(part if i % 2 else _LINK.sub(rewritten, part) for i, part in enumerate(parts))


def _place(path: str, docs: str) -> str | None:
    """Path on the site of a file of the repository; None if the site does not have it."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    return path.removeprefix(f"{docs}/") if path.startswith(f"{docs}/") else None
