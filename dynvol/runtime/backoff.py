"""How long to wait before trying again. Clocks and chance are given from outside; nothing here sleeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)
K_contra = TypeVar("K_contra", bound=Hashable, contravariant=True)

Clock: TypeAlias = Callable[[], float]
"""Seconds that never go back. The zero means nothing."""

Chance: TypeAlias = Callable[[], float]
"""From 0 up to, and without, 1: `random.random`, or what a test says."""

LARGEST_EXPONENT = 1023
"""2.0 to a higher power is no float, and raises OverflowError. A key that has failed for weeks gets there."""


def loop_time() -> float:
    """The running loop's clock: monotonic, and virtual in tests."""
    return asyncio.get_running_loop().time()


def exponential(doublings: int, *, base: float, cap: float) -> float:
    """`base` doubled so often, at most `cap`."""
    return min(cap, base * 2.0 ** min(doublings, LARGEST_EXPONENT))


class Backoff:
    """One party's growing delays: 0.8 s, doubled to 30 s, back to the start after two quiet minutes.

    Each delay is stretched by chance up to twofold, so that those who lost a server together do not come back together. The figures
    are those of client-go's reflector (`tools/cache/reflector.go`).
    """

    def __init__(
        self,
        *,
        base: float = 0.8,
        cap: float = 30.0,
        quiet: float = 120.0,
        clock: Clock = loop_time,
        chance: Chance = random.random,
    ) -> None:
        self._base = base
        self._cap = cap
        self._quiet = quiet
        self._clock = clock
        self._chance = chance
        self._doublings = 0
        self._last_end = float("-inf")

    def next(self) -> float:
        """Seconds to wait now."""
        now = self._clock()
        if now - self._last_end > self._quiet:
            self._doublings = 0
        delay = exponential(self._doublings, base=self._base, cap=self._cap) * (1.0 + self._chance())
        self._doublings += 1
        # Quiet is what comes after the wait; the wait itself is no sign of health.
        self._last_end = now + delay
        return delay


class Limiter(Protocol[K_contra]):
    """Says when a key that failed may be tried again."""

    def failed(self, key: K_contra) -> float:
        """Count one more failure; seconds to wait."""

    def forget(self, key: K_contra) -> None:
        """The key is well, or gone: its next failure is its first."""

    def failures(self, key: K_contra) -> int: ...


class TokenBucket:
    """So many a second over time, and a burst at once. One who comes too early may come, and is told how long to wait."""

    def __init__(self, *, rate: float = 10.0, burst: float = 100.0, clock: Clock = loop_time) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        # Below zero: that many are waiting for theirs.
        self._tokens = burst
        self._filled_at: float | None = None

    def reserve(self) -> float:
        """Take one token; seconds until it is there."""
        now = self._clock()
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)


class RetryLimiter(Generic[K]):
    """Each key's failures back off on their own, 5 ms doubled up to `cap`, and all keys together keep to a token bucket.

    client-go's default (`workqueue/default_rate_limiters.go`) but for the cap, which is 1000 s there. On a node somebody waits
    for a mount; and what would be overrun is the API server, which the bucket is for.
    """

    def __init__(self, *, base: float = 0.005, cap: float = 30.0, bucket: TokenBucket | None = None) -> None:
        self._base = base
        self._cap = cap
        self._bucket = bucket if bucket is not None else TokenBucket()
        self._failures: dict[K, int] = {}

    def failed(self, key: K) -> float:
        before = self._failures.get(key, 0)
        self._failures[key] = before + 1
        return max(exponential(before, base=self._base, cap=self._cap), self._bucket.reserve())

    def forget(self, key: K) -> None:
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)
