"""Fit Motif's reward model to the comparisons of a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.agents.session.run_directory import checkpoint
from firstlight.intrinsic.language.choices import STORE
from firstlight.intrinsic.language.comparisons import ComparedPairs, read_pairs
from firstlight.intrinsic.language.motif_training import (
    MotifReward,
    MotifTraining,
    best_and_worst,
)
from firstlight.intrinsic.language.reward_models import Ranking
from firstlight.intrinsic.language.store import LabelStore
from firstlight.scripts.errors import BadInputError, print_line
from firstlight.scripts.labels.preferences import open_captions

REWARD = "reward.safetensors"
"""Name of the fitted reward model in a folder of firstlight-motif."""

_TRAINING = "training"  # folder of what an interrupted fit needs
_SHOWN = 5


def fit(folder: Path, options: Mapping[str, Any]) -> None:
    """Fit the model, or go on with a fit that was interrupted, and write it.

    Args:
        folder: with captions and comparisons.
        options: see ``firstlight-motif --help``.
    """
    captions = open_captions(folder)
    found, counts = captions.read()
    annotation = captions.fact("annotation")
    form = {name: captions.fact(name) for name in ("family", "with_mission")}
    captions.close()
    if annotation is None:
        raise BadInputError(f"{folder} holds no comparisons: firstlight-motif annotate makes them")
    names: dict[str, int] = {}
    sentence_of = np.array([names.setdefault(x.sentence, len(names)) for x in found], np.int64)
    sentences = [*names]
    pairs = _read(folder, annotation, [x.text for x in found], sentence_of, counts)
    try:
        model = Ranking(
            **{key: options[key] for key in ("width", "length", "hidden", "lr", "seed")}
        )
        training = MotifTraining(model, sentences, pairs, batch_size=options["batch_size"])
    except ValueError as error:
        raise BadInputError(str(error)) from error
    _run_epochs(folder, model, training, options, _digest(pairs, sentences, options))
    scores, agreement = training.scores(), training.agreement()
    facts = {**form, "judge": annotation["judge"], "pairs": len(pairs.score)}
    per_sentence = np.bincount(sentence_of, counts, len(sentences)).astype(np.int64)
    reward = MotifReward.fitted(
        model, scores, per_sentence, {**facts, "agreement": agreement.share}
    )
    reward.save(folder / REWARD)
    shutil.rmtree(folder / _TRAINING, ignore_errors=True)
    ratings = (scores.double() - reward.mean) / reward.std
    for text, rating in best_and_worst(sentences, ratings.float(), _SHOWN):
        print(f"{rating:+7.2f}  {text}")
    print(f"wrote {folder / REWARD}; to use it:")
    print(f"firstlight-train … intrinsic=[motif] intrinsic.motif.file={folder / REWARD}")


def _read(
    folder: Path,
    annotation: dict[str, Any],
    texts: list[str],
    sentence_of: np.ndarray,
    counts: np.ndarray,
) -> ComparedPairs:
    """Read the comparisons, and print how many there are."""
    model, prompt = annotation["judge"]
    store = LabelStore(annotation["store"] or folder / STORE)
    pairs = read_pairs(
        texts,
        sentence_of,
        counts,
        store,
        (model, prompt),
        num_pairs=annotation["pairs"],
        seed=annotation["seed"],
    )
    store.close()
    print(
        f"{len(pairs.score):,} comparisons by {model}; of {annotation['pairs']:,} pairs "
        f"{pairs.ties:,} were of equal sentences and {pairs.abstained:,} without a label"
    )
    if pairs.missing:
        print_line(
            f"firstlight: {pairs.missing:,} pairs have no answer yet; firstlight-motif annotate "
            "goes on with them"
        )
    return pairs


def _run_epochs(
    folder: Path,
    model: Ranking,
    training: MotifTraining,
    options: Mapping[str, Any],
    digest: str,
) -> None:
    """Run the epochs that are missing, and save after each."""
    done = 0
    newest = checkpoint.newest(folder / _TRAINING)
    if newest is not None and (state := checkpoint.load(newest))["digest"] == digest:
        model.load_state_dict(state["model"])
        done = state["epoch"]
        print_line(f"going on after epoch {done}")
    for epoch in range(done + 1, options["epochs"] + 1):
        loss = training.run_epoch()
        state = {"digest": digest, "epoch": epoch, "model": model.state_dict()}
        checkpoint.save(folder / _TRAINING, state, step=epoch, keep=1)
        measured = training.agreement()
        line = f"epoch {epoch} of {options['epochs']}: loss {loss:.4f}"
        if measured.pairs:
            line += f"; of {measured.pairs:,} held back {measured.loss:.4f}"
        if measured.share is not None:
            line += f", agreement {measured.share:.3f}"
        print(line)


def _digest(pairs: ComparedPairs, sentences: list[str], options: Mapping[str, Any]) -> str:
    """Hash everything that decides what a fit gives, but the number of epochs."""
    parts = [pairs.first, pairs.second, pairs.score, pairs.held_back]
    used = {key: value for key, value in options.items() if key != "epochs"}
    about = json.dumps([sentences, used], sort_keys=True).encode()
    return hashlib.sha256(b"\0".join([about, *(part.tobytes() for part in parts)])).hexdigest()
