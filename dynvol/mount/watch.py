"""Wait for the mount table to change.

The kernel marks an open /proc/self/mountinfo with POLLPRI and POLLERR at each mount, unmount and move. So nothing polls, and
a mount that appears is known within a millisecond. A change of propagation alone, or a remount, is not announced.

An event loop waits for readable and writable only; so the file sits in an epoll instance of its own, and the loop waits for
that to become readable. Nested like this, the kernel counts a change as seen when the *loop* asks: the inner instance may
have nothing left to say. Its answer is therefore thrown away, and being called is the news.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from dynvol.mount import mountinfo
from dynvol.mount.mountinfo import MountTable

_QUIET: Final = 0.005
"""Seconds to wait for more after a change: a recursive bind or a container's start is dozens of mounts in one burst."""
_SHARE: Final = 10
"""Readings are this many times their own length apart, so that a long table that never rests does not fill the loop."""


class MountWatcher:
    """The present mount table, and its changes. An async context manager.

    Any number of tasks may wait; each sees every state it did not ask past, though not every state there was: changes that
    come in a burst are one change. `table` is a few milliseconds late, more where the table is thousands of lines long.
    """

    def __init__(self, path: str = mountinfo.SELF, *, quiet: float = _QUIET) -> None:
        self._path: Final = path
        self._quiet: Final = quiet
        self._fd = -1
        self._epoll: select.epoll | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cost = 0.0
        """Seconds that the last reading took."""
        self._table = MountTable(())
        self._news: asyncio.Future[None] | None = None
        """Waited for by all who want the next table; replaced each time."""

    @property
    def table(self) -> MountTable:
        return self._table

    async def __aenter__(self) -> Self:
        # Opened before the first reading: what changes in between is then an event, not a gap.
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._fd, select.EPOLLPRI | select.EPOLLERR)
        self._loop = asyncio.get_running_loop()
        self._news = self._loop.create_future()
        self._table = mountinfo.read(self._path)
        self._loop.add_reader(self._epoll.fileno(), self._on_change)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._epoll is not None
        self._loop.remove_reader(self._epoll.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._epoll.close()
        os.close(self._fd)
        news, self._news = self._news, None
        if news is not None:
            news.cancel()

    async def newer_than(self, table: MountTable) -> MountTable:
        """The present table as soon as it is not `table`. In a loop, with the last answer handed back in, no change is lost."""
        while self._table is table:
            if self._news is None:
                raise RuntimeError("the watcher is closed")
            await asyncio.shield(self._news)
        return self._table

    async def wait_for(self, predicate: Callable[[MountTable], bool], *, timeout: float | None = None) -> MountTable:
        """The first table that the predicate holds for, the present one included. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            table = self._table
            while not predicate(table):
                table = await self.newer_than(table)
            return table

    def _on_change(self) -> None:
        assert self._epoll is not None
        self._epoll.poll(0)
        if self._timer is None:
            self._timer = self._loop.call_later(max(self._quiet, _SHARE * self._cost), self._read)

    def _read(self) -> None:
        """Read the table, which no mount can hold up, and tell those who wait."""
        self._timer = None
        news, self._news = self._news, self._loop.create_future()
        assert news is not None
        start = self._loop.time()
        try:
            self._table = mountinfo.read(self._path)
        except OSError as error:
            news.set_exception(error)
        else:
            self._cost = self._loop.time() - start
            news.set_result(None)
