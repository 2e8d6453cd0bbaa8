"""Record the texts of play, and sample them in strata of their frequency for labelling.

``python -m firstlight.scripts.benchmarks.record_texts minigrid 120`` prints JSON lines.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter

from hydra import compose, initialize_config_module

from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.language.texts import StepTexts
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec

RANDOM_STEPS = 12_000
PLAY = {  # environment, and environment steps of PPO after those of a random policy
    "minigrid": {
        "env=minigrid/doorkey_8x8": 40_000,
        "env=minigrid/keycorridor_s3r2": 80_000,
        "env=minigrid/multiroom_n4_s5": 0,
        "env=minigrid/obstructedmaze_1dlhb": 0,
        "env=minigrid/any env.task=MiniGrid-UnlockPickup-v0": 0,
        "env=minigrid/any env.task=MiniGrid-BlockedUnlockPickup-v0": 0,
        "env=minigrid/any env.task=MiniGrid-LavaCrossingS9N2-v0": 0,
        "env=minigrid/any env.task=MiniGrid-PutNear-8x8-N3-v0": 0,
        "env=minigrid/any env.task=MiniGrid-Fetch-8x8-N3-v0": 0,
        "env=minigrid/any env.task=MiniGrid-GoToDoor-8x8-v0": 0,
    },
    "nethack": {
        "env=nethack/score env.backend=serial": 40_000,
        "env=nethack/staircase_3 env.backend=serial": 0,
        "env=minihack/keyroom_s5 env.backend=serial": 0,
    },
}
STRATA = (0.4, 0.3, 0.3)  # shares of the frequent, middle and rare third of the texts


def count(rollout: Rollout, texts: StepTexts, counts: Counter[str]) -> None:
    """Add the texts of a rollout's valid steps."""
    _, ids = texts.ids(rollout)
    for text_id in ids[rollout.valid].tolist():
        counts[texts.sentences.text(text_id)] += 1


def make_texts(vec: VecEnv) -> StepTexts:
    """Make the numbering of sentences for environments."""
    assert vec.text_table is not None
    return StepTexts(vec.text_table, with_mission="mission_id" in vec.info_space.spaces)


def record(overrides: str, ppo_steps: int, seed: int = 0) -> Counter[str]:
    """Count the texts of a random policy's play, and of PPO's while it learns."""
    counts: Counter[str] = Counter()
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        words = [*overrides.split(), "env.text=true", f"seed={seed}", "device=cpu", "run_dir=null"]
        cfg = compose("train", overrides=words)
    cfg.checkpoint.every = None
    vec = make_vec(cfg.env)
    runner, steps, texts = Runner(vec, seed=seed), 0, make_texts(vec)
    while steps < RANDOM_STEPS:
        rollout = runner.collect(RandomActor(vec.act_space), 64)
        count(rollout, texts, counts)
        steps += int(rollout.valid.sum())
    vec.close()
    if ppo_steps:
        trainer = build(cfg, vec := make_vec(cfg.env))
        texts = make_texts(vec)
        while trainer.session.steps < ppo_steps:
            trainer.iterate(ppo_steps)
            assert trainer.session.data is not None
            count(trainer.session.data.rollout, texts, counts)
        vec.close()
    counts.pop("", None)
    return counts


def sample(counts: Counter[str], number: int, seed: int = 0) -> list[tuple[str, int]]:
    """Draw texts without replacement from thirds by frequency; returns (text, count)."""
    ordered = [text for text, _ in counts.most_common()]
    third = -(-len(ordered) // 3)
    rng, drawn = random.Random(seed), []
    for i, share in enumerate(STRATA):
        part = ordered[i * third : (i + 1) * third]
        drawn += rng.sample(part, min(len(part), round(share * number)))
    left = [text for text in ordered if text not in set(drawn)]
    drawn += rng.sample(left, max(0, min(len(left), number - len(drawn))))
    return [(text, counts[text]) for text in drawn]


def main(family: str, number: int) -> None:
    """Record the play of a family and print a sample as JSON lines."""
    counts: Counter[str] = Counter()
    for overrides, ppo_steps in PLAY[family].items():
        counts += record(overrides, ppo_steps)
        print(f"{overrides}: {len(counts)} texts, {counts.total()} events", file=sys.stderr)
    for text, found in sample(counts, number):
        print(json.dumps({"text": text, "count": found}, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
