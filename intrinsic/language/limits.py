"""What keeps requests in bounds: limits of a run, and a circuit breaker for a failing judge."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]

LONGEST_RETRY_AFTER = 3600.0
"""Seconds to wait at most because a server asked for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what one run asks; None is no limit.

    Args:
        calls: requests in all, failed ones included.
        tokens: tokens in all; the request that crosses the limit is the last.
        calls_per_minute: requests in any 60 seconds.
    """

    calls: int | None = None
    tokens: int | None = None
    calls_per_minute: float | None = None

    def reached(self, calls: int, tokens: int) -> bool:
        """Whether a run that made so many calls must not make another."""
        over_calls = self.calls is not None and calls >= self.calls
        return over_calls or (self.tokens is not None and tokens >= self.tokens)


class RateLimiter:
    """Spaces requests evenly, so that no minute has more than `per_minute` of them.

    Args:
        per_minute: requests; None is no limit.
        clock: seconds.
    """

    def __init__(self, per_minute: float | None, clock: Clock = time.monotonic):
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock, self._next, self._lock = clock, float("-inf"), threading.Lock()

    def reserve(self) -> float:
        """Reserve the next request and return the seconds to wait before it."""
        with self._lock:
            now = self._clock()
            begins = max(now, self._next)
            self._next = begins + self._interval
            return begins - now


class CircuitBreaker:
    """Stops asking a judge that fails, and tries again after a while, one request at a time.

    Closed: requests pass. After each failure all requests wait, twice as long each time, with
    random jitter, so that clients do not come back together. After `threshold` failures in a row
    the circuit is open. When its time is over a single request is let through: success closes the
    circuit, failure opens it for longer.

    Args:
        threshold: failures in a row that open the circuit.
        first_wait: seconds after the first failure.
        longest_wait: seconds at most, unless a server asks for more.
        clock: seconds.
        seed: of the jitter.
    """

    def __init__(
        self,
        *,
        threshold: int = 3,
        first_wait: float = 0.5,
        longest_wait: float = 60.0,
        clock: Clock = time.monotonic,
        seed: int | None = None,
    ):
        self.threshold, self.first_wait, self.longest_wait = threshold, first_wait, longest_wait
        self.failures, self.opened = 0, 0
        self._until, self._trying = float("-inf"), False
        self._clock, self._lock, self._random = clock, threading.Lock(), random.Random(seed)

    @property
    def is_open(self) -> bool:
        """Whether so many requests in a row failed that only single ones are tried."""
        return self.failures >= self.threshold

    def allow(self) -> bool:
        """Whether a request may be sent now; after a failure only one at a time."""
        with self._lock:
            if self._clock() < self._until or (self.failures and self._trying):
                return False
            self._trying = self.failures > 0
            return True

    def wait(self) -> float:
        """Seconds until `allow` may say yes, at least 0."""
        return max(0.0, self._until - self._clock())

    def succeed(self) -> None:
        """Record an answer."""
        with self._lock:
            self.failures, self._trying = 0, False

    def cancel(self) -> None:
        """Record that the request that `allow` let through was not needed."""
        with self._lock:
            self._trying = False

    def fail(self, retry_after: float | None = None) -> None:
        """Record a failure; wait at least `retry_after` seconds, where the server gave them."""
        with self._lock:
            self._trying = False
            self.failures += 1
            self.opened += self.failures == self.threshold
            wait = min(self.first_wait * 2.0 ** min(self.failures - 1, 20), self.longest_wait)
            wait *= self._random.uniform(0.5, 1.0)
            wait = max(wait, min(retry_after or 0.0, LONGEST_RETRY_AFTER))
            self._until = max(self._until, self._clock() + wait)

    def give_up(self) -> None:
        """Open the circuit for good: asking again cannot help."""
        with self._lock:
            self.failures, self._until = max(self.failures, self.threshold), float("inf")
            self._trying, self.opened = False, self.opened + 1
