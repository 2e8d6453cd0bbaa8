"""`ONI`, rewards distilled from a judge's opinion of the agent's own experience."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive, generator
from firstlight.envs.text import TextTable
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.language.annotation import AnnotationService, requests_at_once
from firstlight.intrinsic.language.choices import (
    STORE,
    check_choice,
    counts_of,
    family_of,
    need_text,
)
from firstlight.intrinsic.language.corrections import Corrections
from firstlight.intrinsic.language.judges.completion_judge import CompletionJudge
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.language.judges.judge_options import JudgeName, JudgeOptions
from firstlight.intrinsic.language.judges.llm_judge import ANSWER_TOKENS
from firstlight.intrinsic.language.limits import Limits
from firstlight.intrinsic.language.preview import describe_requests
from firstlight.intrinsic.language.prompts import Prompt
from firstlight.intrinsic.language.reward_models import (
    Classification,
    Ranking,
    Retrieval,
    RewardModel,
)
from firstlight.intrinsic.language.store import Item, LabelStore
from firstlight.intrinsic.language.texts import StepTexts
from firstlight.intrinsic.memory import EpisodicVisits
from firstlight.intrinsic.mixer.terms import Term

Model = Literal["retrieval", "classification", "ranking"]


class ONI(IntrinsicModule):
    """Online intrinsic rewards from feedback on texts (ONI, Zheng et al. 2024).

    Every step of an environment with text has a sentence, such as "picked up the red key". A judge
    labels sentences in the background, a reward model learns from the labels, and the bonus of a
    step is ``R(sentence) / N^β``, N counting the sentence in the episode, this time included. The
    labels are in an SQLite file, so nothing is asked twice, also after a resume.

    - ``model="retrieval"``: R is 1 for a sentence labelled helpful;
    - ``"classification"``: R is 1 for a sentence that a classifier of characters, fitted to the
      labels, finds helpful;
    - ``"ranking"``: pairs of sentences are compared, and R is the normalised score that explains
      the comparisons, where it is above a threshold.

    Args:
        info_space: space of the info channels.
        text_table: the environments' sentences.
        model: see above.
        judge: "embedding" compares with labelled examples, "rule" applies rules for MiniGrid or
            NetHack, "llm" asks a language model; for ranking also the name of one of `TEACHERS`,
            which compares by these rules with a weakness; or a `Judge`.
        family: "minigrid", "nethack" or "generic", or the path of a prompt file; "auto" recognises
            the first two.
        goal: for "llm": the name of one of the prompt's goals, or a sentence.
        examples: for "embedding", and to calibrate "llm": pairs of text and label, 1 or 0; default
            those of the family. The small model is shown half of them.
        calibrate: for "llm": ask for examples first, and calibrate ratings by their labels.
        url: for "llm": of an endpoint that speaks OpenAI's interface; the key is in the environment
            variable OPENAI_API_KEY.
        llm: for "llm": the model's name there; without name and url a small model is started here.
        cpu_share: for the small model: cores that it may use on average.
        store: file of the label store; default `STORE` in the run directory, else in memory.
        beta: β, exponent of the episodic count; 0 rewards each repetition.
        threshold: η of retrieval and classification.
        z_threshold: ε of ranking.
        min_labels: labels of each class before classification gives anything.
        width, length, hidden, lr, gradient_steps, batch_size: of classification and ranking, see
            `reward_models`.
        num_pairs: for ranking: random pairs of a rollout that are handed in.
        request_size: texts of one request.
        num_requests: requests at once; None for 8 to an endpoint at `url`
            without limits, else 1.
        queue_size: sentences that wait, at most.
        max_calls, max_tokens, calls_per_minute: limits of the run; null is none.
        max_cost: limit of the run in money, with `input_price` and `output_price`, those of a
            million tokens sent and answered.
        cached_only: use the store and ask nobody.
        wait: wait in every rollout until its texts are labelled, so that a run with a
            deterministic judge can be repeated bit for bit.
        seed: of networks, minibatches and pairs.

    Raises:
        ValueError: for environments without text, an unknown choice, or a judge that lacks what it
            needs.
        ImportError: if the package that the judge needs is not installed.
    """

    novelty = False
    needs_text = True

    def __init__(
        self,
        *,
        info_space: spaces.Dict,
        text_table: TextTable | None,
        model: Model = "retrieval",
        judge: JudgeName | Judge = "embedding",
        family: str = "auto",
        goal: str = "default",
        examples: Sequence[tuple[str, float]] | None = None,
        calibrate: bool = True,
        url: str | None = None,
        llm: str | None = None,
        cpu_share: float = 1.0,
        store: str | None = None,
        beta: float = 3.0,
        threshold: float = 0.5,
        z_threshold: float = 0.0,
        min_labels: int = 3,
        width: int = 32,
        length: int = 128,
        hidden: int = 128,
        lr: float = 1e-3,
        gradient_steps: int = 32,
        batch_size: int = 64,
        num_pairs: int = 10,
        request_size: int = 8,
        num_requests: int | None = None,
        queue_size: int = 10_000,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
        calls_per_minute: float | None = None,
        cached_only: bool = False,
        wait: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        table = need_text(info_space, text_table)
        check_choice("model", model, get_args(Model))
        self.texts = StepTexts(table, with_mission="mission_id" in info_space.spaces)
        self.judge_options = JudgeOptions(
            judge,
            family_of(family, info_space),
            goal,
            examples,
            calibrate,
            url,
            llm,
            cpu_share,
            pairs=model == "ranking",
            seed=derive(seed, "judge"),
        )
        limits = Limits(
            max_calls, max_tokens, calls_per_minute, max_cost, input_price, output_price
        )
        self.service_options: dict[str, Any] = {
            "batch_size": request_size,
            "num_workers": requests_at_once(num_requests, url, limits),
            "queue_size": queue_size,
            "limits": limits,
            "cached_only": cached_only,
        }
        network: dict[str, Any] = {
            "width": width,
            "length": length,
            "hidden": hidden,
            "lr": lr,
            "steps": gradient_steps,
            "batch_size": batch_size,
            "seed": seed,
        }
        self.model: RewardModel
        if model == "retrieval":
            self.model = Retrieval(threshold)
        elif model == "classification":
            self.model = Classification(threshold=threshold, min_labels=min_labels, **network)
        else:
            self.model = Ranking(z_threshold=z_threshold, **network)
        self.beta, self.store_path, self.wait, self.num_pairs = beta, store, wait, num_pairs
        self.visits = EpisodicVisits()
        self.service: AnnotationService | None = None
        self._judge_state: dict[str, Any] | None = None
        self.corrections: Corrections | None = None
        self._numbers = generator(derive(seed, "pairs"), "oni")

    def open(self, run_dir: Path | None) -> None:
        """Open the label store and start the annotation service."""
        path = self.store_path or (None if run_dir is None else run_dir / STORE)
        judge = self.judge_options.make()
        if self._judge_state is not None:
            judge.load_state_dict(self._judge_state)
        store = LabelStore(path)
        self.service = AnnotationService(judge, store, **self.service_options)
        self.corrections = Corrections(store)
        self.service.start()
        self.corrections.start()

    def close(self) -> None:
        """End the annotation service."""
        if self.corrections is not None:
            self.corrections.close()
            self.corrections = None
        if self.service is not None:
            self._judge_state = self.service.judge.state_dict()
            self.service.close()
            self.service.store.close()
            self.service = None

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N] by what is known now, and hand in texts without a label."""
        here, after = self.texts.ids(rollout)
        visits = self.visits.count(here, after, rollout)
        valid = rollout.valid.cpu()
        reward = self.texts.rate(after, self.model.rate)
        if self.service is not None and not self.model.learns_from_pairs:
            counts = counts_of(after[valid])
            known = self.model.labels
            named = {(self.texts.sentences.text(i),): n for i, n in counts.items() if i}
            self.service.submit({item: n for item, n in named.items() if item not in known})
        bonus = reward / visits.clamp(min=1).float() ** self.beta
        return torch.where(valid, bonus, 0.0).to(rollout.device)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Take the labels that arrived and learn from them. Returns the tags ``llm/…``."""
        after = self.texts.ids(rollout)[1][rollout.valid.cpu()]
        after = after[after != 0]  # [B]
        ids, counts = after.unique(return_counts=True)
        sentences = [self.texts.sentences.text(i) for i in ids.tolist()]
        logs, arrived = {}, False
        if self.service is not None:
            if self.model.learns_from_pairs:
                self.service.submit(self._pairs(after))
            if self.wait:
                self.service.wait()
            answers = self.service.take()
            if self.corrections is not None:
                answers |= self.corrections.of(answers, self.model.labels)
            arrived = self.model.add(answers)
            logs = {f"llm/{name}": value for name, value in self.service.metrics().items()}
        learnt = self.model.learn(arrived)
        self.model.observe(self.model.raw(sentences).repeat_interleave(counts))
        known = self.model.known()
        labelled = {text for item, _ in known for text in item}
        covered = sum(
            n for text, n in zip(sentences, counts.tolist(), strict=True) if text in labelled
        )
        logs["llm/labels"] = float(len(known))
        logs["llm/coverage"] = covered / len(after) if len(after) else 0.0
        return learnt | logs

    def preview(self, rollout: Rollout) -> str:
        """Describe the requests to a language model; "" for other judges."""
        options = self.judge_options
        if options.judge != "llm":
            return ""
        pairs, asks_small = options.pairs, options.llm is None
        ids = self.texts.ids(rollout)[1][rollout.valid.cpu()]
        sentences = [self.texts.sentences.text(i) for i in counts_of(ids) if i]
        items: list[Item] = [(text,) for text in sentences]
        if pairs and not asks_small:
            items = [*self._pairs(ids[ids != 0])]
        common = {
            "what": "pairs" if pairs and not asks_small else "sentences",
            "seen": len(items),
            "steps": rollout.reward.numel(),
            "limits": self.service_options["limits"],
        }
        if asks_small:
            judge = options.make()
            assert isinstance(judge, CompletionJudge)
            content = judge.request(sentences[0] if sentences else "")
            message = {"role": "the text to continue", "content": content}
            before = len(judge.examples)
            return describe_requests(
                [message], batch_size=1, answer_tokens=1, before=before, **common
            )
        size = self.service_options["batch_size"]
        shown = {f"id{k}": item for k, item in enumerate(items[:size])}
        prompt = Prompt.load(options.family, options.goal, pairs=pairs)
        return describe_requests(
            prompt.messages(shown),
            batch_size=size,
            answer_tokens=ANSWER_TOKENS,
            before=len(options.calibration_examples()),
            **common,
        )

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Set the counts of sentences in open episodes to 0."""
        self.visits.reset(env_ids)

    def get_extra_state(self) -> dict[str, Any]:
        """Return sentences, whose numbers the counts refer to, random state and judge's state."""
        judge = None if self.service is None else self.service.judge
        return {
            "texts": self.texts.state_dict(),
            "generator": self._numbers.get_state(),
            "judge": self._judge_state if judge is None else judge.state_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.texts.load_state_dict(state["texts"])
        self._numbers.set_state(state["generator"].cpu())
        self._judge_state = state.get("judge")  # runs of older versions have none

    def _pairs(self, after: Tensor) -> dict[Item, int]:
        """Draw pairs of different sentences that the rollout met and nobody compared."""
        drawn: Counter[Item] = Counter()
        if not len(after):
            return drawn
        rows = torch.randint(len(after), (self.num_pairs, 2), generator=self._numbers)
        for first, second in after[rows].tolist():
            pair = tuple(
                sorted((self.texts.sentences.text(first), self.texts.sentences.text(second)))
            )
            if first != second and pair not in self.model.labels:
                drawn[pair] += 1
        return drawn

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in an episodic stream of its own."""
        return Term(weight=0.3, gamma=0.99, episodic=True)
