"""One at a time per key, across controllers.

A controller's queue keeps a key from being with two workers of its own. Two controllers have the same keys here, the workloads: one
must not take a root away while the other is half way through making a mount pod for it.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Turns:
    """Locks by key. A lock that nobody holds or waits for is forgotten."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())
