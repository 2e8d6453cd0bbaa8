"""Have a judge compare pairs of recorded captions."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from firstlight.intrinsic.language.annotation import AnnotationService, requests_at_once
from firstlight.intrinsic.language.caption_counts import CaptionCounts
from firstlight.intrinsic.language.choices import STORE
from firstlight.intrinsic.language.comparisons import PairCounts, annotate_pairs
from firstlight.intrinsic.language.limits import Limits
from firstlight.intrinsic.language.store import LabelStore
from firstlight.scripts.errors import FAILED, BadInputError, print_line
from firstlight.scripts.labels.collect import CAPTIONS
from firstlight.scripts.labels.judge_options import judge_of

_SECONDS = 10.0  # between lines of progress


def open_captions(folder: Path) -> CaptionCounts:
    """Open the captions of a folder.

    Raises:
        BadInputError: if there are none.
    """
    if not (folder / CAPTIONS).is_file():
        raise BadInputError(f"{folder} holds no captions: firstlight-motif collect records them")
    return CaptionCounts(folder / CAPTIONS)


def annotate(folder: Path, options: Mapping[str, Any]) -> None:
    """Have pairs compared, except those that have a label.

    Args:
        folder: with captions.
        options: see ``firstlight-motif --help``.
    """
    with ExitStack() as cleanup:
        captions = open_captions(folder)
        cleanup.callback(captions.close)
        found, counts = captions.read()
        if len(found) < 2:
            raise BadInputError(f"{folder} holds {len(found)} captions, too few to compare")
        path = Path(options["store"]) if options["store"] else folder / STORE
        judge = judge_of(options, options["family"] or captions.fact("family"), pairs=True)
        cleanup.callback(judge.close)
        store = LabelStore(path)
        cleanup.callback(store.close)
        limits = Limits(options["max_calls"], options["max_tokens"], options["calls_per_minute"])
        service = AnnotationService(
            judge,
            store,
            batch_size=options["request_size"],
            num_workers=requests_at_once(options["num_requests"], options["url"] or None, limits),
            limits=limits,
        )
        cleanup.callback(service.close)
        service.start()
        captions.note(
            annotation={
                "judge": [judge.model, judge.prompt],
                "pairs": options["pairs"],
                "seed": options["seed"],
                "store": str(path.absolute()) if options["store"] else None,
            }
        )
        done = annotate_pairs(
            [caption.text for caption in found],
            counts,
            service,
            num_pairs=options["pairs"],
            seed=options["seed"],
            on_block=_Progress(options["pairs"]),
        )
        requests, reached = service.requests, limits.reached(judge.calls, judge.tokens)
    print(
        f"{done.drawn:,} pairs: {done.ties:,} of equal captions, {done.compared:,} compared by "
        f"{judge.model} ({done.abstained:,} without a label), in {requests:,} requests now or by "
        "an earlier command"
    )
    if not done.complete:
        reason = "a limit is reached" if reached else "the judge refuses to answer"
        print_line(f"firstlight: {reason}; what was answered is stored")
        sys.exit(FAILED)


class _Progress:
    """Prints a line every few seconds."""

    def __init__(self, total: int):
        self.total, self.last = total, time.monotonic()

    def __call__(self, done: PairCounts) -> None:
        if time.monotonic() - self.last > _SECONDS:
            self.last = time.monotonic()
            print_line(f"{done.drawn:,} of {self.total:,} pairs")
