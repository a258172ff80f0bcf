"""One life of a client: its program, its private mount, its secrets.

A life starts, comes up, serves, and ends; what it was for, whether another follows, and what is said about it are the session's.
At its end the program is dead, the private mount and the secrets are gone. Its cache stays, for whoever is to look into that.

A mount that the kernel serves itself (`Command.in_kernel`) is not so forgiving as one of FUSE: no end of a program ends what waits
for its server. No thread of ours ever asks such a file system anything, or drops the last reference to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any, Final

from dynvol.api.mounts import WantedMount
from dynvol.mount import caches, fuse, mountinfo, nfs, syscalls
from dynvol.mount.errors import MountProblem, NotMounted
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.providers.contract import Client, Credentials, Finding, Place
from dynvol.observe import logs

from . import look, stage
from .process import Child
from .tools import Tools, first

_log: Final = logs.get(__name__)

_STAT: Final = "/usr/bin/stat"
SOME: Final = -1
"""Instead of a number of files, where nobody counts them."""


class Life:
    """Of one client of `mount`; those with `newer` numbers took its place. After `start`, `end` is owed."""

    def __init__(
        self,
        mount: WantedMount,
        client: Client,
        credentials: Credentials,
        number: int,
        tools: Tools,
        *,
        newer: Iterable[int] = (),
    ) -> None:
        self.mount: Final = mount
        self.client: Final = client
        self.credentials: Final = credentials
        self.number: Final = number
        memory = tools.memory.take(mount.source, number)
        self.place: Final[Place] = tools.stage.place(mount.source, number=number, memory=memory, newer=newer)
        self.device: tuple[int, int] | None = None
        """Of the private mount, from when it first answered until the program died."""
        self._tools = tools
        self._command = client.command(self.place)
        self._child: Child | None = None
        self._table_before: MountTable | None = None
        """The watched one at the start: late as it is, it may still show the mount of the life before, which had the same place."""
        self._asked: dict[str, Child] = {}
        """Programs that ask the kernel in our stead, by their question: while one hangs there is no second."""

    def start(self) -> None:
        """Raises Cannot; then nothing was started, and `end` is owed all the same. OSError for a disk that is full, say."""
        self._table_before = self._tools.watcher.table
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

    @property
    def in_kernel(self) -> bool:
        return self._command.in_kernel

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
        table = await self._tools.watcher.wait_for(
            lambda table: table is not self._table_before and self._private(table) is not None
        )
        mount = self._private(table)
        assert mount is not None
        return mount.device if await self.statfs() else None

    def _private(self, table: MountTable) -> Mount | None:
        mount = table.at(self.place.mountpoint)
        wanted = self._command.source or self.place.source
        return mount if mount is not None and mount.source == wanted else None

    async def statfs(self) -> bool:
        """Whether the private mount answers; with an error, it does not. In a thread, which may hang as long as the client does."""
        if self.in_kernel:
            return await self._ask("statfs", _STAT, "-f", "--", self.place.mountpoint)
        try:
            await self._tools.executor.run(f"statfs {self.place.mountpoint} {self.child.pid}", os.statvfs, self.place.mountpoint)
        except OSError:
            return False
        return True

    def holds_requests(self) -> bool:
        """Whether programs wait for the client at this moment, as far as the kernel tells."""
        return self.device is not None and fuse.requests_waiting(self.device[1]) != 0

    async def diagnose(self) -> Finding | None:
        """What the storage says to a request of this client's; None if it has no complaint."""
        return await look.diagnose(self.client, self.place, self._tools)

    async def _ask(self, question: str, *argv: str) -> bool:
        """Whether a program ends with 0. Whoever does not wait for its end leaves it to the next who asks."""
        child = self._asked.get(question)
        if child is None:
            child = self._asked[question] = self._tools.children.start(argv, environment={"LC_ALL": "C"})
        await first(child.exited)
        self._asked.pop(question, None)
        return child.exited.result() == 0

    async def unflushed(self) -> int:
        """How many closed files are not in the storage; SOME, where that cannot be told apart."""
        if self.in_kernel:
            return 0 if self._command.read_only or await self._synced() else SOME
        return await self._tools.executor.run(f"cache {self.place.cache}", caches.waiting, self.place.cache, self.mount)

    async def written_to(self) -> bool:
        """Whether programs have files open that they may still write to, as far as a cache shows it."""
        return self.alive and await self._tools.executor.run(
            f"cache {self.place.cache}", caches.in_use, self.place.cache, pid=self.child.pid
        )

    def hold(self) -> None:
        """Let no one have an answer until `go_on`. Who asks meanwhile waits, and can be killed. The kernel cannot be held."""
        if not self.in_kernel:
            self.child.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.child.signal(signal.SIGCONT)

    def forget(self) -> None:
        """Have the program look anew at what it knows of the storage's directories, if it can."""
        if self._command.forgets_on is not None:
            self.child.signal(self._command.forgets_on)

    def stop(self) -> None:
        """Ask the program to end. Unlike `end` this does not wait, and keeps what it said."""
        self.child.signal(signal.SIGTERM)

    async def _synced(self) -> bool:
        """Whether the server has all that was written, as far as it says so soon."""
        try:
            async with asyncio.timeout(self._tools.timing.patience):
                return await self._ask("sync", *nfs.command("sync", self.place.mountpoint))
        except TimeoutError:
            return False

    def clear_private_mount(self) -> None:
        """Lazily, which blocks on nothing: no one but us can see it, and programs' open files keep it alive by themselves."""
        if self.in_kernel:
            self.stop()
            return
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
                self.go_on()
                await asyncio.shield(self._kill(self._child))
        finally:
            self._tools.memory.give_back(self.mount.source, self.number)
            await asyncio.shield(self._clear_kernels_mount()) if self.in_kernel else self.clear_private_mount()
            stage.remove_secrets(self.place.secrets, self._command.files)

    async def _clear_kernels_mount(self) -> None:
        """A client that was asked to end has unmounted, and one that never mounted has nothing to. Programs that still ask are let
        go of last: what they wait for fails with the mount."""
        place, run = self.place.mountpoint, self._tools.executor.run
        if mountinfo.read().at(place) is not None and not await run(f"take away {place}", nfs.take_away, place):
            _log.error("a private mount stays", source=self.mount.source)
        for child in tuple(self._asked.values()):
            await look.end(child, patience=self._tools.timing.leave)
        self._asked.clear()
        with contextlib.suppress(OSError):
            os.rmdir(place)

    async def _kill(self, child: Child) -> None:
        """A client that should be gone. One that hangs in the kernel ends with its connection."""
        patience = self._tools.timing.leave
        await look.end(child, patience=patience)
        # Read now: a number out of an older table may be another client's connection by this time.
        if child.alive and not self.in_kernel and (mount := self._private(mountinfo.read())) is not None:
            fuse.abort_connection(mount.minor)
            await first(child.exited, timeout=patience)
        if child.alive:
            _log.error("a client cannot be killed", source=self.mount.source, pid=child.pid)
