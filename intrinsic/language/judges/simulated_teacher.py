"""`SimulatedTeacher`, the six teachers of B-Pref (Lee et al. 2021), as judges of pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from firstlight.intrinsic.language.judges.judge import Judge, JudgeError, digest

Rewards = Callable[[str], Sequence[float] | None]
"""Rewards of the steps that a text describes, in order; None if they are not known."""

TEACHERS: Mapping[str, Mapping[str, float]] = {
    "oracle": {},
    "mistaken": {"mistake": 0.1},
    "noisy": {"beta": 1.0},
    "skipping": {"skip": 0.1},
    "myopic": {"gamma": 0.9},
    "equal": {"equal": 0.1},
}
"""Name to arguments of `SimulatedTeacher`: B-Pref's constants, for returns from 0 to 1."""


class SimulatedTeacher(Judge):
    """Compares pairs by true rewards, with the weaknesses of people.

    In this order: a pair whose higher return is below `skip` gets no answer; returns that differ by
    less than `equal` are a tie; else the second text is preferred if its return, discounted by
    `gamma` towards the past, is higher, or with a finite `beta` with probability
    ``sigmoid(β (R2 − R1))``; and with probability `mistake` the answer is the opposite one. Exactly
    equal discounted returns are a tie for a teacher without `beta`.

    The random numbers of a pair follow from the seed and the pair, so a pair has the same answer
    whenever it is asked, and the opposite one when its texts change places.

    Args:
        rewards: of a text.
        name: what labels are stored under, with the arguments.
        beta: β, how rational the teacher is; infinite is perfectly.
        mistake: probability of a wrong answer.
        skip: least return of a text that the teacher cares about.
        gamma: discount of a step for each step after it.
        equal: least difference of returns that the teacher sees.
        truth: what else decides the rewards, such as a judge's `prompt`.
        seed: of the random numbers.

    >>> teacher = SimulatedTeacher(lambda text: [float(text == "won")])
    >>> teacher.compare([("won", "lost"), ("lost", "won"), ("lost", "slept")])
    [0.0, 1.0, 0.5]
    """

    def __init__(
        self,
        rewards: Rewards,
        *,
        name: str = "teacher",
        beta: float = math.inf,
        mistake: float = 0.0,
        skip: float = -math.inf,
        gamma: float = 1.0,
        equal: float = 0.0,
        truth: str = "",
        seed: int = 0,
    ):
        if beta < 0 or not 0 <= mistake <= 1 or not 0 <= gamma <= 1:
            raise ValueError(
                f"beta {beta}, mistake {mistake}, gamma {gamma}: expected at least 0, and "
                "mistake and gamma at most 1"
            )
        self.rewards, self.model, self.seed = rewards, name, seed
        self.beta, self.mistake, self.skip = beta, mistake, skip
        self.gamma, self.equal = gamma, equal
        self.prompt = digest(truth, str((beta, mistake, skip, gamma, equal, seed)))

    @classmethod
    def of(cls, name: str, judge: Judge, *, seed: int = 0) -> SimulatedTeacher:
        """Make one of `TEACHERS` whose rewards are the ratings of a judge."""

        def rewards(text: str) -> Sequence[float] | None:
            (rating,) = judge.rate([text])
            return None if rating is None else [rating]

        return cls(rewards, name=name, truth=judge.prompt, seed=seed, **TEACHERS[name])

    def rate(self, texts: Sequence[str]) -> list[float | None]:
        """Teachers compare: JudgeError."""
        raise JudgeError("a simulated teacher compares pairs and rates no texts", permanent=True)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Compare pairs: 0 if the first is better, 1 the second, 0.5 a tie; None is no answer."""
        texts = dict.fromkeys(text for pair in pairs for text in pair)
        known = {text: self.rewards(text) for text in texts}
        return [self._compare(pair, known) for pair in pairs]

    def _compare(
        self, pair: tuple[str, str], known: Mapping[str, Sequence[float] | None]
    ) -> float | None:
        low, high = sorted(pair)
        one, two = known[low], known[high]
        if one is None or two is None:
            return None
        numbers = random.Random(digest(str(self.seed), low, high))
        answer = self.prefer(one, two, numbers)
        return answer if answer is None or pair == (low, high) else 1.0 - answer

    def prefer(
        self, first: Sequence[float], second: Sequence[float], numbers: random.Random
    ) -> float | None:
        """Compare two segments by the rewards of their steps: 0, 0.5, 1 or None, see `compare`."""
        returns = sum(first), sum(second)
        if max(returns) < self.skip:
            return None
        if abs(returns[1] - returns[0]) < self.equal:
            return 0.5
        difference = self._recent(second) - self._recent(first)
        draws = numbers.random(), numbers.random()
        if math.isinf(self.beta):
            if difference == 0:
                return 0.5
            better = difference > 0
        else:  # sigmoid(β x) = (1 + tanh(β x / 2)) / 2
            better = draws[0] < 0.5 + 0.5 * math.tanh(self.beta * difference / 2)
        return float(better != (draws[1] < self.mistake))

    def _recent(self, rewards: Sequence[float]) -> float:
        """Return with the last step in full, and each earlier one discounted once more."""
        return sum(x * self.gamma**age for age, x in enumerate(reversed(rewards)))
