"""At most one operation for each key (a volume, a path), and none that dies with its caller.

A client gives up a call after its deadline and calls again. The kernel's work goes on meanwhile, so work belongs to no call: it is
a task of this object, a repeated call joins it, and a caller that goes away only stops waiting. Nothing here survives the process;
what was done is in the mount table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from .errors import OperationPending, ShuttingDown

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Operation(Generic[T]):
    """`outcome` is set exactly once, by the task that does the work."""

    request: Hashable
    outcome: asyncio.Future[T]
    task: asyncio.Task[None] | None = None
    waiting: int = 0


class Operations:
    """Owns the tasks of all operations. On leaving, waits `grace` seconds for those in flight, then cancels them.

    Invariant: a key is in `_in_flight` from before its task's first step until after its last.
    """

    def __init__(self, *, grace: float = 20.0) -> None:
        self._grace = grace
        self._tasks = asyncio.TaskGroup()
        self._in_flight: dict[str, _Operation[Any]] = {}
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing = True
        tasks = {operation.task for operation in self._in_flight.values() if operation.task is not None}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._grace)
            for task in late:
                _log.warning("an operation did not end in time", extra={"operation": task.get_name()})
                task.cancel()
        # No task raises, so the group has nothing to say; told of `error` it would wrap it.
        await self._tasks.__aexit__(None, None, None)

    async def run(self, key: str, *, request: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` for `key`, or join it if the same `request` is being done already.

        Raises OperationPending while another request is being done for the key, ShuttingDown, and whatever `work` raises. If the
        caller is cancelled, the work goes on.
        """
        operation = self._in_flight.get(key)
        if operation is None:
            operation = self._begin(key, request, work)
        elif operation.request != request:
            raise OperationPending(f"another operation on {key} is under way; call again when it has ended")
        operation.waiting += 1
        try:
            return await asyncio.shield(operation.outcome)
        finally:
            operation.waiting -= 1

    def _begin(self, key: str, request: Hashable, work: Callable[[], Awaitable[T]]) -> _Operation[T]:
        if self._closing:
            raise ShuttingDown("dynvol is being stopped; call again")
        operation: _Operation[T] = _Operation(request, asyncio.get_running_loop().create_future())
        self._in_flight[key] = operation
        operation.task = self._tasks.create_task(self._perform(key, operation, work), name=f"operation on {key}")
        return operation

    async def _perform(self, key: str, operation: _Operation[T], work: Callable[[], Awaitable[T]]) -> None:
        try:
            operation.outcome.set_result(await work())
        except Exception as error:
            operation.outcome.set_exception(error)
            if not operation.waiting:
                operation.outcome.exception()  # Retrieved here: no one else will.
                _log.warning("an operation failed after its caller had gone", extra={"key": key, "error": str(error)})
        except asyncio.CancelledError:
            operation.outcome.cancel()
            raise
        finally:
            del self._in_flight[key]
