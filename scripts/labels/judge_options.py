"""Options of the command line that describe a judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.language.judges.judge_options import JudgeOptions
from firstlight.scripts.errors import BadInputError


def judge_of(options: Mapping[str, Any], family: str, *, pairs: bool) -> Judge:
    """Make the judge that the command line describes.

    Raises:
        BadInputError: if it cannot be made.
    """
    try:
        return JudgeOptions(
            options["judge"],
            family,
            options["goal"],
            url=options["url"] or None,
            llm=options["llm"] or None,
            pairs=pairs,
        ).make()
    except (ValueError, ImportError) as error:
        raise BadInputError(str(error)) from error
