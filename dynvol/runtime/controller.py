"""Turns changes of objects into calls of a reconcile function, one key at a time.

A reconcile is given a key and nothing else. It looks at the caches for what is wanted, makes the world so, and says when it
wants to be called again. It is not told what woke it: a reconcile that depends on that breaks when two events become one, or
when the process was away. An object that is not there (any more) is no error; it is something to clean up after.

The controller runs no informers. It waits for those that it watches, and has no opinion on who else does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .backoff import Limiter
from .errors import Contended, QueueShutDown, SyncTimeout, TerminalError, Throttled
from .informer import Informer
from .metrics import UNMEASURED, QueueMetrics, ReconcileMetrics
from .queue import WorkQueue
from .source import ObjectT
from .store import Change

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """The world is as it should be, until something changes."""


@dataclass(frozen=True, slots=True)
class RequeueAfter:
    """Look again in so many seconds, whether or not something changes."""

    seconds: float


Result: TypeAlias = Done | RequeueAfter
DONE = Done()

AFTER_CONTENTION = 1.0
"""Seconds. No longer ones, however often it happens: who is slowed down loses all the more."""

Reconcile: TypeAlias = Callable[[str], Awaitable[Result]]


class Synced(Protocol):
    """What a controller needs before it starts."""

    name: str

    @property
    def has_synced(self) -> bool: ...

    async def synced(self) -> None: ...


class Removable(Protocol):
    def remove(self) -> None: ...


class Controller:
    """Workers around a queue. Say what to `watch`, then `run` once."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int = 2,
        deadline: float = 60.0,
        sync_deadline: float | None = 120.0,
        limiter: Limiter[str] | None = None,
        metrics: ReconcileMetrics = UNMEASURED,
        queue_metrics: QueueMetrics = UNMEASURED,
    ) -> None:
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._active = 0
        self._deadline = deadline
        self._sync_deadline = sync_deadline
        self._metrics = metrics
        self._queue: WorkQueue[str] = WorkQueue(name=name, limiter=limiter, metrics=queue_metrics)
        self._awaited: dict[Synced, None] = {}
        self._registrations: list[Removable] = []
        metrics.workers(name, active=0, limit=workers)

    def watch(
        self,
        informer: Informer[ObjectT],
        keys: Callable[[ObjectT], Iterable[str]],
        *,
        when: Callable[[Change[ObjectT]], bool] | None = None,
    ) -> None:
        """Enqueue what `keys` makes of an object whenever that changes: of its old state and of its new.

        Both, because whoever an object no longer belongs to has as much to do about it as whoever it belongs to now. `when` can
        say that a change is none that matters. What was there at first waits behind what happens.
        """

        def of_both(change: Change[ObjectT]) -> Iterable[str]:
            states = (state for state in (change.old, change.new) if state is not None)
            return (key for state in states for key in keys(state)) if when is None or when(change) else ()

        self.watch_changes(informer, of_both)

    def watch_changes(self, informer: Informer[ObjectT], keys: Callable[[Change[ObjectT]], Iterable[str]]) -> None:
        """As `watch`, where it takes both states of an object to tell whom a change concerns."""
        self._awaited[informer] = None

        def enqueue(change: Change[ObjectT]) -> None:
            for key in dict.fromkeys(keys(change)):
                self._queue.add(key, later=change.initial)

        self._registrations.append(informer.add_handler(enqueue))

    def enqueue(self, key: str, *, after: float = 0.0) -> None:
        """Reconcile `key` in so many seconds at the latest; sooner, and then not again, if something else asks for it."""
        self._queue.add_after(key, after)

    def shut_down(self) -> None:
        """Finish what is queued and end `run`. To end at once, cancel that."""
        self._queue.shut_down()

    async def run(self) -> None:
        """Wait for the caches, then work. Raises `SyncTimeout` where they take longer than `sync_deadline`; None: never."""
        try:
            await self._caches()
            log.info("starting workers", extra={"controller": self.name, "workers": self._workers})
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"{self.name}-worker-{number}")
        finally:
            # The informers may outlive this: a leader's controllers end with its term.
            for registration in self._registrations:
                registration.remove()

    async def _caches(self) -> None:
        try:
            async with asyncio.timeout(self._sync_deadline):
                for informer in self._awaited:
                    await informer.synced()
        except TimeoutError:
            missing = ", ".join(informer.name for informer in self._awaited if not informer.has_synced)
            raise SyncTimeout(
                f"{self.name}: no first list of {missing} in {self._sync_deadline} s; the log says what list and watch met"
            ) from None

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except QueueShutDown:
                return
            try:
                await self._run(key)
            finally:
                self._queue.done(key)
            # Neither a queue that is not empty nor a reconcile that finds all in its caches lets go of the loop by itself.
            await asyncio.sleep(0)

    async def _run(self, key: str) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        self._busy(+1)
        try:
            outcome = await self._attempt(key)
        finally:
            self._busy(-1)
        self._metrics.reconciled(self.name, result=self._settle(key, outcome), seconds=clock() - began)

    async def _attempt(self, key: str) -> Result | BaseException:
        """What the reconcile returned, or why it did not. Raises only if this worker is told to stop."""
        try:
            async with asyncio.timeout(self._deadline) as limit:
                return await self._reconcile(key)
        except asyncio.CancelledError as error:
            if _told_to_stop():
                raise
            # Something that the reconcile awaited was cancelled by another. That is a failure like any; taken for an order to stop,
            # it would end this worker, and nobody would know: a task group does not mind a cancelled child.
            return error
        except TimeoutError as error:
            return TimeoutError(f"not done in {self._deadline:.0f} s") if limit.expired() else error
        except Exception as error:  # the edge: logged and retried below
            return error

    def _settle(self, key: str, outcome: Result | BaseException) -> str:
        """Say to the queue what comes next; returns the label for the metric."""
        match outcome:
            case Done():
                self._queue.forget(key)
                return "success"
            case RequeueAfter(seconds):
                self._queue.forget(key)
                self._queue.add_after(key, seconds)
                return "requeue_after"
            case Contended():
                self._queue.forget(key)
                self._queue.add_after(key, AFTER_CONTENTION)
                log.info("made again", extra={"controller": self.name, "key": key, "why": str(outcome)})
                return "requeue_after"
            case BaseException() if _is_terminal(outcome):
                self._queue.forget(key)
                self._log_failure("gave up until something changes", key, outcome)
                return "terminal"
            case BaseException():
                self._queue.add_rate_limited(key, at_least=outcome.retry_after if isinstance(outcome, Throttled) else 0.0)
                self._log_failure("reconcile failed", key, outcome)
                return "error"

    def _log_failure(self, message: str, key: str, error: BaseException) -> None:
        fields = {
            "controller": self.name,
            "key": key,
            "failures": self._queue.failures(key),
            "error": f"{type(error).__name__}: {error}",
        }
        log.error(message, extra=fields, exc_info=error)

    def _busy(self, change: int) -> None:
        self._active += change
        self._metrics.workers(self.name, active=self._active, limit=self._workers)


def _told_to_stop() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_terminal(error: BaseException) -> bool:
    """Also where a task group of the reconcile wrapped it; not if anything in there is worth a retry."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_terminal(part) for part in error.exceptions)
    return isinstance(error, TerminalError)
