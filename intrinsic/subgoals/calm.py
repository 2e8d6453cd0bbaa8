"""`CALM`, rewards for transitions that achieve a subgoal, by verdicts on the transition."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive, generator
from firstlight.envs.text import TextTable
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.language.annotation import AnnotationService, requests_at_once
from firstlight.intrinsic.language.choices import check_endpoint, need_text
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.language.limits import Limits
from firstlight.intrinsic.language.prompts import Prompt
from firstlight.intrinsic.language.store import Item, LabelStore
from firstlight.intrinsic.language.texts import StepTexts
from firstlight.intrinsic.memory import VisitTable
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.shaping import checklist, potential_shaping
from firstlight.intrinsic.state import GrowingBuffers, read_rows, write_rows
from firstlight.intrinsic.subgoals.subgoal_prompt import MOST_SUBGOALS, SubgoalPrompt, read_task
from firstlight.intrinsic.subgoals.transition_classifier import TransitionClassifier
from firstlight.intrinsic.subgoals.transitions import TransitionReader
from firstlight.intrinsic.subgoals.verdicts import (
    KEYS_HELD,
    MINIGRID,
    KeyRoomVerdicts,
    SentenceVerdicts,
    TransitionPrompt,
    Verdicts,
)

log = logging.getLogger(__name__)

Source = Literal["rule", "llm"]
Pay = Literal["once", "potential", "always", "table"]
STORE = "verdicts.sqlite"
"""File of the language model's verdicts in the run directory."""

_TOKENS = 12, 4  # of an answer for one transition: its id, and each subgoal
_TOKENS_OF_NAMES = 256  # of an answer that lists subgoals
_CANDIDATES = 4  # transitions looked at for each that may be asked about


class Achieved(GrowingBuffers):
    """Subgoals achieved in the running episode of each environment.

    Attributes:
        done: [E, S] bool.
    """

    on_host = True
    done: Tensor

    def __init__(self, num_subgoals: int):
        super().__init__()
        self.register_buffer("done", torch.zeros(0, num_subgoals, dtype=torch.bool))


