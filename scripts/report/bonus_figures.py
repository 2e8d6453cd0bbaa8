"""Copy the rows of what the defaults solve from `docs/bonuses.md` to the page of each bonus.

``python -m firstlight.scripts.report.bonus_figures`` in a checkout, after the table has changed.
"""

from __future__ import annotations

import re
from pathlib import Path

_HEADER = "| bonus | DoorKey"
_NAME = re.compile(r"\| `(\w+)` \|")


def pages(docs: Path) -> dict[Path, str]:
    """Return the text of each bonus's page, with the rows of the table that are about it.

    A page has the rows of its own name and of its products: that of `e3b` has `e3b_rnd`, too.

    Args:
        docs: the folder of documents.

    Raises:
        ValueError: if `bonuses.md` or a page has no such table, or a page no row in the former.
    """
    header, separator, *rows = _table(
        (docs / "bonuses.md").read_text(encoding="utf-8"), "bonuses.md"
    )
    texts = {}
    for path in sorted((docs / "bonuses").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        own = [row for row in rows if _is_of(row, path.stem)]
        if not own:
            raise ValueError(f"bonuses.md has no row for {path.name}")
        old = "\n".join(_table(text, path.name))
        texts[path] = text.replace(old, "\n".join([header, separator, *own]))
    return texts


def _table(text: str, name: str) -> list[str]:
    """Lines of the table of tasks."""
    start = text.find(f"\n{_HEADER}")
    if start < 0:
        raise ValueError(f"no table of {name} begins with {_HEADER!r}")
    return text[start + 1 :].split("\n\n", 1)[0].splitlines()


def _is_of(row: str, name: str) -> bool:
    found = _NAME.match(row)
    return found is not None and (found[1] == name or found[1].startswith(f"{name}_"))


def main() -> None:
    """Write the pages in the folder ``docs`` of the current one."""
    for path, text in pages(Path("docs")).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
