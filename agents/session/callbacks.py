"""Callbacks between iterations: evaluate, stop."""

from __future__ import annotations

from firstlight.agents.evaluation import MAX_STEPS, Evaluation, SeedCheck, evaluate
from firstlight.agents.session.run_session import RunSession
from firstlight.envs.vec import VecEnv


class Evaluate:
    """Evaluates the frozen policy on levels unseen in training, and saves the best checkpoint.

    Args:
        vec: environments used only for evaluation.
        every: environment steps between evaluations.
        episodes: number of episodes in each evaluation.
        seed: of the levels; each evaluation plays the same ones.
        max_steps: of an evaluation, see `evaluate`.

    Attributes:
        best: highest mean return so far.
        last: the latest evaluation, None before the first.
    """

    def __init__(
        self,
        vec: VecEnv,
        *,
        every: int,
        episodes: int = 100,
        seed: int,
        max_steps: int = MAX_STEPS,
    ):
        self.vec, self.every, self.episodes, self.seed = vec, every, episodes, seed
        self.max_steps = max_steps
        self.best = float("-inf")
        self.last: Evaluation | None = None
        self._check_seed = SeedCheck(vec.obs_space)

    def __call__(self, run: RunSession, metrics: dict[str, float]) -> None:
        """Evaluate if it is due and at the end, and add ``eval/...`` to the metrics."""
        last = run.stopping or run.steps >= run.total_steps
        if not (last or run.is_due(self.every)):
            return
        if last:
            run.save()  # training is done: a kill during the evaluation must not lose it
        self.last = evaluate(
            run.policy,
            self.vec,
            episodes=self.episodes,
            seed=self.seed,
            max_steps=self.max_steps,
            check=run.check_signals,
            on_reset=self._check_seed,
        )
        metrics["eval/return_mean"] = self.last.return_mean
        metrics["eval/return_std"] = self.last.return_std
        metrics["eval/length_mean"] = self.last.length_mean
        if self.last.cut:
            metrics["eval/episodes_cut"] = float(self.last.cut)
        metrics |= {f"eval/{name}": mean for name, mean in self.last.reported.items()}
        if self.last.success_rate is not None:
            metrics["eval/success_rate"] = self.last.success_rate
        if self.best == float("-inf") and run.directory is not None:  # a resumed run has one
            self.best = run.directory.best_return()
        if self.last.return_mean >= self.best:  # of equals the latest
            self.best = self.last.return_mean
            run.save(return_mean=self.best)


class StopAt:
    """Stops the run once a metric reaches a threshold.

    Args:
        threshold: value to reach.
        metric: tag of the metric.
        episodes: training episodes that must have entered the means first.

    Attributes:
        reached_at: environment steps when it was reached, None before.
    """

    def __init__(
        self, threshold: float, *, metric: str = "rollout/return_mean", episodes: int = 100
    ):
        self.threshold, self.metric, self.episodes = threshold, metric, episodes
        self.reached_at: int | None = None

    def __call__(self, run: RunSession, metrics: dict[str, float]) -> bool:
        """Return whether the threshold was reached."""
        enough = metrics.get("rollout/episodes_counted", 0) >= self.episodes
        if enough and metrics.get(self.metric, float("-inf")) >= self.threshold:
            self.reached_at = run.steps
        return self.reached_at is not None
