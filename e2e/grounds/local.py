"""The local cluster as a ground: started for the suite, gone after it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.lifecycle import APISERVER, NO_IMAGES, LocalCluster
from e2e.kubectl import Kubectl

from . import onnode
from .ground import ObjectStore


@dataclass(frozen=True, slots=True)
class LocalGround:
    """`ground.Ground` on a `LocalCluster` that runs already."""

    cluster: LocalCluster
    kubectl: Kubectl
    store: ObjectStore

    def kill(self, program: str, *, pod: str = "", signal: str = "KILL") -> int:
        pods = [pod] if pod else [p["metadata"]["name"] for p in self.kubectl.within("dynvol-system").list("pods")]
        processes = [pid for machine in self.machines() for pid in onnode.below(machine)]
        return onnode.kill(program, pods=pods, name=signal, among=processes)

    def mounts(self, containing: str) -> list[str]:
        return [point for pid in self.machines() for point in onnode.mounts(containing, process=pid)]

    def state_files(self) -> list[str]:
        return [path for pid in self.machines() for path in onnode.state_files(f"/proc/{pid}/root")]

    def write(self, path: str, text: str) -> None:
        """Its nodes have the machine's disk."""
        onnode.write(path, text)

    def read(self, path: str) -> str | None:
        return onnode.read(path)

    def link(self, path: str, to: str) -> None:
        onnode.link(path, to)

    def erase(self, directory: str) -> None:
        onnode.erase(directory)

    def findings(self, text: str) -> list[str]:
        processes = [pid for machine in self.machines() for pid in onnode.below(machine)]
        # Seen from outside of the nodes, where nothing is mounted: what is there is on disk.
        return onnode.findings(text, among=processes, folders=[str(self.cluster.state / "nodes"), str(self.cluster.state / "run")])

    def run_in(self, pod_uid: str, *command: str) -> str:
        (process, *_) = [pid for machine in self.machines() for pid in onnode.below(machine) if _of_pod(pid, pod_uid)]
        entering = ["nsenter", f"--target={process}", "--mount", f"--root=/proc/{process}/root", *command]
        done = subprocess.run(entering, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout + done.stderr

    def fetch(self, address: str) -> tuple[int, str]:
        return onnode.fetch(address)

    def reboot(self) -> None:
        for node in self.cluster.nodes:
            asyncio.run(self.cluster.restart(node))

    @contextmanager
    def without_api(self) -> Iterator[None]:
        asyncio.run(self.cluster.kill(APISERVER))
        try:
            yield
        finally:
            asyncio.run(self.cluster.start(APISERVER))

    def machines(self) -> list[int]:
        return [process.pid for name in self.cluster.nodes if (process := self.cluster.machine(name)) is not None]


def _of_pod(process: int, pod_uid: str) -> bool:
    """A container's cgroup carries the pod's uid in its name."""
    try:
        return pod_uid in Path(f"/proc/{process}/cgroup").read_text()
    except OSError:
        return False


@contextmanager
def local_cluster(
    state: Path, *, nodes: int = 1, real_apiserver: bool = False, images: Mapping[str, str] = NO_IMAGES
) -> Iterator[LocalCluster]:
    """For tests that are not asynchronous themselves. Whatever happens, the cluster is down afterwards."""
    cluster = LocalCluster(state, nodes=nodes, real_apiserver=real_apiserver, images=images)
    try:
        asyncio.run(cluster.up(guarded=True))
        yield cluster
    finally:
        asyncio.run(cluster.down())
