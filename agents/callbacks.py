"""What may happen between iterations: evaluate, save, stop."""

from __future__ import annotations

from typing import Any

from firstlight.agents.evaluation import Evaluation, evaluate
from firstlight.envs.vec import VecEnv


class Evaluate:
    """Evaluates the frozen policy on levels that training never saw, and keeps the best checkpoint.

    Args:
        vec: environments of its own.
        every: environment steps between evaluations.
        episodes: of an evaluation.
        seed: of the evaluation's levels; the same ones each time.
    """

    def __init__(self, vec: VecEnv, *, every: int, episodes: int = 100, seed: int):
        self.vec, self.every, self.episodes, self.seed = vec, every, episodes, seed
        self.best, self._next = float("-inf"), every
        self.last: Evaluation | None = None

    def __call__(self, run: Any, metrics: dict[str, float]) -> None:
        """Add ``eval/...`` to the metrics when it is time, and at the end (after a `StopAt`)."""
        last = run.stopping or run.steps >= run.total_steps
        if run.steps < self._next and not last:
            return
        self._next = run.steps - run.steps % self.every + self.every
        self.last = evaluate(run.policy, self.vec, episodes=self.episodes, seed=self.seed)
        metrics["eval/return_mean"] = self.last.return_mean
        metrics["eval/return_std"] = self.last.return_std
        metrics["eval/length_mean"] = self.last.length_mean
        if self.last.success_rate is not None:
            metrics["eval/success_rate"] = self.last.success_rate
        if self.best == float("-inf") and run.dir is not None:  # a resumed run has a best already
            self.best = run.dir.best_return()
        if self.last.return_mean > self.best:
            self.best = self.last.return_mean
            if run.dir is not None:
                run.dir.save_best(run.state_dict(), run.steps, self.best)


class Checkpoint:
    """Saves everything regularly.

    Args:
        every: environment steps between checkpoints.
    """

    def __init__(self, every: int):
        self.every, self._next = every, every

    def __call__(self, run: Any, metrics: dict[str, float]) -> None:
        """Save when it is time; the run itself saves at its end."""
        if run.dir is not None and run.steps >= self._next:
            self._next = run.steps - run.steps % self.every + self.every
            run.dir.save(run.state_dict(), run.steps)


class StopAt:
    """Stops the run once a metric reaches a threshold.

    Args:
        threshold: to reach.
        metric: tag of the metric.
        episodes: training episodes that must have ended before it counts.
    """

    def __init__(
        self, threshold: float, *, metric: str = "rollout/return_mean", episodes: int = 100
    ):
        self.threshold, self.metric, self.episodes = threshold, metric, episodes
        self.reached_at: int | None = None

    def __call__(self, run: Any, metrics: dict[str, float]) -> bool:
        """True once reached."""
        enough = metrics.get("rollout/episodes", 0) >= self.episodes
        if enough and metrics.get(self.metric, float("-inf")) >= self.threshold:
            self.reached_at = run.steps
        return self.reached_at is not None
