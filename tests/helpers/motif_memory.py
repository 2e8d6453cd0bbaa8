"""CPU time and peak memory of ``firstlight-motif annotate`` and ``train`` on made-up captions."""

import json
import resource
import sys
import time
from pathlib import Path
from unittest import mock

from firstlight.intrinsic.language.caption_counts import Caption, CaptionCounts
from firstlight.intrinsic.language.store import LabelStore
from firstlight.scripts import motif

KINDS = ("You kill the %s!", "You hear a %s.", "$ - %s gold pieces.", "You see here a %s.")
ANNOTATE = ("judge=rule", "request_size=1024")
TRAIN = ("epochs=1", "batch_size=1024", "width=8", "length=54", "hidden=16")


def peak():
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder, pairs):
    """Annotate and train with 10,000 captions, of which few are frequent; returns the figures."""
    captions = CaptionCounts(folder / "captions.sqlite")
    names = [kind % f"thing {i}" for i in range(2500) for kind in KINDS]
    counts = {Caption(text): 1 + 10**5 // (i + 1) for i, text in enumerate(names)}
    captions.add("made up", 10**6, counts)
    captions.note(family="nethack", with_mission=False)
    captions.close()
    found = {"before_mb": peak()}
    for command, options in (("annotate", (*ANNOTATE, f"pairs={pairs}")), ("train", TRAIN)):
        began = time.process_time()
        with mock.patch.object(sys, "argv", ["firstlight-motif", command, str(folder), *options]):
            motif.main()
        found[f"{command}_mb"] = peak()
        found[f"{command}_cpu_seconds"] = round(time.process_time() - began, 1)
    store = LabelStore(folder / "labels.sqlite")
    found["answered"] = store.rows("SELECT count(*) FROM labels")[0][0]
    store.close()
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
