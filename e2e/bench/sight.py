"""What a program in a container sees, and when: looked at through `/proc/PID/root`, which is its root in its mount namespace."""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path

from e2e import manifests
from e2e.grounds import onnode

POLL = 0.0005
"""Seconds between looks: what is measured is known no better."""
LONGEST = 120.0
"""Seconds after which what is waited for has failed."""


def process_of(pod_uid: str) -> int:
    """A process of the pod's container, which must run on this machine; not of the one that holds the pod's namespaces and sees no
    volumes. Raises LookupError."""
    for pid in onnode.everything():
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text().replace("_", "-")
            if pod_uid in groups and os.path.isdir(f"/proc/{pid}/root{manifests.ROOT}"):
                return pid
        except OSError:
            continue
    raise LookupError(f"no process of pod {pod_uid} on this machine: the figures of mounts need the node at hand")


class Sight:
    """What one process sees."""

    def __init__(self, pid: int) -> None:
        self._process = f"/proc/{pid}"

    def readable(self, path: str) -> float:
        """The moment (time.perf_counter) at which a file could be opened and its first bytes read. Raises TimeoutError."""
        deadline = time.monotonic() + LONGEST
        while not _reads(f"{self._process}/root{path}"):
            _unless_late(deadline, path)
            time.sleep(POLL)
        return time.perf_counter()

    def outage(self, path: str) -> float:
        """Seconds from the moment at which a file can no longer be read until it can again. Raises TimeoutError if either does not
        come."""
        deadline = time.monotonic() + LONGEST
        while _reads(f"{self._process}/root{path}"):
            _unless_late(deadline, path)
            time.sleep(POLL)
        lost = time.perf_counter()
        return self.readable(path) - lost

    def gone(self, mountpoint: str) -> float:
        """The moment at which nothing was mounted there any more. Raises TimeoutError.

        The kernel tells of the change. To look at the path itself would keep the mount busy, and be measured too.
        """
        deadline = time.monotonic() + LONGEST
        with open(f"{self._process}/mountinfo") as table:
            changed = select.poll()
            changed.register(table, select.POLLERR | select.POLLPRI)
            while f" {mountpoint} " in table.read():
                _unless_late(deadline, mountpoint)
                changed.poll(1000)
                table.seek(0)
        return time.perf_counter()


def _unless_late(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{what}: not within {LONGEST:.0f} s")


def _reads(path: str) -> bool:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return bool(os.read(file, 16))
    except OSError:
        return False
    finally:
        # The daemon of a file system may die in between; the descriptor is gone all the same.
        with contextlib.suppress(OSError):
            os.close(file)
