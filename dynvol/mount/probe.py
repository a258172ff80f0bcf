"""Is a mount alive? The one question that the mount table does not answer.

Whoever asks a file system may wait for ever, in a state that no signal ends. So the question is put by a process of its own
(`stat -f`, one statfs(2)), which can be killed, or if not even that, abandoned; never by a thread of ours, which can not.
At most one probe of a file system is under way: while it hangs, the answer is STUCK at once, and no second is sent after it.

Why statfs: every FUSE daemon answers it from memory, so that a yes costs no request to the storage; listing a bucket of
millions would. Why `stat` and not a Python child: 1 ms and under 1 MiB against 10 ms and 9 MiB, measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, Self

from dynvol.mount.mountinfo import Mount

_STAT: Final = "/usr/bin/stat"
_ENVIRONMENT: Final = {"LC_ALL": "C"}
_AFTER_KILL: Final = 0.2
"""Seconds that a killed probe gets to go. One that waits in the kernel unkillably does not."""
_DETAIL_LIMIT: Final = 512

_log: Final = logging.getLogger(__name__)


class Liveness(Enum):
    ALIVE = "alive"
    DEAD = "dead"
    """It answers, with an error: ENOTCONN after a FUSE daemon died."""
    STUCK = "stuck"
    """No answer within the deadline."""
    UNKNOWN = "unknown"
    """Not asked: too many probes of other mounts hang."""


@dataclass(frozen=True, slots=True)
class Verdict:
    liveness: Liveness
    detail: str = ""
    """What `stat` said, or what was not tried."""


class MountProber:
    """An async context manager. `deadline` in seconds; `limit` bounds the probes under way, and again those that hang."""

    def __init__(self, *, deadline: float = 2.0, limit: int = 8, program: str = _STAT) -> None:
        self._deadline: Final = deadline
        self._limit: Final = limit
        self._program: Final = program
        self._slots: Final = asyncio.Semaphore(limit)
        self._asking: Final[dict[tuple[int, int], asyncio.Task[Verdict]]] = {}
        """By device: many binds of one file system are one question."""
        self._stuck: Final[dict[tuple[int, int], _Child]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in tuple(self._asking.values()):
            task.cancel()
        if self._asking:
            await asyncio.wait(tuple(self._asking.values()))
        if self._stuck:
            await asyncio.wait(tuple(child.exited for child in self._stuck.values()), timeout=_AFTER_KILL)
        for child in tuple(self._stuck.values()):
            _log.warning("a probe still hangs in the kernel, left behind", extra={"pid": child.pid, "path": child.path})
            child.close()
        self._stuck.clear()

    async def probe(self, mount: Mount) -> Verdict:
        """Ask the file system of `mount`. Takes `deadline` seconds at most once its turn comes. Calls for one file system share
        an answer, and a caller that is cancelled does not end the question for the others."""
        if (child := self._stuck.get(mount.device)) is not None:
            return Verdict(Liveness.STUCK, f"a probe through {child.path} (pid {child.pid}) hangs already")
        if len(self._stuck) >= self._limit:
            return Verdict(Liveness.UNKNOWN, f"{len(self._stuck)} probes of other mounts hang")
        task = self._asking.get(mount.device)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(mount), name=f"probe {mount.path}")
            self._asking[mount.device] = task
            task.add_done_callback(lambda _: self._asking.pop(mount.device, None))
        return await asyncio.shield(task)

    @property
    def stuck(self) -> tuple[str, ...]:
        """The paths whose probe hangs."""
        return tuple(child.path for child in self._stuck.values())

    async def _ask(self, mount: Mount) -> Verdict:
        async with self._slots:
            child = _Child.spawn(self._program, mount.path)
            try:
                return await self._judge(child, mount)
            except BaseException:
                child.kill()
                self._part_with(child, mount)
                raise

    async def _judge(self, child: _Child, mount: Mount) -> Verdict:
        if await child.wait(timeout=self._deadline):
            return child.verdict()
        child.kill()
        await child.wait(timeout=_AFTER_KILL)
        self._part_with(child, mount)
        return Verdict(Liveness.STUCK, f"no answer within {self._deadline:g} s")

    def _part_with(self, child: _Child, mount: Mount) -> None:
        """Forget a child that is gone; remember one that is not until it goes."""
        if child.reap():
            child.close()
            return
        self._stuck[mount.device] = child
        child.exited.add_done_callback(lambda _: self._on_late_exit(child, mount))

    def _on_late_exit(self, child: _Child, mount: Mount) -> None:
        if self._stuck.get(mount.device) is child:
            del self._stuck[mount.device]
            child.reap()
            child.close()


@dataclass(eq=False, slots=True)
class _Child:
    """One process, held by a pidfd, so that no signal ever goes to a process that took over its number."""

    pid: int
    path: str
    pidfd: int
    stderr: int
    exited: asyncio.Future[None]
    status: int | None = None
    said: str = ""

    @classmethod
    def spawn(cls, program: str, path: str) -> _Child:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, writing, 2),
            ]
            arguments = [program, "-f", "--", path]
            pid = os.posix_spawn(program, arguments, _ENVIRONMENT, file_actions=actions, setsid=True)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        child = cls(pid, path, os.pidfd_open(pid), reading, loop.create_future())
        loop.add_reader(child.pidfd, child._on_exit)
        return child

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self.pidfd)
        if not self.exited.done():
            self.exited.set_result(None)

    async def wait(self, *, timeout: float) -> bool:
        done, _ = await asyncio.wait((self.exited,), timeout=timeout)
        return bool(done)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> bool:
        """Whether it is gone. Never waits."""
        if self.status is not None:
            return True
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            # Reaped by another: a process that is number 1 in its container collects every child.
            self._listen()
            self.status = 1 if self.said else 0
            return True
        if result is None:
            return False
        self.status = result.si_status
        return True

    def verdict(self) -> Verdict:
        """Of a child that exited by itself."""
        self._listen()
        self.reap()
        self.close()
        return Verdict(Liveness.ALIVE) if self.status == 0 else Verdict(Liveness.DEAD, self.said)

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.said += os.read(self.stderr, _DETAIL_LIMIT).decode(errors="replace").strip()

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self.pidfd)
        for fd in (self.pidfd, self.stderr):
            os.close(fd)
