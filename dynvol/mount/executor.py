"""Blocking mount work, off the event loop, as calls that outlive whoever asked.

A gRPC deadline cancels the handler while the thread's mount(2) goes on; kubelet then asks again. So work belongs to its key,
not to its caller: a caller that is cancelled leaves it running, and the same call made again joins it. Calls for one key run
one after another, in the order in which they came.

Threads are bounded, and are daemons: one that hangs in the kernel holds up its own key, and neither the others nor the
end of the process. Python's own pool waits for all of its threads at exit, which is why it is not used. A few that have
nothing to do are kept, since starting one takes longer than most of the work.
Not here: deadlines of callers (asyncio.timeout around `run`), and retries.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from dynvol.mount.errors import ExecutorClosed, ExecutorSaturated

P = ParamSpec("P")
T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_KEPT: Final = 4
"""Threads with nothing to do."""


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """Numbers of now, and totals since the start. A call is `stuck` when it runs longer than `stuck_after` seconds."""

    running: int
    waiting: int
    stuck: int
    finished: int
    failed: int
    joined: int


@dataclass(eq=False, slots=True)
class _Call:
    """One piece of work. `outcome` is a future that no caller's cancellation reaches."""

    key: str
    function: Callable[..., Any]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    outcome: asyncio.Future[Any]
    worker: _Worker | None = None
    """Whose thread runs it. None: it waits for its key's turn, or for a thread."""
    started: float = 0.0
    waiters: int = 0

    def is_same(self, function: Callable[..., Any], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
        return not self.outcome.done() and self.function == function and self.arguments == arguments


class _Worker:
    """A thread that does one call after another, until it is told to end. It is given the next when it is done with the last."""

    def __init__(self, perform: Callable[[_Call], None], *, number: int) -> None:
        self._calls: Final = queue.SimpleQueue[_Call | None]()
        self._perform: Final = perform
        threading.Thread(target=self._work, name=f"mount-{number}", daemon=True).start()

    def give(self, call: _Call | None) -> None:
        """None ends the thread."""
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            self._perform(call)
            del call  # what it holds is not kept until the next one comes


class MountExecutor:
    """An async context manager. On exit it takes no more calls, waits up to `drain` seconds for those in flight, and leaves
    behind, named in the log, the threads that are still stuck then."""

    def __init__(self, *, threads: int = 16, drain: float = 10.0, stuck_after: float = 30.0) -> None:
        self._threads: Final = threads
        self._drain: Final = drain
        self._stuck_after: Final = stuck_after
        self._last: Final[dict[str, _Call]] = {}
        """The newest call of each key that has one in flight. A repeated call may join this one only: joining an older one
        would let a publish that came after an unpublish report the publish before it."""
        self._in_flight: Final[set[_Call]] = set()
        """All whose outcome is not settled. No task stands behind a call: what is next is decided when another one ends, which
        costs kubelet's calls less."""
        self._running: Final[set[_Call]] = set()
        self._due: Final[collections.deque[_Call]] = collections.deque()
        """Those whose key's turn has come, and for which there is no thread yet."""
        self._idle: Final[list[_Worker]] = []
        self._started = 0
        self._finished = self._failed = self._joined = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        try:
            if self._in_flight:
                await asyncio.wait([call.outcome for call in self._in_flight], timeout=self._drain)
        finally:
            self._due.clear()
            for call in tuple(self._in_flight):
                self._leave_behind(call)
            for worker in self._idle:
                worker.give(None)
            self._idle.clear()

    async def run(self, key: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `function(*args, **kwargs)`, run in a thread, after all earlier calls for `key`.

        Joins the newest call for `key` if it is the same function with equal arguments and has not ended. Raises what the
        function raises, ExecutorClosed, and ExecutorSaturated when every thread is stuck.
        """
        arguments = (args, kwargs)
        call = self._last.get(key)
        if call is not None and call.is_same(function, arguments):
            self._joined += 1
        else:
            call = self._begin(key, function, arguments, before=call)
        call.waiters += 1
        try:
            result: T = await asyncio.shield(call.outcome)
            return result
        finally:
            call.waiters -= 1

    @property
    def stats(self) -> ExecutorStats:
        return ExecutorStats(
            running=len(self._running),
            waiting=len(self._in_flight) - len(self._running),
            stuck=len(self.stuck()),
            finished=self._finished,
            failed=self._failed,
            joined=self._joined,
        )

    def stuck(self) -> tuple[str, ...]:
        """The keys whose call runs longer than `stuck_after` seconds."""
        horizon = self._loop.time() - self._stuck_after
        return tuple(call.key for call in self._running if call.started <= horizon)

    def _begin(
        self, key: str, function: Callable[..., Any], arguments: tuple[tuple[Any, ...], dict[str, Any]], *, before: _Call | None
    ) -> _Call:
        if self._closed:
            raise ExecutorClosed(f"no more mount work is begun ({key})")
        if len(self.stuck()) >= self._threads:
            raise ExecutorSaturated(f"all {self._threads} threads hang in the kernel; first: {self.stuck()[0]}")
        call = _Call(key, function, arguments, self._loop.create_future())
        call.outcome.add_done_callback(lambda outcome: self._settle(call, outcome))
        self._last[key] = call
        self._in_flight.add(call)
        if before is None:
            self._turn_comes(call)
        else:
            before.outcome.add_done_callback(lambda _: self._turn_comes(call))
        return call

    def _turn_comes(self, call: _Call) -> None:
        """The calls before it, for its key, have ended."""
        if call in self._in_flight:
            self._due.append(call)
            self._start_due()

    def _start_due(self) -> None:
        while self._due and len(self._running) < self._threads:
            call = self._due.popleft()
            call.started = self._loop.time()
            call.worker = self._worker()
            self._running.add(call)
            call.worker.give(call)

    def _worker(self) -> _Worker:
        if self._idle:
            return self._idle.pop()
        self._started += 1
        return _Worker(self._work, number=self._started)

    def _dismiss(self, worker: _Worker, *, hangs: bool) -> None:
        """The one that hangs ends when its call does."""
        if hangs or self._closed or len(self._idle) >= _KEPT:
            worker.give(None)
        else:
            self._idle.append(worker)

    def _work(self, call: _Call) -> None:
        """In the thread."""
        args, kwargs = call.arguments
        try:
            result, error = call.function(*args, **kwargs), None
        except BaseException as raised:  # whatever it is, it belongs to those who wait, not to the thread
            result, error = None, raised
        try:
            self._loop.call_soon_threadsafe(_hand_over, call.outcome, result, error)
        except RuntimeError:
            _log.warning("mount work ended after the event loop", extra={"key": call.key, "work": _name(call)})

    def _leave_behind(self, call: _Call) -> None:
        if hangs := not call.outcome.done():
            _log.warning("mount work did not end in time, left behind", extra={"key": call.key, "work": _name(call)})
            # Those who still wait were not cancelled themselves, and must not think so.
            _hand_over(call.outcome, None, ExecutorClosed(f"mount work was left behind at the end ({call.key})"))
        self._settle(call, call.outcome, hangs=hangs)

    def _settle(self, call: _Call, outcome: asyncio.Future[Any], *, hangs: bool = False) -> None:
        """The thread, unless it hangs, is free for the next."""
        if call not in self._in_flight:
            return
        self._in_flight.discard(call)
        self._running.discard(call)
        if self._last.get(call.key) is call:
            del self._last[call.key]
        if call.worker is not None:
            self._dismiss(call.worker, hangs=hangs)
            self._start_due()
        if outcome.cancelled():
            return
        self._finished += 1
        if (error := outcome.exception()) is not None:
            self._failed += 1
            if call.waiters == 0:
                _log.warning("mount work failed, and no one waits for it any more", extra={"key": call.key, "error": str(error)})


def _hand_over(outcome: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)


def _name(call: _Call) -> str:
    return getattr(call.function, "__qualname__", repr(call.function))
