"""Evaluate genomes in processes of Ray: on this machine, or on a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from firstlight.agents.search.evaluators.base import Evaluations, Evaluator, concatenate_evaluations

_PARTS = 4  # of a batch for each worker, so that none waits long for the last one
_STORE_BYTES = 100 * 2**20  # of Ray's memory for what processes exchange
_POLL_SECONDS = 0.5  # signals are handled in between
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable; with 0 Ray uses the loopback interface, on Linux too. (As an address of
`ray.init`, 127.0.0.1 is replaced by one that other machines can reach.)"""

log = logging.getLogger(__name__)


class GenomeWorker:
    """Evaluates parts of a batch in a process of Ray.

    Args:
        make: makes the evaluator.
    """

    def __init__(self, make: Callable[[], Evaluator]):
        self._evaluator = make()

    def evaluate(self, genomes: np.ndarray, samples: int, state: dict[str, Any]) -> Evaluations:
        """Evaluate genomes [B, G] after loading the evaluator's `state`."""
        self._evaluator.load_state_dict(state)
        return self._evaluator.evaluate(genomes, samples)

    def process_id(self) -> int:
        """Return the number of this process, when it is ready."""
        return os.getpid()


class RayEvaluator(Evaluator):
    """Evaluates genomes by Ray actors, with the results of one evaluator in this process.

    A batch is split (`Evaluator.split`), and each worker evaluates one part at a time. Where a
    worker's process dies it is started again and its part evaluated a second time; its results are
    counted once, as no others arrived. What the search keeps stays in this process.

    Without an address Ray is started here, on the loopback interface only (if nothing has imported
    it before), without a dashboard and usage reports, with its files in a temporary folder; `close`
    ends it.

    Args:
        local: evaluator of the same kind, which splits, and gives spaces, bounds and pictures. It
            evaluates nothing.
        make: makes an evaluator in a worker. Ray sends it by pickle, to processes that can import
            what this one can.
        num_workers: processes.
        address: of a Ray cluster that runs already, such as "10.0.0.1:6379" or "auto".

    Attributes:
        restarts: workers that were started again.

    Raises:
        ValueError: for a number of workers below 1, or a cluster that has fewer CPUs.
        ImportError: if Ray is not installed.
        ConnectionError: if there is no cluster at the address.
    """

    def __init__(
        self,
        local: Evaluator,
        make: Callable[[], Evaluator],
        *,
        num_workers: int = 2,
        address: str | None = None,
    ):
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}, expected at least 1")
        self.local, self.make, self.policy = local, make, local.policy
        self.low, self.high, self.num_areas = local.low, local.high, local.num_areas
        self.draws, self.restarts = local.draws, 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if address is None:  # both are read when Ray is imported
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault(_CLUSTERS, "0")
        self._ray = _import_ray()
        self._start(num_workers, address)
        actor = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(GenomeWorker)
        self._actor = actor
        self._workers = [actor.remote(make) for _ in range(num_workers)]

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells of a coverage grid along each axis of the position."""
        return self.local.cells

    def evaluate(self, genomes: np.ndarray, samples: int = 1) -> Evaluations:
        """Run an episode with each genome, see `Evaluator.evaluate`.

        Raises:
            RuntimeError: if a part ends two processes.
        """
        ray = self._ray
        genomes = np.ascontiguousarray(genomes, np.float64)
        parts = self.local.split(genomes, _PARTS * len(self._workers))
        found: list[Evaluations | None] = [None] * len(parts)
        waiting, idle = deque(range(len(parts))), deque(range(len(self._workers)))
        failed: set[int] = set()
        running: dict[Any, tuple[int, int]] = {}  # worker and part of what is under way
        while waiting or running:
            while waiting and idle:
                worker, number = idle.popleft(), waiting.popleft()
                part, state = parts[number]
                running[self._workers[worker].evaluate.remote(part, samples, state)] = (
                    worker,
                    number,
                )
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS)
            for result in ready:
                worker, number = running.pop(result)
                idle.append(worker)
                try:
                    found[number] = ray.get(result)
                except ray.exceptions.RayActorError as error:
                    if number in failed:
                        raise RuntimeError(
                            f"part {number + 1} of {len(parts)} of a batch of genomes ended two "
                            f"processes: {error}"
                        ) from error
                    failed.add(number)
                    waiting.appendleft(number)
                    self._workers[worker] = self._actor.remote(self.make)
                    self.restarts += 1
        return concatenate_evaluations([one for one in found if one is not None])

    def process_ids(self) -> list[int]:
        """Return the numbers of the workers' processes, once they are ready."""
        return self._ray.get([worker.process_id.remote() for worker in self._workers])

    def draw(self, scenes: np.ndarray) -> np.ndarray:
        """Draw scenes in this process, see `Evaluator.draw`."""
        return self.local.draw(scenes)

    def state_dict(self) -> dict[str, Any]:
        """State that later evaluations depend on, which is that of the local evaluator."""
        return self.local.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.local.load_state_dict(state)

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        for worker in self._workers:
            with contextlib.suppress(Exception):  # its process may have ended already
                self._ray.kill(worker)
        self._workers = []
        if self._ray.is_initialized():
            self._ray.shutdown()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self, num_workers: int, address: str | None) -> None:
        """Connect to the cluster at `address`, or start Ray on this machine."""
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if address is not None:
            self._ray.init(address=address, **quiet)
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            if cpus < num_workers:
                self._ray.shutdown()
                raise ValueError(  # Ray itself would wait for more machines, in silence
                    f"num_workers is {num_workers}, and the cluster at {address} has {cpus} CPUs: "
                    "each worker takes one, so start fewer workers or more machines"
                )
            return
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._ray.init(
            address="local",
            num_cpus=num_workers,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _temp_dir=self._folder.name,
            **quiet,
        )
        if (own := self._ray.nodes()[0]["NodeManagerAddress"]) != "127.0.0.1":
            log.warning(
                "Ray listens at %s, where other machines reach it: set %s=0 before it is imported",
                own,
                _CLUSTERS,
            )


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install 'firstlight[ray]'") from error
    return ray
