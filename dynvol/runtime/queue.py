"""The work queue: which keys want a worker, in what order, and when.

A key in the queue says that something about it may have changed, not what. So many adds are one run, and a key that is added
while a worker has it runs once more when that worker is done. Nobody works on a key that another works on, and nothing that
happened is missed.

A key has at most one run ahead of it, and the earliest that was asked for is the one:

- an immediate add takes the place of a delayed one;
- a delayed add to a key that is already waiting for a worker is dropped;
- of two delayed ones the earlier stays.

client-go's delaying queue runs twice in the first two cases; kube-rs' scheduler and controller-runtime's priority queue run
once. That suits those who say at the end of *each* run when they want the next one, and it keeps a busy key from collecting a
trail of timers.

The queue does not know what is done with a key, nor whether that went well.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from .backoff import Clock, Limiter, RetryLimiter, loop_time
from .errors import QueueShutDown
from .metrics import UNMEASURED, QueueMetrics

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """First in, first out, without doubles.

    `get` and `done` come in pairs. All else is immediate and may be called from anywhere on the loop. Adds and gets cost O(1),
    delayed adds O(log n).
    """

    def __init__(
        self,
        *,
        name: str,
        limiter: Limiter[K] | None = None,
        metrics: QueueMetrics = UNMEASURED,
        clock: Clock = loop_time,
    ) -> None:
        self.name = name
        self._limiter: Limiter[K] = limiter if limiter is not None else RetryLimiter()
        self._metrics = metrics
        self._clock = clock
        # What wants a worker, and since when. It is queued or it is processing.
        self._dirty: dict[K, float] = {}
        # What a worker has, and since when. It may be dirty as well; then it is queued when the worker is done.
        self._processing: dict[K, float] = {}
        # The order in which to run. What is here is dirty and not processing, and in one of the two. An OrderedDict for a line that
        # one can also step out of; a plain dict would search its own gaps on each pop.
        self._queued: OrderedDict[K, None] = OrderedDict()
        self._queued_later: OrderedDict[K, None] = OrderedDict()
        # What will be added in time. None of it is dirty.
        self._delayed: dict[K, asyncio.TimerHandle] = {}
        # Those who wait in `get`, in line. Each future is pending, or cancelled and its getter about to leave.
        self._getters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._shutting_down = False
        metrics.register(name, self)

    def add(self, key: K, *, later: bool = False) -> None:
        """The key wants a worker now, or, with `later`, when no other does. Nothing happens after `shut_down`."""
        if self._shutting_down:
            return
        self._cancel_delay(key)
        if key in self._dirty:
            if not later and key in self._queued_later:
                del self._queued_later[key]
                self._queued[key] = None
            return
        self._dirty[key] = self._clock()
        self._metrics.added(self.name)
        if key not in self._processing:
            self._enqueue(key, later=later)

    def add_after(self, key: K, seconds: float) -> None:
        """The key wants a worker in so many seconds at the latest. Without a delay it is `add`."""
        if self._shutting_down:
            return
        if not seconds > 0.0:
            self.add(key)
            return
        if key in self._dirty:
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if (pending := self._delayed.get(key)) is not None:
            if pending.when() <= when:
                return
            pending.cancel()
        self._delayed[key] = loop.call_at(when, self._due, key)

    def add_rate_limited(self, key: K, *, at_least: float = 0.0) -> None:
        """The key failed: add it when the limiter says so, and not before `at_least` seconds."""
        self._metrics.retried(self.name)
        self.add_after(key, max(self._limiter.failed(key), at_least))

    def forget(self, key: K) -> None:
        """Clear the key's failures. It stays where it is: this is no `done`, and takes back no add."""
        self._limiter.forget(key)

    def failures(self, key: K) -> int:
        """How often it failed since it was last forgotten."""
        return self._limiter.failures(key)

    async def get(self) -> K:
        """The next key, which is the caller's alone until `done`. Raises `QueueShutDown` when there will be none any more."""
        while not (self._queued or self._queued_later):
            if self._shutting_down:
                raise QueueShutDown(self.name)
            await self._wake_up()
        key, _ = (self._queued or self._queued_later).popitem(last=False)
        now = self._clock()
        self._metrics.waited(self.name, now - self._dirty.pop(key))
        self._processing[key] = now
        return key

    def done(self, key: K) -> None:
        """The worker is through with the key, however that went. Whoever got a key must come here."""
        began = self._processing.pop(key)
        self._metrics.worked(self.name, self._clock() - began)
        if key in self._dirty:
            self._enqueue(key, later=False)

    def shut_down(self) -> None:
        """Take nothing more. Getters are given what is queued, and what `done` queues, and then end. Delayed adds are off."""
        self._shutting_down = True
        for handle in self._delayed.values():
            handle.cancel()
        self._delayed.clear()
        for _ in range(len(self._getters)):
            self._wake_one()

    def __len__(self) -> int:
        """Keys that could be had at once."""
        return len(self._queued) + len(self._queued_later)

    @property
    def depth(self) -> int:
        return len(self._dirty)

    @property
    def unfinished_work_seconds(self) -> float:
        now = self._clock()
        return sum(now - began for began in self._processing.values())

    @property
    def longest_running_processor_seconds(self) -> float:
        now = self._clock()
        return max((now - began for began in self._processing.values()), default=0.0)

    def _enqueue(self, key: K, *, later: bool) -> None:
        (self._queued_later if later else self._queued)[key] = None
        self._wake_one()

    def _due(self, key: K) -> None:
        del self._delayed[key]
        self.add(key)

    def _cancel_delay(self, key: K) -> None:
        if (handle := self._delayed.pop(key, None)) is not None:
            handle.cancel()

    def _wake_one(self) -> None:
        while self._getters:
            getter, _ = self._getters.popitem(last=False)
            if not getter.done():
                getter.set_result(None)
                return

    async def _wake_up(self) -> None:
        """Wait for a wake-up: it is worth looking again, though a newcomer may have been quicker."""
        getter = asyncio.get_running_loop().create_future()
        self._getters[getter] = None
        try:
            await getter
        except asyncio.CancelledError:
            if getter.cancelled():
                self._getters.pop(getter, None)
            else:
                # Woken and cancelled before it could run. The wake-up was for a key, and the key still wants somebody.
                self._wake_one()
            raise
