"""`CalibratedJudge`, a language model whose scores become ratings by labelled examples."""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from firstlight.intrinsic.language.chat import ChatJudge
from firstlight.intrinsic.language.judges.label_scores import Calibration

log = logging.getLogger(__name__)


class CalibratedJudge(ChatJudge):
    """Base class of judges by a language model whose scores are calibrated by labelled examples.

    It first asks for the examples' scores, and fits a logistic function to their labels (Platt
    1999), which turns all scores into ratings. A rating within `margin` of 0.5
    is no label. Subclasses implement `_scores`.

    Args:
        examples: labelled texts, 1 or 0; without both labels scores stay as they are.
        margin: half the width of the ratings that are no label.
        request_size: examples of a request.
        **chat: model, url, temperature, timeout_seconds and cpu_share, see `ChatJudge`.

    Raises:
        ImportError: if the extra `llm`, or for the small model `llm-local`, is not installed.
    """

    def __init__(
        self,
        *,
        examples: Sequence[tuple[str, float]],
        margin: float,
        request_size: int,
        **chat: Any,
    ):
        super().__init__(**chat)
        self.examples, self.margin, self._request_size = list(examples), margin, request_size
        self._calibration: Calibration | None = None
        self._calibrating = threading.Lock()

    @abstractmethod
    def _scores(self, texts: Sequence[str]) -> list[float | None]:
        """Ask for the scores of texts; None where there is no answer.

        Calls `permit` before requests beyond the first.
        """

    def rate(self, texts: Sequence[str]) -> list[float | None]:
        """Rate texts; None where the model gave no score, and in doubt."""
        ratings = self._ratings(texts)
        return [None if x is None or abs(x - 0.5) < self.margin else x for x in ratings]

    def state_dict(self) -> dict[str, Any]:
        """Requests and tokens so far, and the calibration."""
        fitted = self._calibration
        return super().state_dict() | {"calibration": None if fitted is None else [*fitted]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        fitted = state.get("calibration")
        self._calibration = None if fitted is None else Calibration(*fitted)

    def _ratings(self, texts: Sequence[str]) -> list[float | None]:
        """Calibrated scores."""
        calibration = self._calibrated()
        return [None if x is None else calibration(x) for x in self._scores(texts)]

    def _calibrated(self) -> Calibration:
        """Fit the calibration to the examples, the first time."""
        with self._calibrating:
            if self._calibration is None:
                scores: list[float | None] = []
                for start in range(0, len(self.examples), self._request_size):
                    part = self.examples[start : start + self._request_size]
                    self.permit()
                    scores += self._scores([text for text, _ in part])
                self._calibration = Calibration.fit(scores, [y for _, y in self.examples])
                if self._calibration.slope == 0.0:
                    log.warning(
                        "labels: %s does not tell the helpful examples from the others, so it "
                        "gives no labels",
                        self.model,
                    )
            return self._calibration