class CALM(IntrinsicModule):
    """Rewards transitions by whether they achieve a subgoal (CALM, 2409.12798).

    ==========  ==================================================================================
    verdicts    "rule": from the state of MiniHack's KeyRoom (keys held, closed doors), elsewhere
                from the sentences of steps. "llm": a language model is asked in the background
                about some transitions, and what it says is distilled into a classifier of
                transitions; the agent never waits
    classifier  with "rule": reward the verdicts of the classifier, which learns from the rule's
    pay         "once": 1 for a subgoal achieved the first time in its episode. "potential":
                γΦ' − Φ, where Φ is the number of subgoals achieved. "always": 1 each time, which
                can be farmed by dropping and picking up again. "table": the published prototype,
                the number of times that screen and action were flagged, normalised to [0, 1]
    identify    with "llm": the language model also names the subgoals, from `task`. It is asked in
                the background, once for a task, prompt and model; until it answers nothing is
                rewarded. If two answers cannot be read, `subgoals` are used, and a warning says so
    ==========  ==================================================================================

    Args:
        obs_space: observation space of the policy.
        info_space: space of the info channels.
        text_table: the environments' sentences.
        subgoals: names of subgoals; default those of KeyRoom or MiniGrid. With rules on sentences,
            a sentence that has all words of a subgoal achieves it.
        identify: see above.
        task: what the player has to do, in words, for `identify`; default a description of KeyRoom
            or MiniGrid.
        verdicts: see above.
        classifier: see above.
        pay: see above.
        gamma: γ of the potential, the discount of the term.
        hidden, capacity, lr, num_epochs: of the classifier, see `TransitionClassifier`.
        num_asked: transitions of a rollout that the language model is asked about, at most.
        role, legend, remark: variants of the prompt, see `TransitionPrompt`.
        url, llm, store, request_size, max_calls, max_tokens, calls_per_minute, cached_only: for
            "llm", as in `ONI`.
        wait: wait in every rollout for the language model.
        seed: of the classifier and of the choice of transitions.

    Raises:
        ValueError: for environments without text, an unknown choice, no subgoals, or no task.

    Attributes:
        subgoals: their names; empty as long as the language model has not answered.
    """

    novelty = False
    needs_text = True

    def __init__(
        self,
        *,
        obs_space: spaces.Dict,
        info_space: spaces.Dict,
        text_table: TextTable | None,
        subgoals: Sequence[str] | None = None,
        identify: bool = False,
        task: str | None = None,
        verdicts: Source = "rule",
        classifier: bool = False,
        pay: Pay = "once",
        gamma: float = 0.99,
        hidden: int = 64,
        capacity: int = 1024,
        lr: float = 3e-3,
        num_epochs: int = 4,
        num_asked: int = 16,
        role: str = "none",
        legend: str = "none",
        remark: str = "none",
        url: str | None = None,
        llm: str | None = None,
        store: str | None = None,
        request_size: int = 8,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        calls_per_minute: float | None = None,
        cached_only: bool = False,
        wait: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        texts = need_text(info_space, text_table)
        for name, value, choices in (
            ("verdicts", verdicts, get_args(Source)),
            ("pay", pay, get_args(Pay)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: choose from {', '.join(choices)}")
        self.transitions = TransitionReader(obs_space, StepTexts(texts, with_mission=False))
        rule: Verdicts
        if KEYS_HELD in info_space.spaces and subgoals is None:
            rule = KeyRoomVerdicts()
        else:
            chosen = (
                MINIGRID if subgoals is None and "mission_id" in info_space.spaces else subgoals
            )
            if not chosen:
                raise ValueError(
                    "subgoals is empty: name what is to be achieved, as in its sentence"
                )
            rule = SentenceVerdicts(chosen, self.transitions)
        self.rule, self.identify = rule, identify
        self.subgoals: tuple[str, ...] = () if identify else rule.subgoals
        number = max(MOST_SUBGOALS, len(rule.subgoals)) if identify else len(rule.subgoals)
        if identify and verdicts != "llm":
            raise ValueError("identify=true needs the language model's verdicts: set verdicts=llm")
        if identify and task is None:
            if KEYS_HELD not in info_space.spaces and "mission_id" not in info_space.spaces:
                raise ValueError("task is missing: say in words what the player has to do")
            task = read_task("keyroom" if KEYS_HELD in info_space.spaces else "minigrid")
        self.task = task or ""
        self.verdicts, self.pay, self.gamma = verdicts, pay, gamma
        self.distilled = classifier or verdicts == "llm"
        if pay == "table" and verdicts == "llm":
            raise ValueError('pay="table" stores verdicts of rules: set verdicts="rule"')
        self.num_asked, self.wait, self.store_path = num_asked, wait, store
        self.achieved = Achieved(number)
        self.table = VisitTable()
        self.classifier = TransitionClassifier(
            number,
            hidden=hidden,
            capacity=capacity,
            lr=lr,
            num_epochs=num_epochs,
            seed=seed,
        )
        self._variants = {"role": role, "legend": legend, "remark": remark}
        TransitionPrompt(rule.subgoals, **self._variants)  # refuses unknown ones
        self._endpoint = llm, url
        if verdicts == "llm":
            check_endpoint(url, llm, 1.0)
        limits = Limits(max_calls, max_tokens, calls_per_minute)
        self._options: dict[str, Any] = {
            "batch_size": request_size,
            "num_workers": requests_at_once(None, url, limits),
            "limits": limits,
            "cached_only": cached_only,
        }
        self.service: AnnotationService | None = None
        self._asked: dict[str, Tensor] = {}  # tokens of the transitions whose verdict is open
        self._known: dict[str, list[bool] | None] = {}  # verdicts by text; None if there is none
        self._numbers = generator(derive(seed, "asked"), "calm")

    def open(self, run_dir: Path | None) -> None:
        """Start the annotation service, if a language model gives the verdicts."""
        if self.verdicts == "llm":
            path = self.store_path or (None if run_dir is None else run_dir / STORE)
            self._serve(self._make_judge(), LabelStore(path))

    def close(self) -> None:
        """End the annotation service."""
        if self.service is not None:
            self.service.close()
            self.service.store.close()
            self.service = None

    def _serve(self, judge: Judge, store: LabelStore) -> None:
        self.service = AnnotationService(judge, store, **self._options)
        self.service.start()

    def _make_judge(self) -> Judge:
        """Make what is asked for verdicts or, as long as there are no subgoals, for these."""
        from firstlight.intrinsic.subgoals.json_judge import JsonJudge

        model, url = self._endpoint
        prompt: Prompt = SubgoalPrompt()
        tokens = _TOKENS_OF_NAMES
        if self.subgoals:
            prompt = TransitionPrompt(self.subgoals, **self._variants)
            tokens = _TOKENS[0] + _TOKENS[1] * len(self.subgoals)
        return JsonJudge(model=model, url=url, prompt=prompt, max_tokens=tokens)

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N] of the subgoals that each step achieves."""
        if self.pay == "table":
            return self._from_table(rollout)
        T, N = rollout.num_steps, rollout.num_envs
        achieved = self._judge(rollout)
        if self.pay == "always":
            return achieved.sum(-1).float().to(rollout.device)
        env_ids, valid = rollout.env_ids.cpu(), rollout.valid.cpu()
        is_first = rollout.is_first.cpu()
        before = read_rows(self.achieved.done, env_ids)  # [N, S]
        weights = [1.0] * before.shape[1]
        once, counts = torch.zeros(T, N), torch.zeros(T + 1, N)
        shaped = torch.zeros(T, N)
        over = rollout.terminated.cpu()
        for t in range(T):
            before = before & ~is_first[t, :, None]
            counts[t] = before.sum(-1)
            once[t], after = checklist(achieved[t], before, weights)
            shaped[t] = potential_shaping(counts[t], after.sum(-1).float(), over[t], self.gamma)
            before = after
        self.achieved.done = write_rows(self.achieved.done, env_ids, before)
        bonus = once if self.pay == "once" else shaped
        return torch.where(valid, bonus, 0.0).to(rollout.device)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from the verdicts on this rollout, or from those that arrived."""
        logs: dict[str, float] = {}
        if self.verdicts == "rule":
            truth = self.rule.judge(rollout)
            logs["flagged"] = truth.any(-1).float().mean().item()
            if self.pay == "table":
                keys = torch.zeros(truth.shape[:2], dtype=torch.int64)
                at = truth.any(-1).nonzero()
                keys[at[:, 0], at[:, 1]] = self.transitions.keys(rollout, at)
                self.table.count(keys, truth.any(-1))
                logs["table_size"] = float(self.table.used)
            if self.distilled:
                logs |= self._distill(rollout, truth)
        else:
            logs |= self._ask(rollout)
        return logs

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Forget what open episodes achieved."""
        done = self.achieved.done.clone()
        done[slice(None) if env_ids is None else env_ids[env_ids < len(done)].cpu()] = False
        self.achieved.done = done

    def _judge(self, rollout: Rollout) -> Tensor:
        """Verdicts [T, N, S] bool on the CPU, that are rewarded."""
        if not self.distilled:
            return self.rule.judge(rollout)
        at = rollout.valid.cpu().nonzero()
        number = self.classifier.num_subgoals
        out = torch.zeros(rollout.num_steps, rollout.num_envs, number, dtype=torch.bool)
        if len(at) and self.classifier.is_ready:
            tokens = self.transitions.tokens(rollout, at)
            out[at[:, 0], at[:, 1]] = self.classifier.verdicts(tokens)
        return out

    def _from_table(self, rollout: Rollout) -> Tensor:
        at = rollout.valid.cpu().nonzero()
        bonus = torch.zeros(rollout.num_steps, rollout.num_envs)
        counts = self.table.counts[self.table.counts > 0]
        if len(at) and len(counts):
            found = self.table.look_up(self.transitions.keys(rollout, at)).float()
            low, high = counts.min(), counts.max()
            scaled = (found - low) / (high - low) if high > low else torch.ones_like(found)
            bonus[at[:, 0], at[:, 1]] = torch.where(found > 0, scaled, 0.0)
        return bonus.to(rollout.device)

    def _distill(self, rollout: Rollout, truth: Tensor) -> dict[str, float]:
        """Add all transitions with a subgoal, and as many or 64 without, to the classifier."""
        valid, flagged = rollout.valid.cpu(), truth.any(-1)
        positive, negative = (flagged & valid).nonzero(), (~flagged & valid).nonzero()
        count = min(len(negative), max(64, len(positive)))
        chosen = torch.randperm(len(negative), generator=self._numbers)[:count]
        at = torch.cat([positive, negative[chosen]])
        tokens, target = self.transitions.tokens(rollout, at), truth[at[:, 0], at[:, 1]]
        logs = {}
        if self.classifier.is_ready and len(at):
            right = (self.classifier.verdicts(tokens) == target).all(1)
            logs["agreement"] = right.float().mean().item()
        self.classifier.add(tokens, target)
        return logs | {"classifier_loss": self.classifier.learn()}

    def _ask(self, rollout: Rollout) -> dict[str, float]:
        """Hand in transitions that were not judged yet, and learn from what arrived."""
        if self.service is None:
            return {}
        if not self.subgoals and not self._identify(self.service):
            return {"subgoals": 0.0, **self._service_metrics(self.service)}
        at = rollout.valid.cpu().nonzero()
        order = torch.randperm(len(at), generator=self._numbers)
        sentences = self.transitions.sentences(rollout)[at[:, 0], at[:, 1]]
        told = (sentences > 0)[order]  # those with a sentence first: something happened there
        chosen = at[torch.cat([order[told], order[~told]])[: _CANDIDATES * self.num_asked]]
        texts = self.transitions.describe(rollout, chosen)
        tokens = self.transitions.tokens(rollout, chosen)
        fresh = {x: row for x, row in zip(texts, tokens, strict=True) if x not in self._known}
        fresh = dict([*fresh.items()][: self.num_asked])
        self._asked |= fresh
        self.service.submit({(text,): 1 for text in fresh})
        if self.wait:
            self.service.wait()
        # transitions with a text that was judged before are examples too
        judged = [
            (row, self._known[x]) for x, row in zip(texts, tokens, strict=True) if x in self._known
        ]
        for item, answer in cast("dict[Item, Any]", self.service.take()).items():
            verdict = json.loads(answer) if isinstance(answer, str) else None
            self._known[item[0]] = verdict
            if item[0] in self._asked:
                judged.append((self._asked.pop(item[0]), verdict))
        learnt = [(row, verdict) for row, verdict in judged if verdict is not None]
        loss = 0.0
        if learnt:
            rows, verdicts = zip(*learnt, strict=True)
            empty = self.classifier.num_subgoals - len(self.subgoals)
            targets = torch.nn.functional.pad(torch.tensor(verdicts), (0, empty))
            self.classifier.add(torch.stack(rows), targets)
            loss = self.classifier.learn()
        logs = {"classifier_loss": loss, "judged": float(len(self._known))}
        if self.identify:
            logs["subgoals"] = float(len(self.subgoals))
        return logs | self._service_metrics(self.service)

    @staticmethod
    def _service_metrics(service: AnnotationService) -> dict[str, float]:
        return {f"llm/{name}": value for name, value in service.metrics().items()}

    def _identify(self, service: AnnotationService) -> bool:
        """Ask for the subgoals; whether they are known, and verdicts can be asked for."""
        item = (self.task,)
        service.submit({item: 1})
        if self.wait or service.cached_only:
            service.wait()
        answers = cast("dict[Item, Any]", service.take())
        if item not in answers and not service.cached_only:
            return False
        answer = answers.get(item)
        if isinstance(answer, str):
            self.subgoals = tuple(json.loads(answer))
            log.info("the subgoals of %s: %s", service.judge.model, "; ".join(self.subgoals))
        else:
            self.subgoals = self.rule.subgoals
            log.warning(
                "%s gave no readable list of subgoals: used are %s",
                service.judge.model,
                "; ".join(self.subgoals),
            )
        service.close()
        judge = self._make_judge()
        judge.load_state_dict(service.judge.state_dict())  # limits count all requests
        self._serve(judge, service.store)
        return True

    def get_extra_state(self) -> dict[str, Any]:
        """Return subgoals, sentences, the generator's state and what the model judged."""
        return {
            "subgoals": [*self.subgoals],
            "texts": self.transitions.texts.state_dict(),
            "generator": self._numbers.get_state(),
            "known": json.dumps(self._known),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.transitions.texts.load_state_dict(state["texts"])
        self.transitions.forget_words()
        self._numbers.set_state(state["generator"].cpu())
        self._known = json.loads(state["known"])
        if self.identify:
            self.subgoals = tuple(state["subgoals"]) or self.subgoals

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in an episodic stream."""
        return Term(weight=0.3, gamma=0.99, episodic=True)
