"""The quickstart's surroundings: a local cluster, an S3 server beside it, and one folder that holds all of both.

The folder says in `quickstart.json` that it is ours, and whether it is to be kept. Whoever works on it holds a lock, a socket
without a file, that ends with the process whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster import cgroups, mounts
from e2e.cluster.lifecycle import ClusterError, LocalCluster
from e2e.cluster.processes import Process, start_time
from e2e.cluster.s3 import S3Server
from e2e.grounds import onnode
from e2e.quickstart import samples
from e2e.quickstart.samples import Samples

ACCESS_KEY, SECRET_KEY = "quickstart", "quickstart-secret-key"


class Busy(Exception):
    """The folder is in use, or is not ours. The message says what to do."""


@dataclass(slots=True)
class Stage:
    state: Path
    cpu_limit: str = samples.CPU_LIMIT
    cluster: LocalCluster = field(init=False)
    store: S3Server = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = LocalCluster(self.state)
        port: int = self._noted().get("port", 0)
        self.store = S3Server(self.state / "s3", access_key=ACCESS_KEY, secret_key=SECRET_KEY, port=port)

    @property
    def samples(self) -> Samples:
        return samples.write(self.state / "samples", self.store, cpu_limit=self.cpu_limit)

    # The folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        name = hashlib.sha256(str(self.state).encode()).hexdigest()[:16]
        with socket.socket(socket.AF_UNIX) as lock:
            try:
                lock.bind(f"\0dynvol-quickstart-{name}")
            except OSError:
                raise Busy(f"another hack/quickstart is at work in {self.state}: wait for it, or use another --state") from None
            yield

    def claim_folder(self) -> None:
        self._check_ours()
        self.state.mkdir(exist_ok=True)
        self._note(kept=False)

    def _check_ours(self) -> None:
        if self.state.exists() and not self._record.exists() and any(self.state.iterdir()):
            raise Busy(f"{self.state} was not made by hack/quickstart, and is left as it is: name another folder with --state")

    def keep(self) -> None:
        self._note(kept=True)

    @property
    def exists(self) -> bool:
        return self._record.exists()

    @property
    def kept(self) -> bool:
        """Whether it was left running on purpose, and runs (a reboot ends it)."""
        return bool(self._noted().get("kept")) and all(p is not None and p.alive for p in self._recorded())

    @property
    def _record(self) -> Path:
        return self.state / "quickstart.json"

    def _note(self, *, kept: bool) -> None:
        self._record.write_text(json.dumps({"kept": kept, "port": self.store.port}))

    def _noted(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return {}
        return found

    # Up

    def start_cluster(self) -> None:
        asyncio.run(self.cluster.up())

    def start_store(self) -> None:
        asyncio.run(self._start_store())

    async def _start_store(self) -> None:
        await self.store.start()
        for bucket, objects in samples.OBJECTS.items():
            await self.store.make_bucket(bucket)
            for key, text in objects.items():
                await self.store.put(bucket, key, text.encode())

    def put(self, bucket: str, key: str, text: str) -> None:
        asyncio.run(self.store.put(bucket, key, text.encode()))

    def nodes(self) -> list[int]:
        """Each node's first process."""
        return [process.pid for node in self.cluster.nodes if (process := self.cluster.machine(node)) is not None]

    def logs(self) -> list[Path]:
        """Of the cluster's own processes."""
        return sorted((*self.state.glob("run/*.log"), *self.state.glob("nodes/*/kubelet.log")))

    # Down

    def down(self) -> Leftovers:
        """End it all, whatever state it is in. Returns what is left, which should be nothing."""
        self._check_ours()
        everyone = self._everyone()
        problem = ""
        try:
            asyncio.run(self.cluster.down())
        except (ClusterError, TimeoutError, OSError) as error:
            problem = str(error)
        return Leftovers(
            problem=problem,
            processes=[process.pid for process in everyone if process.alive],
            mounts=[str(point) for point in mounts.below(self.state)],
            folders=[str(path) for path in (*cgroups.left(self.cluster.cgroup), self.state) if path.exists()],
            ended=len(everyone),
        )

    def _recorded(self) -> list[Process | None]:
        if not (self.state / "cluster.json").exists():
            return []
        return [*self.cluster.parts().values(), self.store.process]

    def _everyone(self) -> list[Process]:
        """Every process of the cluster and of what runs in it."""
        first = {process.pid for process in self._recorded() if process is not None and process.alive}
        found = []
        for pid in {pid for top in first for pid in onnode.below(top)}:
            with contextlib.suppress(OSError):
                found.append(Process(pid, start_time(pid)))
        return found


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What outlived the end, and how many processes there were to end."""

    problem: str
    processes: list[int]
    mounts: list[str]
    folders: list[str]
    ended: int

    def __bool__(self) -> bool:
        return bool(self.problem or self.processes or self.mounts or self.folders)

    def __str__(self) -> str:
        named = {"processes": self.processes, "mounts": self.mounts, "folders": self.folders}
        return "; ".join([self.problem] * bool(self.problem) + [f"{kind}: {found}" for kind, found in named.items() if found])


def mount_points() -> set[str]:
    """Of this namespace."""
    return {str(mount.mount_point) for mount in mounts.table()}
