"""The services through grpclib's own client, over a connection in memory."""

from __future__ import annotations

import asyncio
import errno
import math
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import Deadline
from grpclib.testing import ChannelFor

from dynvol.api import names
from dynvol.csi.errors import CODES
from dynvol.csi.identity import IdentityService
from dynvol.csi.node import NodeService
from dynvol.csi.proto import pluginregistration as kubelet
from dynvol.csi.proto.csi import v1 as csi
from dynvol.csi.registration import RegistrationService
from dynvol.mount import errors as mount
from dynvol.rpc.calls import Calls, Service
from dynvol.rpc.operations import Operations
from unit.csi.wishes import (
    KUBELET_DIR,
    OTHER_UID,
    Kernel,
    node,
    publish_request,
    stats_request,
    target_path,
    unpublish_request,
)


@dataclass
class World:
    channel: Channel
    registration: RegistrationService
    seen: list[tuple[str, str]]
    calls: Calls
    ready: bool = True

    @property
    def node(self) -> csi.NodeStub:
        return csi.NodeStub(self.channel)

    @property
    def identity(self) -> csi.IdentityStub:
        return csi.IdentityStub(self.channel)


@pytest.fixture
async def world(kernel: Kernel) -> AsyncIterator[World]:
    seen: list[tuple[str, str]] = []
    calls = Calls(CODES, lambda method, code, seconds: seen.append((method.rpartition("/")[2], code)))
    registration = RegistrationService(endpoint="/var/lib/kubelet/plugins/x/csi.sock")
    async with Operations() as operations:
        services: list[Service] = [
            IdentityService(version="1.2.3", ready=lambda: here.ready),
            NodeService(kernel, node=node(), operations=operations),
            csi.ControllerBase(),
            csi.GroupControllerBase(),
            csi.SnapshotMetadataBase(),
            registration,
        ]
        async with ChannelFor([calls.guard(service) for service in services]) as channel:
            here = World(channel, registration, seen, calls)
            yield here


async def test_the_plugin_says_who_it_is_and_what_it_can_do(world: World) -> None:
    info = await world.identity.get_plugin_info()
    assert (info.name, info.vendor_version) == (names.DRIVER, "1.2.3")
    assert (await world.identity.get_plugin_capabilities()).capabilities == []
    able = {one.rpc.type for one in (await world.node.node_get_capabilities()).capabilities if one.rpc}
    assert able == {csi.NodeServiceCapabilityRpcType.GET_VOLUME_STATS, csi.NodeServiceCapabilityRpcType.VOLUME_CONDITION}


async def test_the_node_goes_by_its_name_in_the_api_and_is_like_any_other(world: World) -> None:
    info = await world.node.node_get_info()
    assert (info.node_id, info.max_volumes_per_node, info.accessible_topology) == ("worker-1", 0, None)


async def test_a_probe_says_whether_the_process_is_ready(world: World) -> None:
    assert (await world.identity.probe()).ready is True
    world.ready = False
    assert (await world.identity.probe()).ready is False


async def test_publish_and_unpublish_may_be_repeated(world: World, kernel: Kernel) -> None:
    for _ in range(2):
        await world.node.node_publish_volume(publish_request())
        assert list(kernel.published) == [PurePosixPath(target_path())]
    for _ in range(2):
        await world.node.node_unpublish_volume(unpublish_request())
        assert not kernel.published


async def test_what_was_never_published_can_be_unpublished(world: World, kernel: Kernel) -> None:
    await world.node.node_unpublish_volume(unpublish_request(pod_uid=OTHER_UID))
    assert not kernel.published


async def test_stats_are_those_of_the_file_system_behind_the_root(world: World) -> None:
    await world.node.node_publish_volume(publish_request())
    stats = await world.node.node_get_volume_stats(stats_request())
    assert stats.volume_condition is not None
    assert not stats.volume_condition.abnormal
    figures = {usage.unit: (usage.total, usage.used, usage.available) for usage in stats.usage}
    assert figures == {csi.VolumeUsageUnit.BYTES: (1000, 400, 500), csi.VolumeUsageUnit.INODES: (100, 10, 90)}


