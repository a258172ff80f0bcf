"""The gRPC service: requests in, what became of them out. What to do about them is `Mounts`'."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from dynvol.api.mounts import Phase

from . import wishes
from .mounts import Mounts, Standing
from .proto.dynvol.mounter import v1 as wire

_PHASES: Final[Mapping[Phase, wire.Phase]] = {
    Phase.PENDING: wire.Phase.PENDING,
    Phase.MOUNTING: wire.Phase.MOUNTING,
    Phase.MOUNTED: wire.Phase.MOUNTED,
    Phase.UNMOUNTING: wire.Phase.UNMOUNTING,
    Phase.FAILED: wire.Phase.FAILED,
    Phase.CONFLICT: wire.Phase.FAILED,
}


class MounterService(wire.MounterBase):
    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts

    async def mount(self, message: wire.MountRequest) -> wire.MountResponse:
        standing = await self._mounts.mount(wishes.wanted(message), secrets=wishes.secrets(message))
        return wire.MountResponse(mount=_told(standing))

    async def unmount(self, message: wire.UnmountRequest) -> wire.UnmountResponse:
        await self._mounts.unmount(wishes.path(message.path))
        return wire.UnmountResponse()

    async def list(self, message: wire.ListRequest) -> wire.ListResponse:
        return wire.ListResponse(mounts=[_told(standing) for standing in self._mounts.all()])

    async def watch(self, message: wire.WatchRequest) -> AsyncIterator[wire.WatchResponse]:
        """Compares states instead of passing on events: a caller that is slow misses steps, and never an outcome."""
        version, told = self._mounts.version, self._present()
        for mount in told.values():
            yield wire.WatchResponse(present=mount)
        yield wire.WatchResponse(synced=wire.Synced())
        while True:
            version = await self._mounts.newer_than(version)
            present = self._present()
            for event in _changes(told, present):
                yield event
            told = present

    def _present(self) -> dict[str, wire.Mount]:
        return {told.path: told for told in map(_told, self._mounts.all())}


def _changes(before: Mapping[str, wire.Mount], after: Mapping[str, wire.Mount]) -> Iterator[wire.WatchResponse]:
    for path in before:
        if path not in after:
            yield wire.WatchResponse(gone=path)
    for path, mount in after.items():
        if before.get(path) != mount:
            yield wire.WatchResponse(present=mount)


def _told(standing: Standing) -> wire.Mount:
    mount, report = standing.mount, standing.report
    return wire.Mount(
        path=f"/{mount.path}",
        provider=mount.provider,
        parameters=dict(mount.parameters),
        read_only=mount.read_only,
        phase=_PHASES[report.phase],
        reason=report.reason,
        message=report.message,
        since=report.time,
        restarts=report.restarts,
    )
