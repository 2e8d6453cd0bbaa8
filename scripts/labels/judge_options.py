"""Options of the command line that describe a judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firstlight.intrinsic.language.judge import Judge
from firstlight.intrinsic.language.oni import check_judge, make_judge
from firstlight.scripts.errors import BadInputError


def judge_of(options: Mapping[str, Any], family: str, *, pairs: bool) -> Judge:
    """Make the judge that the command line describes.

    Raises:
        BadInputError: if it cannot be made.
    """
    described = {
        "judge": options["judge"],
        "family": family,
        "goal": options["goal"],
        "examples": None,
        "url": options["url"] or None,
        "llm": options["llm"] or None,
        "pairs": pairs,
    }
    try:
        check_judge(**described)
        return make_judge(**described)
    except (ValueError, ImportError) as error:
        raise BadInputError(str(error)) from error