async def test_stats_of_a_volume_that_is_not_published_find_nothing(world: World) -> None:
    with pytest.raises(GRPCError) as refusal:
        await world.node.node_get_volume_stats(stats_request())
    assert refusal.value.status is Status.NOT_FOUND


async def test_a_target_that_shows_something_else_is_abnormal_and_is_not_published_over(world: World, kernel: Kernel) -> None:
    kernel.foreign.add(PurePosixPath(target_path()))
    with pytest.raises(GRPCError) as refusal:
        await world.node.node_publish_volume(publish_request())
    assert refusal.value.status is Status.FAILED_PRECONDITION
    assert "holds something else" in str(refusal.value.message)
    stats = await world.node.node_get_volume_stats(stats_request())
    assert stats.volume_condition is not None
    assert stats.volume_condition.abnormal
    assert stats.volume_condition.message == "holds something else"
    assert stats.usage == []


async def test_what_is_not_served_says_so_by_name(world: World) -> None:
    controller, groups = csi.ControllerStub(world.channel), csi.GroupControllerStub(world.channel)
    metadata = csi.SnapshotMetadataStub(world.channel)
    unserved = [
        world.node.node_stage_volume(csi.NodeStageVolumeRequest()),
        world.node.node_unstage_volume(csi.NodeUnstageVolumeRequest()),
        world.node.node_expand_volume(csi.NodeExpandVolumeRequest()),
        controller.create_volume(csi.CreateVolumeRequest()),
        controller.controller_get_capabilities(),
        groups.group_controller_get_capabilities(),
        anext(aiter(metadata.get_metadata_allocated(csi.GetMetadataAllocatedRequest()))),
    ]
    for call in unserved:
        with pytest.raises(GRPCError) as refusal:
            await call
        assert refusal.value.status is Status.UNIMPLEMENTED
        assert "is not implemented" in str(refusal.value.message)


async def test_another_operation_on_the_volume_is_told_to_come_again(world: World, kernel: Kernel) -> None:
    kernel.gate.clear()
    publishing = asyncio.create_task(world.node.node_publish_volume(publish_request()))
    await kernel.has_begun(1)
    with pytest.raises(GRPCError) as refusal:
        await world.node.node_unpublish_volume(unpublish_request())
    assert refusal.value.status is Status.ABORTED
    kernel.gate.set()
    await publishing
    await world.node.node_unpublish_volume(unpublish_request())
    assert not kernel.published


async def test_a_call_that_is_given_up_goes_on_and_the_next_one_joins_it(world: World, kernel: Kernel) -> None:
    kernel.gate.clear()
    for _ in range(3):
        with pytest.raises((GRPCError, TimeoutError)):
            await world.node.node_publish_volume(publish_request(), timeout=0.05)
        await world.calls.idle()
    assert kernel.begun == 1
    kernel.gate.set()
    await world.node.node_publish_volume(publish_request())
    assert kernel.published


