"""Turns changes of objects into calls of a reconcile function, one key at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from .informer import Informer
from .metrics import UNMEASURED, QueueMetrics, ReconcileMetrics
from .source import ObjectT


@dataclass(frozen=True, slots=True)
class Done:
    """The world is as it should be, until something changes."""


@dataclass(frozen=True, slots=True)
class RequeueAfter:
    """Look again in so many seconds, whether or not something changes."""

    seconds: float


Result: TypeAlias = Done | RequeueAfter
DONE = Done()

Reconcile: TypeAlias = Callable[[str], Awaitable[Result]]


class Controller:
    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int = 2,
        deadline: float = 60.0,
        sync_deadline: float = 120.0,
        metrics: ReconcileMetrics = UNMEASURED,
        queue_metrics: QueueMetrics = UNMEASURED,
    ) -> None:
        raise NotImplementedError

    def watch(self, informer: Informer[ObjectT], keys: Callable[[ObjectT], Iterable[str]]) -> None:
        """Enqueue what `keys` says of an object's old and new state whenever it changes."""
        raise NotImplementedError

    def enqueue(self, key: str, *, after: float = 0.0) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError
