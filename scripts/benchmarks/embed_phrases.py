"""Write the embeddings of subgoals' names that the package holds.

``python -m firstlight.scripts.benchmarks.embed_phrases`` needs the extra `text`; training reads the
file and needs nothing.
"""

from __future__ import annotations

import json

from firstlight.intrinsic.language.judges.embedding_judge import SentenceEmbedding
from firstlight.intrinsic.subgoals.beacons import DATA
from firstlight.intrinsic.subgoals.plans import PHRASES


def main() -> None:
    """Embed `PHRASES` by all-MiniLM-L6-v2, to three decimals."""
    rows = zip(PHRASES, SentenceEmbedding()(PHRASES).tolist(), strict=True)
    lines = [
        json.dumps({"text": text, "embedding": [round(x, 3) for x in numbers]}) + "\n"
        for text, numbers in rows
    ]
    (DATA / "phrases.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
