"""Run the Python of a page of the documentation."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def run_page(page, number):
    """Run the code block of this number, from 0; return the names it made."""
    text = (DOCS / page).read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[number]
    names = {"__name__": page}
    exec(compile(code, page, "exec"), names)
    return names
