"""Child processes: started clean, reaped at once, and never alive without their parent.

asyncio's own subprocesses are not used: as process 1 of a container the mounter has to reap orphans that it did not start,
and two reapers steal each other's children. Not here: deciding when to start or stop one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from dynvol.observe import logs

_log: Final = logs.get(__name__)

_SETPRIV: Final = "/usr/bin/setpriv"
_KEPT: Final = 8192
"""Bytes of a child's last output that are kept, for the reason of its end."""
_OOM_STEP: Final = 500
"""A client dies of lack of memory before the mounter does: the mounter can start a client again, no one the mounter alone."""


class Child:
    """A running program. `exited` gives its return code, negative for a signal; output is its last words."""

    def __init__(self, pid: int, name: str, output: int) -> None:
        self.pid: Final = pid
        self.name: Final = name
        self.exited: Final[asyncio.Future[int]] = asyncio.get_running_loop().create_future()
        self._tail = bytearray()
        self._fd = output
        asyncio.get_running_loop().add_reader(output, self._read)

    @property
    def alive(self) -> bool:
        return not self.exited.done()

    @property
    def output(self) -> str:
        """All that it has said by now, as far as it is kept."""
        self._read()
        return self._tail.decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """To the whole process group. Its leader is not reaped while `alive`, so the number cannot be another's."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def finish(self, code: int) -> None:
        """Called by the reaper: takes what is left in the pipe and says that it is over."""
        self._read()
        self._close()
        if not self.exited.done():
            self.exited.set_result(code)

    def _read(self) -> None:
        while self._fd >= 0:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return
            if not data:
                self._close()
                return
            self._tail += data
            del self._tail[:-_KEPT]
            _log.debug("client says", pid=self.pid, text=data.decode(errors="replace").rstrip())

    def _close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class Children:
    """An async context manager that starts and reaps. On exit it kills what still runs, and waits for that.

    With `adopting` it reaps whoever it is given, too: process 1 inherits all that lost a parent.
    """

    def __init__(self, *, adopting: bool = False) -> None:
        self._adopting = adopting
        self._running: dict[int, Child] = {}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        children = tuple(self._running.values())
        for child in children:
            child.signal(signal.SIGKILL)
        if children:
            await asyncio.wait([child.exited for child in children], timeout=5)
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def start(self, argv: Sequence[str], *, environment: Mapping[str, str], device: int | None = None) -> Child:
        """Start a program in a process group of its own, with exactly this environment. It finds `device` as descriptor 3.

        The kernel kills it when this thread dies (PR_SET_PDEATHSIG, set by setpriv so that no Python runs between fork and
        exec). Raises OSError.
        """
        readable, writable = os.pipe()
        try:
            os.set_blocking(readable, False)
            pid = os.posix_spawn(
                _SETPRIV,
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                dict(environment),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, writable, 1),
                    (os.POSIX_SPAWN_DUP2, writable, 2),
                    *(() if device is None else ((os.POSIX_SPAWN_DUP2, device, 3),)),
                ],
                setpgroup=0,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD),
            )
        except OSError:
            os.close(readable)
            raise
        finally:
            os.close(writable)
        child = self._running[pid] = Child(pid, argv[0], readable)
        _volunteer_for_oom(pid)
        return child

    def _reap(self) -> None:
        for pid, child in tuple(self._running.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._running[pid]
                child.finish(os.waitstatus_to_exitcode(status))
        if self._adopting:
            _reap_orphans(self._running)


def _reap_orphans(own: Mapping[int, Child]) -> None:
    """All that ended, but for our own, which are left to `_reap`: it comes again with the next signal."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        os.waitpid(found.si_pid, 0)


def _volunteer_for_oom(pid: int) -> None:
    """Raising the score is allowed to everyone; a child that is gone already needs none."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            own = int(file.read())
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(min(1000, own + _OOM_STEP)))
