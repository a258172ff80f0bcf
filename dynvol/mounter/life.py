"""One life of a FUSE client: its program, its private mount, its secrets.

A life starts, comes up, serves, and ends; what it was for, whether another follows, and what is said about it are the session's.
At its end the program is dead, the private mount and the secrets are gone. Its cache stays, for whoever is to look into that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from dynvol.api.mounts import WantedMount
from dynvol.mount import caches, fuse, syscalls
from dynvol.mount.errors import MountProblem, NotMounted
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.providers.contract import Client, Credentials, Finding, Place
from dynvol.observe import logs

from . import look, stage
from .process import Child
from .tools import Tools, first

_log: Final = logs.get(__name__)


class Life:
    """Of one client of `mount`. After `start`, `end` is owed."""

    def __init__(self, mount: WantedMount, client: Client, credentials: Credentials, number: int, tools: Tools) -> None:
        self.mount: Final = mount
        self.client: Final = client
        self.credentials: Final = credentials
        self.number: Final = number
        memory = tools.memory.take(mount.source, number)
        self.place: Final[Place] = tools.stage.place(mount.source, number=number, memory=memory)
        self.device: tuple[int, int] | None = None
        """Of the private mount, from when it first answered until the program died."""
        self._tools = tools
        self._command = client.command(self.place)
        self._child: Child | None = None

    def start(self) -> None:
        """Raises Cannot; then nothing was started, and `end` is owed all the same. OSError for a disk that is full, say."""
        caches.record(self._tools.stage.cache, self.mount)
        for directory in (self.place.mountpoint, self.place.cache):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        stage.write_secrets(self.place.secrets, self._command.files)
        if self._command.prepare is not None:
            self._command.prepare()
        self._child = look.start(self._command, self.place, self._tools.children)

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    async def come_up(self, *, unless: asyncio.Future[Any], slowly: Callable[[Finding], None]) -> bool:
        """Whether the mount came up: it is in the table under our name, and a statfs of it returns. False also when `unless` is
        done. `slowly` hears what the storage says if that takes long.

        The kernel shows a FUSE mount before its daemon has looked at anything. The first call into it is answered when the
        daemon has; that call may hang, so it is made in a thread, which returns at the latest when the daemon is killed.
        """
        timing, exited = self._tools.timing, self.child.exited
        answer = asyncio.ensure_future(self._first_answer())
        try:
            await first(answer, exited, unless, timeout=timing.slow)
            if not answer.done() and self.alive and not unless.done():
                if finding := await self.diagnose():
                    slowly(finding)
                await first(answer, exited, unless, timeout=timing.start - timing.slow)
            if answer.done() and (answer.result() is None or self.client.explain(self.child.output)):
                # It refused, and takes a moment to end. Some threads of s3fs go on answering meanwhile; but it complains first.
                await first(exited, unless, timeout=timing.leave)
            if answer.done() and self.alive and not unless.done():
                self.device = answer.result()
            return self.device is not None
        finally:
            answer.cancel()

    async def _first_answer(self) -> tuple[int, int] | None:
        """The device of the mount, once it answers; None if it answers with an error."""
        table = await self._tools.watcher.wait_for(lambda table: self._private(table) is not None)
        mount = self._private(table)
        assert mount is not None
        return mount.device if await self.statfs() else None

    def _private(self, table: MountTable) -> Mount | None:
        mount = table.at(self.place.mountpoint)
        return mount if mount is not None and mount.source == self.mount.source else None

    async def statfs(self) -> bool:
        """Whether the private mount answers, be it with an error. In a thread, which may hang as long as the client does."""
        try:
            await self._tools.executor.run(f"statfs {self.place.mountpoint} {self.child.pid}", os.statvfs, self.place.mountpoint)
        except OSError:
            return False
        return True

    async def diagnose(self) -> Finding | None:
        """What the storage says to a request of this client's; None if it has no complaint."""
        return await look.diagnose(self.client, self.place, self._tools)

    async def unflushed(self) -> int:
        return await self._tools.executor.run(f"cache {self.place.cache}", caches.waiting, self.place.cache, self.mount)

    def stop(self) -> None:
        """Ask the program to end. Unlike `end` this does not wait, and keeps what it said."""
        self.child.signal(signal.SIGTERM)

    def clear_private_mount(self) -> None:
        """Lazily, which blocks on nothing: no one but us can see it, and programs' open files keep it alive by themselves."""
        try:
            while True:
                syscalls.unmount(self.place.mountpoint, lazily=True)
        except NotMounted:
            with contextlib.suppress(OSError):
                os.rmdir(self.place.mountpoint)
        except MountProblem as problem:
            _log.error("a private mount stays", source=self.mount.source, error=str(problem))

    async def end(self) -> None:
        """Whatever became of it. May be repeated."""
        self.device = None
        try:
            if self._child is not None:
                await asyncio.shield(self._kill(self._child))
        finally:
            self._tools.memory.give_back(self.mount.source, self.number)
            self.clear_private_mount()
            stage.remove_secrets(self.place.secrets, self._command.files)

    async def _kill(self, child: Child) -> None:
        """A client that should be gone. One that hangs in the kernel ends with its connection."""
        patience = self._tools.timing.leave
        await look.end(child, patience=patience)
        if child.alive and (mount := self._private(self._tools.watcher.table)) is not None:
            fuse.abort_connection(mount.minor)
            await first(child.exited, timeout=patience)
        if child.alive:
            _log.error("a client cannot be killed", source=self.mount.source, pid=child.pid)
