"""`Motif`, a reward model that was fitted offline to a judge's comparisons."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.text import TextTable
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.language.choices import need_text
from firstlight.intrinsic.language.motif_training import MotifReward
from firstlight.intrinsic.language.texts import StepTexts
from firstlight.intrinsic.memory import EpisodicVisits
from firstlight.intrinsic.mixer.terms import Term

_ROUNDING = 1e-4
"""Deviations by which a score may differ with the other texts that are rated at once."""


class Motif(IntrinsicModule):
    """Intrinsic reward from preferences over captions, learnt before training (Klissarov 2023).

    ``firstlight-motif`` records captions, has a judge compare pairs of them, and fits a reward
    model. The bonus of a step is ``z / N^β``, where ``z = (r − μ) / σ`` is the model's score of the
    step's sentence, normalised over the recording, 0 if not above the ε-quantile of the different
    sentences; N counts the sentence in the episode, this time included. The model does not change.

    Args:
        info_space: space of the info channels.
        text_table: the environments' sentences.
        file: that ``firstlight-motif train`` wrote.
        epsilon: ε in [0, 1]; 0.5 rewards the better half of the different sentences.
        beta: β, exponent of the episodic count; 0 rewards each repetition.

    Raises:
        ValueError: for environments without text, or with texts of another form than those of the
            recording; or if the file is missing or something else.
    """

    novelty = False
    needs_text = True
    mean: Tensor
    std: Tensor
    threshold: Tensor

    def __init__(
        self,
        *,
        info_space: spaces.Dict,
        text_table: TextTable | None,
        file: str,
        epsilon: float = 0.5,
        beta: float = 3.0,
    ):
        super().__init__()
        table = need_text(info_space, text_table)
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon is {epsilon}, expected a quantile from 0 to 1")
        reward = MotifReward.load(file)
        with_mission = "mission_id" in info_space.spaces
        if reward.facts.get("with_mission", with_mission) != with_mission:
            raise ValueError(
                f"{file} was fitted to sentences {'without' if with_mission else 'with'} a task in "
                "brackets, and those of this environment are otherwise"
            )
        self.texts = StepTexts(table, with_mission=with_mission)
        self.model, self.beta = reward.model, beta
        self.register_buffer("mean", torch.tensor(reward.mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(reward.std, dtype=torch.float64))
        self.register_buffer("threshold", torch.tensor(reward.threshold(epsilon)))
        self.visits = EpisodicVisits()

    @torch.no_grad()
    def rate(self, texts: list[str]) -> Tensor:
        """Rate sentences before their count, [B]: normalised scores above the threshold, else 0."""
        z = ((self.model.raw(texts) - self.mean.cpu()) / self.std.cpu()).float()
        return torch.where(z > self.threshold.cpu() + _ROUNDING, z, 0.0)

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N]."""
        here, after = self.texts.ids(rollout)
        visits = self.visits.count(here, after, rollout)
        bonus = self.texts.rate(after, self.rate) / visits.clamp(min=1).float() ** self.beta
        return torch.where(rollout.valid.cpu(), bonus, 0.0).to(rollout.device)

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Set the counts of sentences in open episodes to 0."""
        self.visits.reset(env_ids)

    def get_extra_state(self) -> dict[str, object]:
        """Return the sentences, whose numbers the counts refer to."""
        return {"texts": self.texts.state_dict()}

    def set_extra_state(self, state: dict[str, dict[str, object]]) -> None:
        """Restore what `get_extra_state` returned."""
        self.texts.load_state_dict(state["texts"])

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.1, the published one, in an episodic stream of its own."""
        return Term(weight=0.1, gamma=0.99, episodic=True)
