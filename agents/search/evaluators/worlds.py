"""Evaluate genomes in worlds of our own: whole episodes inside compiled loops."""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.search.evaluators import world_kernels as kernels
from firstlight.agents.search.evaluators.base import Evaluations, Evaluator, moments
from firstlight.agents.search.evaluators.scenes import ArmScene, CurlingScene, MazeScene, Scene
from firstlight.envs.worlds import curling, hard_maze
from firstlight.envs.worlds.curling import Curling
from firstlight.envs.worlds.hard_maze import HardMaze
from firstlight.envs.worlds.redundant_arm import JOINTS, RedundantArm
from firstlight.envs.worlds.robot_maps import SIZE

_SLICE = 4  # genomes of a call: short enough that a signal is handled between two of them


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class WorldEvaluator(Evaluator):
    """Base class of evaluators of one of our worlds.

    The episode of a genome is that of its policy in the environment, bit for bit. Several threads
    each run a few genomes at a time, without the interpreter's lock; results do not depend on their
    number.

    Args:
        policy: made for the environment's spaces.
        num_threads: threads; default all cores that the process may use.

    Raises:
        ValueError: for a number below 1.
    """

    draws = True
    scene: Scene

    def __init__(self, policy: GenomePolicy, num_threads: int | None = None):
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}, expected at least 1")
        self.policy, self.num_threads = policy, num_threads or usable_cores()

    def draw(self, scenes: np.ndarray) -> np.ndarray:
        """Draw scenes [B, S, K], as [B, S, 64, 64, 3] uint8."""
        return self.scene.draw(scenes)

    def evaluate(self, genomes: np.ndarray, samples: int = 1) -> Evaluations:
        """Run an episode with each genome, see `Evaluator.evaluate`."""
        genomes = np.ascontiguousarray(genomes, np.float64)
        return self._evaluate(genomes, samples)

    @abstractmethod
    def _evaluate(self, genomes: np.ndarray, samples: int) -> Evaluations:
        """As `evaluate`, with genomes in C order."""

    def _run(self, count: int, run: Callable[[slice], None]) -> None:
        """Call `run` for slices of `count` genomes, in several threads."""
        slices = [slice(i, i + _SLICE) for i in range(0, count, _SLICE)]
        if self.num_threads == 1:
            for part in slices:
                run(part)
            return
        with ThreadPoolExecutor(self.num_threads) as pool:
            for _ in pool.map(run, slices):  # raises what a thread raised
                pass


class MazeEvaluator(WorldEvaluator):
    """Evaluates genomes in `HardMaze`.

    Raises:
        ValueError: for a maze that keeps sensors at resets: there an episode depends on the last;
            or one that shows the pose.
    """

    def __init__(self, maze: HardMaze, policy: GenomePolicy, num_threads: int | None = None):
        super().__init__(policy, num_threads)
        if maze.keep_sensors_at_reset:
            raise ValueError("keep_sensors_at_reset is True: episodes depend on each other")
        if maze.observe_pose:
            raise ValueError("observe_pose is True: the compiled loop knows the sensors alone")
        self.maze, self.scene = maze, MazeScene(maze)
        self.low, self.high, self.num_areas = np.zeros(2), np.full(2, SIZE), len(maze.goals)

    def _evaluate(self, genomes: np.ndarray, samples: int) -> Evaluations:
        maze, count = self.maze, len(genomes)
        at = moments(maze.max_steps, samples)
        scenes, before = np.empty((count, samples, 3)), np.empty((count, 2))
        start = np.array(hard_maze.START)
        world = (start, maze.max_travel, maze.laser_unit, maze.map.clearance, maze.map.blocked)

        def run(part: slice) -> None:
            kernels.run_mazes(
                genomes[part], self.policy.sizes, *world, at, scenes[part], before[part]
            )

        self._run(count, run)
        position = scenes[:, :, :2].copy()
        rewarded = before if maze.reward_previous_position else position[:, -1]
        closeness, area = maze.areas(rewarded)
        steps = np.full(count, maze.max_steps)
        success = maze.areas(position[:, -1])[1] > 0
        return _evaluations(genomes, position, scenes, closeness, area, steps, success)


class CurlingEvaluator(WorldEvaluator):
    """Evaluates genomes in `Curling`. Coverage is counted over -1.35 to 1.35, as published."""

    def __init__(self, table: Curling, policy: GenomePolicy, num_threads: int | None = None):
        super().__init__(policy, num_threads)
        self.table, self.scene = table, CurlingScene(table)
        self.low, self.high, self.num_areas = (
            np.full(2, -1.35),
            np.full(2, 1.35),
            len(table.goals),
        )

    def _evaluate(self, genomes: np.ndarray, samples: int) -> Evaluations:
        table, count = self.table, len(genomes)
        at, scenes = moments(table.max_steps, samples), np.empty((count, samples, 4))
        start = np.array(curling.START)

        def run(part: slice) -> None:
            kernels.run_curling(
                genomes[part], self.policy.sizes, start, table.limits, at, scenes[part]
            )

        self._run(count, run)
        position = scenes[:, :, :2].copy()
        closeness, area = table.areas(position[:, -1])
        steps = np.full(count, table.max_steps)
        return _evaluations(genomes, position, scenes, closeness, area, steps, area > 0)


class ArmEvaluator(WorldEvaluator):
    """Evaluates genomes in `RedundantArm`."""

    def __init__(self, arm: RedundantArm, policy: GenomePolicy, num_threads: int | None = None):
        super().__init__(policy, num_threads)
        self.arm, self.scene = arm, ArmScene(arm)
        self.low, self.high, self.num_areas = np.zeros(2), np.ones(2), len(arm.goals)

    def _evaluate(self, genomes: np.ndarray, samples: int) -> Evaluations:
        arm, count = self.arm, len(genomes)
        at, scenes = moments(arm.max_steps, samples), np.empty((count, samples, 2 + JOINTS))
        steps, stuck = np.empty(count, np.int64), np.empty(count, bool)
        world = (arm.first_angles, arm.first_tip, arm.walls)

        def run(part: slice) -> None:
            kernels.run_arms(
                genomes[part],
                self.policy.sizes,
                *world,
                at,
                scenes[part],
                steps[part],
                stuck[part],
            )

        self._run(count, run)
        position = scenes[:, :, :2].copy()
        area = arm.area(position[:, -1])
        rewarded = (area > 0) & (stuck | arm.reward_at_timeout)
        reward = rewarded.astype(np.float64)
        return _evaluations(genomes, position, scenes, reward, area, steps, rewarded)


def _evaluations(
    genomes: np.ndarray,
    position: np.ndarray,
    scenes: np.ndarray,
    reward: np.ndarray,
    area: np.ndarray,
    steps: np.ndarray,
    success: np.ndarray,
) -> Evaluations:
    """Put results together; rewards are float32, as environments give them."""
    ret = reward.astype(np.float32).astype(np.float64)
    area = np.where(ret > 0, area, 0)
    return Evaluations(genomes, position, scenes, ret, area, steps, success.astype(np.int8))
