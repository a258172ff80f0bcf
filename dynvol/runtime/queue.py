"""The work queue: which keys want a worker, in what order, and when."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from .metrics import UNMEASURED, QueueMetrics

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    def __init__(self, *, name: str, metrics: QueueMetrics = UNMEASURED) -> None:
        raise NotImplementedError

    def add(self, key: K, *, later: bool = False) -> None:
        raise NotImplementedError

    def add_after(self, key: K, seconds: float) -> None:
        raise NotImplementedError

    def add_rate_limited(self, key: K, *, at_least: float = 0.0) -> None:
        raise NotImplementedError

    def forget(self, key: K) -> None:
        raise NotImplementedError

    def failures(self, key: K) -> int:
        raise NotImplementedError

    async def get(self) -> K:
        raise NotImplementedError

    def done(self, key: K) -> None:
        raise NotImplementedError

    def shut_down(self) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError
