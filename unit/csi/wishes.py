"""What kubelet would ask for: requests of one pod's volume, and a kernel that keeps its mounts in a dictionary."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import PurePosixPath

from dynvol.csi.node import Standing
from dynvol.csi.proto.csi import v1 as csi
from dynvol.csi.requests import Node, Publication, Target
from dynvol.mount.errors import WrongMount

KUBELET_DIR = "/var/lib/kubelet"
POD_UID = "7d3f0c5e-8a41-4c57-9b0e-2f6d1c9a8e11"
OTHER_UID = "0b6f8f0e-54cc-4f2b-8c55-8a0d0f6f2d02"
VOLUME = "csi-0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"


def node(kubelet_dir: str = KUBELET_DIR, *, state_dir: str = "/var/lib/dynamic") -> Node:
    return Node(name="worker-1", kubelet_dir=PurePosixPath(kubelet_dir), state_dir=PurePosixPath(state_dir))


def target_path(kubelet_dir: str = KUBELET_DIR, *, pod_uid: str = POD_UID, volume: str = "dynamic-volume-root-path") -> str:
    return f"{kubelet_dir}/pods/{pod_uid}/volumes/kubernetes.io~csi/{volume}/mount"


def context(*, pod_uid: str = POD_UID, **changes: str) -> dict[str, str]:
    """What kubelet sends along; a change to the empty string leaves the key out."""
    everything = {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.name": "notebook-0",
        "csi.storage.k8s.io/pod.namespace": "team-a",
        "csi.storage.k8s.io/pod.uid": pod_uid,
        "csi.storage.k8s.io/serviceAccount.name": "default",
        "mountPodDispatchPolicy": "independent",
        "storageProviderClass": "s3-sample",
    } | changes
    return {key: value for key, value in everything.items() if value}


def filesystem(*flags: str) -> csi.VolumeCapability:
    return csi.VolumeCapability(
        mount=csi.VolumeCapabilityMountVolume(mount_flags=list(flags)),
        access_mode=csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER),
    )


def publish_request(
    kubelet_dir: str = KUBELET_DIR, *, pod_uid: str = POD_UID, volume: str = VOLUME
) -> csi.NodePublishVolumeRequest:
    return csi.NodePublishVolumeRequest(
        volume_id=volume,
        target_path=target_path(kubelet_dir, pod_uid=pod_uid),
        volume_capability=filesystem(),
        readonly=True,
        volume_context=context(pod_uid=pod_uid),
    )


def unpublish_request(
    kubelet_dir: str = KUBELET_DIR, *, pod_uid: str = POD_UID, volume: str = VOLUME
) -> csi.NodeUnpublishVolumeRequest:
    return csi.NodeUnpublishVolumeRequest(volume_id=volume, target_path=target_path(kubelet_dir, pod_uid=pod_uid))


def stats_request(kubelet_dir: str = KUBELET_DIR, *, pod_uid: str = POD_UID, volume: str = VOLUME) -> csi.NodeGetVolumeStatsRequest:
    return csi.NodeGetVolumeStatsRequest(volume_id=volume, volume_path=target_path(kubelet_dir, pod_uid=pod_uid))


@dataclass(frozen=True)
class Figures:
    total: int = 1000
    used: int = 400
    available: int = 500
    inodes_total: int = 100
    inodes_used: int = 10
    inodes_available: int = 90


class Kernel:
    """`Targets` without a kernel. Closing the gate keeps what arrives from going on; `failure` is raised by what passes it."""

    def __init__(self) -> None:
        self.published: dict[PurePosixPath, PurePosixPath] = {}
        self.foreign: set[PurePosixPath] = set()
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = 0
        """How many pieces of work: what joins another is none."""
        self._begins = asyncio.Condition()

    async def has_begun(self, count: int) -> None:
        """Until so many pieces of work have begun."""
        async with self._begins:
            await self._begins.wait_for(lambda: self.begun >= count)

    async def publish(self, publication: Publication) -> None:
        await self._pass()
        path = publication.target.path
        if path in self.foreign:
            raise WrongMount(str(path), "holds something else; unpublish it first")
        self.published[path] = publication.directory

    async def unpublish(self, target: Target) -> None:
        await self._pass()
        self.published.pop(target.path, None)

    async def inspect(self, target: Target) -> Standing:
        if target.path in self.foreign:
            return Standing(exists=True, problem="holds something else")
        return Standing(exists=target.path in self.published, usage=Figures())

    async def _pass(self) -> None:
        async with self._begins:
            self.begun += 1
            self._begins.notify_all()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
