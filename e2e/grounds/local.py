"""The local cluster as a ground: started for the suite, gone after it."""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.lifecycle import LocalCluster
from e2e.kubectl import Kubectl

from .ground import ObjectStore

STATE_DIR = "/var/lib/dynamic"


@dataclass(frozen=True, slots=True)
class LocalGround:
    """`ground.Ground` on a `LocalCluster` that runs already."""

    cluster: LocalCluster
    kubectl: Kubectl
    store: ObjectStore

    def kill(self, program: str, *, pod: str = "", signal: str = "KILL") -> int:
        chosen = [
            pid for pid in self._processes() if program in _command(pid) and (not pod or f"POD_NAME={pod}" in _environment(pid))
        ]
        for pid in chosen:
            os.kill(pid, signals.Signals[f"SIG{signal}"])
        return len(chosen)

    def mounts(self, containing: str) -> list[str]:
        tables = [Path(f"/proc/{pid}/mountinfo").read_text() for pid in self._machines()]
        points = [line.split()[4] for table in tables for line in table.splitlines()]
        return [point for point in points if containing in point]

    def state_files(self) -> list[str]:
        """Listed without entering anything that is mounted: only our own directories are walked."""
        roots = [Path(f"/proc/{pid}/root{STATE_DIR}/xvols") for pid in self._machines()]
        return [str(p) for root in roots if root.exists() for p in sorted(root.glob("*/*"))]

    def _machines(self) -> list[int]:
        return [process.pid for name in self.cluster.nodes if (process := self.cluster.machine(name)) is not None]

    def _processes(self) -> Iterator[int]:
        """Those that live in a pid namespace below a node's: the node's first process is their ancestor."""
        waiting = self._machines()
        while waiting:
            pid = waiting.pop()
            yield pid
            waiting += _children(pid)


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return []


@contextmanager
def local_cluster(state: Path, *, nodes: int = 1) -> Iterator[LocalCluster]:
    """For tests that are not asynchronous themselves. Whatever happens, the cluster is down afterwards."""
    cluster = LocalCluster(state, nodes=nodes)
    try:
        asyncio.run(cluster.up())
        yield cluster
    finally:
        asyncio.run(cluster.down())
