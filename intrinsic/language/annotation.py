"""`AnnotationService`, which has texts judged in the background while training goes on."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from firstlight.intrinsic.language.judges.judge import Judge, JudgeError
from firstlight.intrinsic.language.limits import CircuitBreaker, Limits, RateLimiter
from firstlight.intrinsic.language.store import Item, Label, LabelStore

log = logging.getLogger(__name__)

_RECHECK_SECONDS = 1.0  # how often to look for a label that another process asked for
_CLOSE_SECONDS = 2.0  # to wait for requests under way; their threads are daemons


@dataclass(slots=True)
class _Waiting:
    """An item that waits: how often it occurred, when first and last seen, and when to ask."""

    count: int
    seen: int
    since: float
    not_before: float = 0.0


def requests_at_once(number: int | None, url: str | None, limits: Limits) -> int:
    """Return `number`, or if it is None 8 for an endpoint at `url` without limits, else 1.

    A server answers many requests in the time of one; the embedded model and judges in this
    process do not. With a limit only the last of several requests at once may cross it.
    """
    if number is not None:
        return number
    return 1 if url is None or limits.is_bounded else 8


class AnnotationService:
    """Has items judged by threads of its own; the caller never waits.

    What is handed in is kept once, as waiting, under way or answered, so nothing is asked twice.
    Half of a batch are the items seen last, half those seen most often. If the queue is full, the
    item not seen for longest is dropped, and comes back when it is seen again. A failed request is
    repeated after a wait that doubles (`CircuitBreaker`), and ends no thread.

    Args:
        judge: answers; used by several threads if `num_workers` is above 1.
        store: where answers are looked up and written.
        batch_size: items of one request.
        num_workers: requests at once.
        queue_size: items that wait, at most.
        limits: of requests, tokens and money.
        cached_only: answer from the store and never ask the judge.
        breaker: waits after failures.
    """

    def __init__(
        self,
        judge: Judge,
        store: LabelStore,
        *,
        batch_size: int = 16,
        num_workers: int = 1,
        queue_size: int = 10_000,
        limits: Limits | None = None,
        cached_only: bool = False,
        breaker: CircuitBreaker | None = None,
    ):
        for name, value in (
            ("batch_size", batch_size),
            ("num_workers", num_workers),
            ("queue_size", queue_size),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.judge, self.store, self.limits = judge, store, limits or Limits()
        self.batch_size, self.queue_size, self.cached_only = batch_size, queue_size, cached_only
        self.breaker = breaker or CircuitBreaker()
        self.errors, self.dropped, self.abstained, self.requests = 0, 0, 0, 0
        judge.permit = self._permit
        self._rate = RateLimiter(self.limits.calls_per_minute)
        self._waiting: OrderedDict[Item, _Waiting] = OrderedDict()  # the last seen at the end
        self._under_way: set[Item] = set()
        self._answered: set[Item] = set()
        self._answers: dict[Item, float | None] = {}
        self._since: dict[Item, float] = {}  # first sight of items answered and not taken
        self._latencies: deque[float] = deque(maxlen=100)
        self._ages: deque[float] = deque(maxlen=100)
        self._changed = threading.Condition()
        self._clock, self._closing, self._seen = time.monotonic, False, 0
        self._threads = [
            threading.Thread(target=self._work, name=f"annotation-{i}", daemon=True)
            for i in range(num_workers)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, items: Mapping[Item, int]) -> None:
        """Hand in items with the number of times that each occurred. Never waits for answers."""
        with self._changed:
            self._seen += 1
            for item, count in items.items():
                if item in self._answered or item in self._under_way:
                    continue
                entry = self._waiting.setdefault(item, _Waiting(0, 0, self._clock()))
                entry.count, entry.seen = entry.count + count, self._seen
                self._waiting.move_to_end(item)
            while len(self._waiting) > self.queue_size:
                self._waiting.popitem(last=False)
                self.dropped += 1
            self._changed.notify_all()

    def take(self) -> dict[Item, float | None]:
        """Return the answers since the last call; None where the judge abstained."""
        with self._changed:
            answers, self._answers = self._answers, {}
            now = self._clock()
            self._ages.extend(now - self._since.pop(item, now) for item in answers)
            return answers

    def forget_answered(self) -> None:
        """Forget which items were answered; only the store knows them from here on.

        For more items than fit into memory, after `take`.
        """
        with self._changed:
            self._answered.clear()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until everything is answered or cannot be; whether that was within `seconds`."""
        with self._changed:
            return self._changed.wait_for(self._is_settled, seconds)

    def metrics(self) -> dict[str, float]:
        """Scalars for the logs.

        `latency` is the mean seconds of the last 100 requests, `age` the mean seconds from the
        first sight of an item to `take`, of the last 100 items.
        """
        with self._changed:
            return {
                "queue": float(len(self._waiting)),
                "latency": _mean(self._latencies),
                "age": _mean(self._ages),
                "errors": float(self.errors),
                "abstained": float(self.abstained),
                "dropped": float(self.dropped),
                "calls": float(self.judge.calls),
                "tokens": float(self.judge.tokens),
                "cost": self.cost,
                "circuit_open": float(self.breaker.is_open),
            }

    @property
    def cost(self) -> float:
        """Price of the judge's tokens so far."""
        return self.limits.price(self.judge.input_tokens, self.judge.output_tokens)

    def close(self) -> None:
        """End the threads. Requests under way are abandoned after a short time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.judge.close()
        end = self._clock() + _CLOSE_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - self._clock()))

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._process(batch)
            except Exception as error:  # whatever happens: an annotator must not end silently
                if not self._closing:
                    self._record_failure(batch, error)
            with self._changed:
                self._under_way.difference_update(batch)
                self._changed.notify_all()

    def _next_batch(self) -> list[Item] | None:
        """Wait for items and for permission to ask; None when the service is closed."""
        with self._changed:
            while not self._closing:
                ready = self._ready()
                if not ready or self._is_stopped():
                    self._changed.wait(_RECHECK_SECONDS if self._waiting else None)
                elif self.breaker.allow():
                    batch = self._choose(ready)
                    self._under_way.update(batch)
                    return batch
                else:
                    self._changed.wait(min(max(self.breaker.wait(), 0.01), _RECHECK_SECONDS))
            return None

    def _ready(self) -> list[Item]:
        now = self._clock()
        waiting, under_way = self._waiting.items(), self._under_way
        return [x for x, entry in waiting if entry.not_before <= now and x not in under_way]

    def _choose(self, ready: Sequence[Item]) -> list[Item]:
        """Choose half of a batch by recency, the rest by frequency; all texts, or all pairs."""
        newest = [item for item in reversed(ready) if len(item) == len(ready[-1])]
        half = newest[: -(-self.batch_size // 2)]
        others = newest[len(half) :]
        frequent = heapq.nlargest(
            self.batch_size - len(half), others, key=lambda item: self._waiting[item].count
        )
        return [*half, *frequent]

    def _process(self, batch: Sequence[Item]) -> None:
        """Look a batch up, and ask the judge for what is in no store and no other process."""
        judge, store = self.judge, self.store
        key = (judge.model, judge.prompt)
        mine = [] if self.cached_only else store.claim(batch, *key)
        self._deliver(store.find(batch, *key))
        others = set(batch) - self._answered - set(mine)
        if self.cached_only:
            self._forget(others)
        else:
            self._put_off(others, _RECHECK_SECONDS)
        if not mine:
            self.breaker.cancel()
            return
        try:
            self._pause(self._rate.reserve())
            began = self._clock()
            self.requests += 1
            scores = judge.answer(mine)
            latency = self._clock() - began
            if len(scores) != len(mine):
                raise JudgeError(f"{len(scores)} answers to {len(mine)} items")
        except BaseException:
            store.release(mine, *key)
            raise
        self.breaker.succeed()
        now = time.time()
        pairs = list(zip(mine, scores, strict=True))
        store.put([Label(item, score, *key, latency, now) for item, score in pairs])
        with self._changed:
            self._latencies.append(latency)
            self.abstained += sum(score is None for score in scores)
        self._deliver(dict(pairs))

    def _deliver(self, answers: Mapping[Item, float | None]) -> None:
        with self._changed:
            self._answers.update(answers)
            self._answered.update(answers)
            for item in answers:
                if (entry := self._waiting.pop(item, None)) is not None:
                    self._since[item] = entry.since

    def _put_off(self, items: Iterable[Item], seconds: float) -> None:
        with self._changed:
            for item in items:
                if item in self._waiting:
                    self._waiting[item].not_before = self._clock() + seconds

    def _forget(self, items: Iterable[Item]) -> None:
        """Let items wait no longer; they come back when they are seen again."""
        with self._changed:
            for item in items:
                self._waiting.pop(item, None)

    def _pause(self, seconds: float) -> None:
        """Wait before a request; JudgeError if the service is closed meanwhile."""
        with self._changed:
            if self._changed.wait_for(lambda: self._closing, seconds):
                raise JudgeError("the annotation service is closed")

    def _permit(self) -> None:
        """Wait before a further request of a judge; JudgeError if a limit forbids it."""
        if self.limits.reached(self.judge.calls, self.judge.tokens, self.cost):
            raise JudgeError("a limit of the run is reached")
        self._pause(self._rate.reserve())

    def _record_failure(self, batch: Sequence[Item], error: Exception) -> None:
        # other errors by class only: their text may quote a request
        known = error if isinstance(error, JudgeError) else JudgeError(type(error).__name__)
        with self._changed:
            self.errors += 1
            first = self.errors == 1
        if known.permanent:
            self.breaker.give_up()
        else:
            self.breaker.fail(known.retry_after)
        if first or known.permanent:
            log.warning("labels: %s; training goes on without new labels meanwhile", known)

    def _is_settled(self) -> bool:
        """Whether nothing is under way, and nothing that waits will be asked."""
        return not self._under_way and (not self._waiting or self._is_stopped())

    def _is_stopped(self) -> bool:
        """Whether no item will be answered any more."""
        if self.cached_only:
            return False
        given_up = self.breaker.wait() == float("inf")
        return given_up or self.limits.reached(self.judge.calls, self.judge.tokens, self.cost)


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else 0.0
