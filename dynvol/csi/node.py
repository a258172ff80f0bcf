"""The CSI Node service: a dynamic volume's empty root, at the path where kubelet wants it.

Publishing makes the root and returns; storage comes and goes below it later, made by mount pods. So no call here waits for the
API, a mount pod or a bucket, and none remembers anything: what is published is what the mount table shows.
Staging, expansion and everything about persistent volumes is not served.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol

from dynvol.rpc.operations import Operations

from .errors import NotPublished
from .proto.csi import v1 as csi
from .requests import Node, Publication, Target, inspection, publication, unpublication

_log: Final = logging.getLogger(__name__)

_Rpc = csi.NodeServiceCapabilityRpcType
CAPABILITIES: Final = (_Rpc.GET_VOLUME_STATS, _Rpc.VOLUME_CONDITION)


class Usage(Protocol):
    """Bytes and inodes of the file system behind a target."""

    @property
    def total(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def available(self) -> int: ...
    @property
    def inodes_total(self) -> int: ...
    @property
    def inodes_used(self) -> int: ...
    @property
    def inodes_available(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How a target is."""

    exists: bool
    """False: neither a mount nor a directory."""
    problem: str = ""
    """Empty: published as it should be. Else a sentence for the pod's owner."""
    usage: Usage | None = None


class Targets(Protocol):
    """Kubelet's target paths. Every call is idempotent, from whatever state an earlier one was cut off in.

    Promised: no call blocks on a dead mount. Not promised: that calls for one target exclude each other; `Operations` sees to that.
    Errors are those of `dynvol.mount.errors`.
    """

    async def publish(self, publication: Publication) -> None:
        """After this the target is a read-only view of the workload's directory, and receives what is mounted below it."""

    async def unpublish(self, target: Target) -> None:
        """After this neither mount nor directory is left at the target."""

    async def inspect(self, target: Target) -> Standing:
        """Look, change nothing."""


class NodeService(csi.NodeBase):
    """Publish and unpublish run at most once at a time per volume; asking again for what is under way joins it."""

    def __init__(self, targets: Targets, *, node: Node, operations: Operations) -> None:
        self._targets = targets
        self._node = node
        self._operations = operations

    async def node_publish_volume(self, message: csi.NodePublishVolumeRequest) -> csi.NodePublishVolumeResponse:
        wanted = publication(message, node=self._node)
        await self._operations.run(f"volume {wanted.volume}", request=wanted, work=lambda: self._publish(wanted))
        return csi.NodePublishVolumeResponse()

    async def node_unpublish_volume(self, message: csi.NodeUnpublishVolumeRequest) -> csi.NodeUnpublishVolumeResponse:
        volume, target = unpublication(message, node=self._node)
        await self._operations.run(f"volume {volume}", request=target, work=lambda: self._unpublish(volume, target))
        return csi.NodeUnpublishVolumeResponse()

    async def node_get_volume_stats(self, message: csi.NodeGetVolumeStatsRequest) -> csi.NodeGetVolumeStatsResponse:
        volume, target = inspection(message, node=self._node)
        standing = await self._targets.inspect(target)
        if not standing.exists:
            raise NotPublished(f"volume {volume} is not published at {target.path}")
        condition = csi.VolumeCondition(abnormal=bool(standing.problem), message=standing.problem or "published")
        return csi.NodeGetVolumeStatsResponse(usage=_usage(standing.usage), volume_condition=condition)

    async def node_get_capabilities(self, message: csi.NodeGetCapabilitiesRequest) -> csi.NodeGetCapabilitiesResponse:
        return csi.NodeGetCapabilitiesResponse(
            capabilities=[csi.NodeServiceCapability(rpc=csi.NodeServiceCapabilityRpc(type=type)) for type in CAPABILITIES]
        )

    async def node_get_info(self, message: csi.NodeGetInfoRequest) -> csi.NodeGetInfoResponse:
        """No topology and no limit: every node can show every volume."""
        return csi.NodeGetInfoResponse(node_id=self._node.name)

    async def _publish(self, wanted: Publication) -> None:
        await self._targets.publish(wanted)
        _log.info("published", extra={"volume": wanted.volume, "pod": wanted.pod, "directory": str(wanted.directory)})

    async def _unpublish(self, volume: str, target: Target) -> None:
        await self._targets.unpublish(target)
        _log.info("unpublished", extra={"volume": volume, "target": str(target.path)})


def _usage(usage: Usage | None) -> list[csi.VolumeUsage]:
    if usage is None:
        return []
    return [
        csi.VolumeUsage(unit=csi.VolumeUsageUnit.BYTES, total=usage.total, used=usage.used, available=usage.available),
        csi.VolumeUsage(
            unit=csi.VolumeUsageUnit.INODES,
            total=usage.inodes_total,
            used=usage.inodes_used,
            available=usage.inodes_available,
        ),
    ]
