"""What keeps requests in bounds: limits of a run, and a circuit breaker for a failing judge."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

Clock = Callable[[], float]

CHARACTERS_OF_A_TOKEN = 4
"""Characters of a token, roughly; for estimates, and where an endpoint does not count."""

LONGEST_RETRY_AFTER = 3600.0
"""Seconds to wait at most because a server asked for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what one run asks; None is no limit.

    A request that crosses a limit is the last; with several at once, those that are under way then.

    Args:
        calls: requests in all, failed ones included.
        tokens: tokens in all.
        calls_per_minute: requests in any 60 seconds.
        cost: money in all, in the unit of the prices.
        input_price: of a million tokens that are sent.
        output_price: of a million tokens that are answered.

    Raises:
        ValueError: for a limit or price below 0, or a limit of cost without prices.
    """

    calls: int | None = None
    tokens: int | None = None
    calls_per_minute: float | None = None
    cost: float | None = None
    input_price: float | None = None
    output_price: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 0:
                raise ValueError(f"the limit {field.name} is {value}, expected at least 0")
        if self.cost is not None and (self.input_price is None or self.output_price is None):
            raise ValueError(
                "max_cost needs the prices of a million tokens: give input_price and output_price"
            )

    def price(self, input_tokens: float, output_tokens: float) -> float:
        """Price of so many tokens; a price that is not given is 0."""
        paid = input_tokens * (self.input_price or 0.0) + output_tokens * (self.output_price or 0.0)
        return paid / 1e6

    @property
    def is_bounded(self) -> bool:
        """Whether requests, tokens or money are limited."""
        return any(limit is not None for limit in (self.calls, self.tokens, self.cost))

    def reached(self, calls: int, tokens: int, cost: float = 0.0) -> bool:
        """Whether a run that asked and paid so much must not make another request."""
        pairs = ((calls, self.calls), (tokens, self.tokens), (cost, self.cost))
        return any(limit is not None and value >= limit for value, limit in pairs)


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
