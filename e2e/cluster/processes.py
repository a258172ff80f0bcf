"""Processes that outlive who started them: known by id and start time, written down, ended for certain.

A process id alone is not enough to kill by: it is used again. Nothing here ever looks for a process by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.cluster.children import clean_environment


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; raises OSError if there is none."""
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold blanks and brackets itself."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    start: int

    @classmethod
    def recorded(cls, file: Path) -> Process | None:
        try:
            found = json.loads(file.read_text())
            return cls(int(found["pid"]), int(found["start"]))
        except (OSError, ValueError, KeyError):
            return None

    def record(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @property
    def alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        try:
            fields = _stat(self.pid)
        except OSError:
            return False
        return int(fields[19]) == self.start and fields[0] not in {"Z", "X"}

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process and no other, even if its id was given away in between."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.alive:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    async def end(self, *, grace: float = 3.0) -> None:
        """SIGTERM, after `grace` seconds SIGKILL, and wait until it is gone. With no grace SIGKILL at once."""
        if grace:
            self.send(signal.SIGTERM)
            if await self.gone(within=grace):
                return
        self.send(signal.SIGKILL)
        if not await self.gone(within=20):
            raise TimeoutError(f"process {self.pid} does not end: is it stuck in the kernel?")

    async def gone(self, *, within: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while self.alive:
            if loop.time() > deadline:
                return False
            await asyncio.sleep(0.01)
        self._reap()
        return True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def spawn(command: Sequence[str], *, log: Path, extra: dict[str, str] | None = None) -> Process:
    """Start a process of its own session that writes to `log`; it is not waited for, and survives its starter."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawnp(command[0], list(command), clean_environment(extra), file_actions=actions, setsid=True)
    return Process(pid, start_time(pid))
