"""`Beacons`, rewards for a teacher's subgoals, which the policy sees."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.language.limits import Limits
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.subgoals.file_teacher import FileTeacher
from firstlight.intrinsic.subgoals.plans import NO_PHRASE, PHRASES, phrase_numbers
from firstlight.intrinsic.subgoals.subgoal_fields import (
    BONUS,
    PLANNED,
    Last,
    SubgoalFields,
    check_level,
)
from firstlight.intrinsic.subgoals.teachers import Kind, Noisy, Oracle, Teacher, noise_of

TeacherName = Literal["oracle", "noisy", "file", "llm", "nearest_door"]
DATA = Path(__file__).parent / "data"


class Beacons(IntrinsicModule):
    """Rewards the subgoals of a teacher, one after the other (Words as Beacons, 2410.08632).

    The bonus of a step is ``1 - k / T_max`` if it reached the current subgoal, k steps after the
    one before, else 0; the weight is the paper's r_sg. Each subgoal is rewarded once in an episode,
    and the policy sees the current one as the field `subgoal` (`SubgoalFields`, also for the kinds
    and for what happens at the last).

    ============  ================================================================================
    oracle        plans from the whole level (`Oracle`)
    noisy         corrupts the oracle's plans as a language model's (`Noisy`), with the accuracies
                  of `noise`
    llm           asks a language model in the background (`LLMTeacher`)
    file          subgoals that the user wrote down (`FileTeacher`)
    nearest_door  only the nearest door, for pre-training
    ============  ================================================================================

    All need whole levels, so `needs_level` turns the option of the environments on. In an
    evaluation the policy sees the teacher's subgoals too, unless the environments are wrapped in
    `DefaultFields`.

    Args:
        info_space: space of the info channels.
        teacher: one of the names above, or a `Teacher`.
        kind: what the policy sees: "relative", "representation" or "language".
        last: what happens when only the last subgoal is left: "fallback" (published), "shown" or
            "paid".
        all_doors: also plan closed doors that are not locked; false as in the paper, see `Oracle`.
        egocentric: turn relative positions to the agent's heading.
        hidden: the policy does not see subgoals.
        extra: random subgoals added to each plan.
        noise: for "noisy": a row of measured accuracies, such as "KeyCorridorS3R3/llama".
        accuracy: share of right subgoals, in place of that row's.
        file: for "file": path of the JSON file.
        max_steps: T_max; default the environments' time limit.
        url: for "llm": of an endpoint that speaks OpenAI's interface.
        llm: for "llm": the model's name there; without name and url a small model is started here.
        prompt: for "llm": path of a TOML file; default our own.
        store: for "llm": file of the answers; default in the run directory.
        request_size: for "llm": levels of one request.
        max_calls, max_tokens, calls_per_minute: for "llm": limits of the run; null is none.
        cached_only: for "llm": use the store and ask nobody.
        seed: of the noise.

    Raises:
        ValueError: for environments without whole levels, an unknown choice, or a teacher that
            lacks what it needs.
    """

    novelty = False
    needs_level = True

    def __init__(
        self,
        *,
        info_space: spaces.Dict,
        teacher: TeacherName | Teacher = "oracle",
        kind: Kind = "relative",
        last: Last = "paid",
        all_doors: bool = True,
        egocentric: bool = True,
        hidden: bool = False,
        extra: int = 0,
        noise: str = "KeyCorridorS3R3/llama",
        accuracy: float | None = None,
        file: str | None = None,
        max_steps: int | None = None,
        url: str | None = None,
        llm: str | None = None,
        prompt: str | None = None,
        store: str | None = None,
        request_size: int = 4,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        calls_per_minute: float | None = None,
        cached_only: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        check_level(info_space)
        for name, value, choices in (
            ("teacher", teacher, get_args(TeacherName)),
            ("kind", kind, get_args(Kind)),
            ("last", last, get_args(Last)),
        ):
            if not isinstance(value, Teacher) and value not in choices:
                raise ValueError(f"{name} is {value!r}: choose from {', '.join(choices)}")
        if teacher == "file" and file is None:
            raise ValueError('teacher="file" needs file, the path of a JSON file with subgoals')
        made: Teacher
        if isinstance(teacher, Teacher):
            made = teacher
        elif teacher == "file":
            made = FileTeacher(str(file))
        elif teacher == "llm":
            limits = Limits(max_calls, max_tokens, calls_per_minute)
            made = _llm_teacher(url, llm, prompt, store, limits, request_size, cached_only)
        else:
            made = Oracle(all_doors=all_doors, nearest_door=teacher == "nearest_door")
        options: dict[str, Any] = {"by_position": kind == "relative"}
        if teacher == "noisy":
            options = noise_of(noise, kind)
            if accuracy is not None:
                options["accuracy"] = accuracy
        if teacher == "noisy" or extra:
            made = Noisy(made, **options, extra=extra, seed=seed % 2**32)
        self.teacher = made
        self.fields: dict[str, Any] = {
            "kind": kind,
            "last": last,
            "egocentric": egocentric,
            "hidden": hidden,
            "max_steps": max_steps,
        }
        if kind == "language":
            self.fields |= {"embeddings": read_embeddings(), "phrases": phrase_numbers()}

    def open(self, run_dir: Path | None) -> None:
        """Open the teacher."""
        self.teacher.open(run_dir)

    def close(self) -> None:
        """Close the teacher."""
        self.teacher.close()

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Read the bonus [T, N] that the environments' wrapper computed."""
        final = rollout.final_info[BONUS]
        bonus = rollout.successors(rollout.info[BONUS], final)
        return torch.where(rollout.valid, bonus, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Return the share of observations with a plan, and the teacher's metrics."""
        planned = (rollout.info[PLANNED] > 0).float().mean().item()
        return {"planned": planned, **self.teacher.metrics()}

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the field `subgoal` and the side channels of `SubgoalFields`."""
        return SubgoalFields(vec, self.teacher, **self.fields)

    @classmethod
    def default_term(cls) -> Term:
        """Weight r_sg of 0.2 in an episodic stream."""
        return Term(weight=0.2, gamma=0.99, episodic=True)


def read_embeddings() -> np.ndarray:
    """Embeddings [X, 384] float32 of `PHRASES` by all-MiniLM-L6-v2, and zeros for no phrase."""
    rows = map(json.loads, (DATA / "phrases.jsonl").read_text(encoding="utf-8").splitlines())
    known = {row["text"]: row["embedding"] for row in rows}
    table = np.zeros((NO_PHRASE + 1, len(known[PHRASES[0]])), np.float32)
    table[:NO_PHRASE] = [known[phrase] for phrase in PHRASES]
    return table


def _llm_teacher(
    url: str | None,
    llm: str | None,
    prompt: str | None,
    store: str | None,
    limits: Limits,
    request_size: int,
    cached_only: bool,
) -> Teacher:
    """Make an `LLMTeacher` of an endpoint, or of the small model."""
    from firstlight.intrinsic.language.annotation import requests_at_once
    from firstlight.intrinsic.language.local_server import check_installed
    from firstlight.intrinsic.subgoals.json_judge import JsonJudge
    from firstlight.intrinsic.subgoals.llm_teacher import PROMPTS, TOKENS, LevelPrompt, LLMTeacher

    if llm is None and url is not None:
        raise ValueError(f"url is {url}, but llm, the name of a model there, is missing")
    if llm is None:
        check_installed()
    levels = LevelPrompt(prompt or PROMPTS / "levels.toml")
    make = functools.partial(JsonJudge, model=llm, url=url, prompt=levels, max_tokens=TOKENS)
    return LLMTeacher(
        make,
        store=store,
        limits=limits,
        request_size=request_size,
        num_requests=requests_at_once(None, url, limits),
        cached_only=cached_only,
    )
