"""Read the source of a program out of a language model's answer."""

from __future__ import annotations

import re

_FENCE = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def source_of(answer: str) -> str:
    r"""Return the code in an answer; the answer itself if nothing marks any.

    The last block between fences that defines a function, else the longest; what follows is checked
    like any program.

    >>> source_of("Here it is:\n```python\nx = 1\n```\nGood luck!")
    'x = 1\n'
    """
    blocks = [code for _, code in _FENCE.findall(answer)]
    if not blocks:
        return answer
    functions = [code for code in blocks if "def reward" in code]
    return functions[-1] if functions else max(blocks, key=len)