async def test_hundred_volumes_are_published_at_once(world: World, kernel: Kernel) -> None:
    kernel.gate.clear()
    uids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(100)]
    async with asyncio.TaskGroup() as callers:
        for number, uid in enumerate(uids):
            callers.create_task(world.node.node_publish_volume(publish_request(pod_uid=uid, volume=f"v{number}")))
        await kernel.has_begun(len(uids))
        kernel.gate.set()
    assert len(kernel.published) == len(uids)


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (mount.StaleMount("/x", "is cut off"), Status.FAILED_PRECONDITION),
        (mount.StackedMounts("/x", "has two mounts"), Status.FAILED_PRECONDITION),
        (mount.SymlinkInTheWay("/x"), Status.FAILED_PRECONDITION),
        (mount.UnsafePath("/x climbs"), Status.INVALID_ARGUMENT),
        (mount.MountError.of(errno.EPERM, "mount /x"), Status.FAILED_PRECONDITION),
        (mount.MountError.of(errno.EBUSY, "umount /x"), Status.UNAVAILABLE),
        (mount.MountError.of(errno.EINVAL, "mount /x"), Status.INTERNAL),
        (mount.MountError.of(errno.ENOSPC, "mount /x"), Status.RESOURCE_EXHAUSTED),
        (mount.ExecutorSaturated("all threads hang"), Status.UNAVAILABLE),
        (mount.ExecutorClosed("closed"), Status.UNAVAILABLE),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Status.RESOURCE_EXHAUSTED),
    ],
)
async def test_the_kernels_refusals_have_codes_and_keep_their_words(
    world: World, kernel: Kernel, failure: Exception, status: Status
) -> None:
    kernel.failure = failure
    for call in (world.node.node_publish_volume(publish_request()), world.node.node_unpublish_volume(unpublish_request())):
        with pytest.raises(GRPCError) as refusal:
            await call
        assert refusal.value.status is status
        assert refusal.value.message == str(failure)


async def test_a_defect_is_answered_with_a_mark_that_leads_to_its_trace(
    world: World, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.failure = KeyError("the secret AKIA")
    with pytest.raises(GRPCError) as refusal:
        await world.node.node_publish_volume(publish_request())
    assert refusal.value.status is Status.INTERNAL
    assert "AKIA" not in str(refusal.value.message)
    defects = [record for record in caplog.records if record.exc_info]
    assert len(defects) == 1
    assert str(getattr(defects[0], "log_id")) in str(refusal.value.message)  # noqa: B009


async def test_every_error_of_the_mount_package_was_foreseen() -> None:
    foreseen = [cls for cls in vars(mount).values() if isinstance(cls, type) and issubclass(cls, mount.MountProblem)]
    assert [cls for cls in foreseen if cls is not mount.MountProblem and CODES.of(cls.__new__(cls)) is None] == []


async def test_every_call_is_counted_with_its_code(world: World, kernel: Kernel) -> None:
    await world.node.node_publish_volume(publish_request())
    with pytest.raises(GRPCError):
        await world.node.node_publish_volume(csi.NodePublishVolumeRequest())
    kernel.gate.clear()
    with pytest.raises(GRPCError):
        await world.node.node_unpublish_volume(unpublish_request(), deadline=ServersDeadline(caller=60.0, server=0.05))
    kernel.gate.set()
    await world.calls.idle()
    assert world.seen == [
        ("NodePublishVolume", "OK"),
        ("NodePublishVolume", "INVALID_ARGUMENT"),
        ("NodeUnpublishVolume", "DEADLINE_EXCEEDED"),
    ]


class ServersDeadline(Deadline):
    """Caller and server count the same time, each by itself, and a caller that is the first hangs up. This one waits longer than it
    tells the server."""

    def __init__(self, *, caller: float, server: float) -> None:
        super().__init__(_timestamp=math.inf)
        self._seconds = iter((caller, server))

    def time_remaining(self) -> float:
        return next(self._seconds)


async def test_kubelet_is_told_where_the_services_are(world: World) -> None:
    info = await kubelet.RegistrationStub(world.channel).get_info()
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", names.DRIVER, f"{KUBELET_DIR}/plugins/x/csi.sock")
    assert info.supported_versions == ["1.0.0"]


async def test_kubelets_verdict_is_kept_until_the_next(world: World) -> None:
    stub = kubelet.RegistrationStub(world.channel)
    assert "not registered the CSI driver yet" in world.registration.problem
    await stub.notify_registration_status(kubelet.RegistrationStatus(plugin_registered=False, error="no such node"))
    assert "no such node" in world.registration.problem
    await stub.notify_registration_status(kubelet.RegistrationStatus(plugin_registered=True))
    assert world.registration.problem == ""
