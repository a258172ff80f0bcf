"""What kubelet waits for: NodePublishVolume and NodeUnpublishVolume, beside the bare system calls that they cannot do without.

The node process is the one of the cluster; its sockets and directories are reached through the machine that it runs in.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from grpclib.client import Channel

from dynvol.api import names
from dynvol.csi.proto.csi import v1 as csi
from dynvol.mount import propagation, syscalls
from dynvol.mount.propagation import Propagation

from .figure import Figure, Goal, Series

_MODE = csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a node's own view of its files begins, seen from here, and the node's names for what is needed of them."""

    root: str
    kubelet_dir: str = names.KUBELET_DIR

    def here(self, path: str) -> Path:
        return Path(self.root + path)


@asynccontextmanager
async def driver(machine: Machine) -> AsyncIterator[csi.NodeStub]:
    socket = machine.here(f"{machine.kubelet_dir}/plugins/{names.DRIVER}/csi.sock")
    with tempfile.TemporaryDirectory() as short:
        # The path of a socket holds 107 bytes, and this one is far from the root.
        link = f"{short}/csi.sock"
        os.symlink(socket, link)
        async with Channel(path=link) as channel:
            yield csi.NodeStub(channel)


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a pod that no one knows: the driver asks no one."""

    machine: Machine
    uid: str

    @property
    def target(self) -> str:
        return f"{self.machine.kubelet_dir}/pods/{self.uid}/volumes/kubernetes.io~csi/bench/mount"

    async def publish(self, stub: csi.NodeStub) -> float:
        """Milliseconds."""
        self.machine.here(self.target).parent.mkdir(parents=True)
        request = csi.NodePublishVolumeRequest(
            volume_id=f"csi-{self.uid}",
            target_path=self.target,
            readonly=True,
            volume_capability=csi.VolumeCapability(
                mount=csi.VolumeCapabilityMountVolume(), access_mode=csi.VolumeCapabilityAccessMode(mode=_MODE)
            ),
            volume_context={
                names.CLASS_ATTRIBUTE: "bench",
                "csi.storage.k8s.io/ephemeral": "true",
                "csi.storage.k8s.io/pod.uid": self.uid,
                "csi.storage.k8s.io/pod.name": "bench",
                "csi.storage.k8s.io/pod.namespace": "bench",
            },
        )
        return await _timed(stub.node_publish_volume(request))

    async def unpublish(self, stub: csi.NodeStub) -> float:
        try:
            return await _timed(
                stub.node_unpublish_volume(csi.NodeUnpublishVolumeRequest(volume_id=f"csi-{self.uid}", target_path=self.target))
            )
        finally:
            parent = self.machine.here(self.target).parent
            for directory in (parent, *parent.parents[:3]):
                if directory.name != "pods":
                    directory.rmdir()


async def measure(machine: Machine, *, rounds: int, crowd: int) -> list[Figure]:
    bare = [_bare() for _ in range(rounds)]
    async with driver(machine) as stub:
        alone = [await _pair(stub, machine) for _ in range(rounds)]
        together = await _crowd(stub, machine, crowd)
    publish, unpublish = (
        Series(name, tuple(times)) for name, times in zip(("publish", "unpublish"), zip(*alone, strict=True), strict=True)
    )
    return [
        Figure("NodePublishVolume", "ms", publish, Series("bare system calls", tuple(b[0] for b in bare)), "3 ms", _within(3)),
        Figure("NodeUnpublishVolume", "ms", unpublish, Series("bare system calls", tuple(b[1] for b in bare)), "3 ms", _within(3)),
        Figure(
            f"{crowd} pods at once, each",
            "ms",
            Series("publish and unpublish, total by number", (together / crowd,)),
            Series("one after the other", tuple(a + b for a, b in alone)),
            "linear: no more each than alone",
            lambda f: f.measured.median <= 1.1 * (publish.median + unpublish.median),
        ),
    ]


def _within(limit: float) -> Goal:
    return lambda figure: figure.measured.median <= limit


async def _pair(stub: csi.NodeStub, machine: Machine) -> tuple[float, float]:
    volume = Volume(machine, str(uuid.uuid4()))
    return await volume.publish(stub), await volume.unpublish(stub)


async def _crowd(stub: csi.NodeStub, machine: Machine, number: int) -> float:
    """Milliseconds for all of them."""
    began = time.perf_counter()
    await asyncio.gather(*(_pair(stub, machine) for _ in range(number)))
    return (time.perf_counter() - began) * 1000


async def _timed(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    await call
    return (time.perf_counter() - began) * 1000


def _bare() -> tuple[float, float]:
    """A directory that is a shared mount, bound read-only as a slave, and all of it undone. Milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        began = time.perf_counter()
        source.mkdir()
        target.mkdir()
        propagation.bind(str(source), str(source))
        propagation.make_shared(str(source))
        propagation.attach_bind(str(source), str(target), propagation=(Propagation.SLAVE,), read_only=True)
        made = time.perf_counter()
        syscalls.unmount(str(target))
        syscalls.unmount(str(source))
        target.rmdir()
        source.rmdir()
        ended = time.perf_counter()
    return (made - began) * 1000, (ended - made) * 1000
