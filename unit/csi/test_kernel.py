"""The server with real mounts, in a mount namespace of its own: what kubelet asks for is what a container would see."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from dynvol.csi.kernel import KernelTargets
from dynvol.csi.node import Standing
from dynvol.csi.proto.csi import v1 as csi
from dynvol.csi.requests import Node, publication
from dynvol.csi.server import CsiServer
from dynvol.mount import mountinfo, propagation, syscalls
from dynvol.mount.executor import MountExecutor
from dynvol.mount.syscalls import MountFlag
from unit.csi.wishes import OTHER_UID, POD_UID, context, node, publish_request, stats_request, target_path, unpublish_request
from unit.mount.namespaces import Namespace, run_isolated

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts")]

Scenario = Callable[["World"], Awaitable[None]]


class World:
    def __init__(self, playground: Path, stub: csi.NodeStub, targets: KernelTargets) -> None:
        self.kubelet_dir = str(playground / "kubelet")
        self.node = _node(playground)
        self.stub = stub
        self.targets = targets

    def request(self, *, pod_uid: str = POD_UID, policy: str = "independent") -> csi.NodePublishVolumeRequest:
        request = publish_request(self.kubelet_dir, pod_uid=pod_uid, volume=f"csi-{pod_uid}")
        request.volume_context = context(pod_uid=pod_uid, mountPodDispatchPolicy=policy)
        Path(request.target_path).parent.mkdir(parents=True, exist_ok=True)  # Kubelet's part.
        return request

    def target(self, *, pod_uid: str = POD_UID) -> Path:
        return Path(target_path(self.kubelet_dir, pod_uid=pod_uid))

    def directory(self, request: csi.NodePublishVolumeRequest) -> Path:
        return Path(publication(request, node=self.node).directory)

    async def table(self) -> mountinfo.MountTable:
        return await asyncio.to_thread(mountinfo.read)

    async def mounted(self) -> list[str]:
        return sorted(mount.path for mount in await self.table())

    async def publish(self, request: csi.NodePublishVolumeRequest) -> None:
        await self.stub.node_publish_volume(request)

    async def unpublish(self, *, pod_uid: str = POD_UID) -> None:
        await self.stub.node_unpublish_volume(unpublish_request(self.kubelet_dir, pod_uid=pod_uid, volume=f"csi-{pod_uid}"))

    async def stats(self, *, pod_uid: str = POD_UID) -> csi.NodeGetVolumeStatsResponse:
        return await self.stub.node_get_volume_stats(stats_request(self.kubelet_dir, pod_uid=pod_uid, volume=f"csi-{pod_uid}"))


def _node(playground: Path) -> Node:
    return node(str(playground / "kubelet"), state_dir=str(playground / "state"))


@asynccontextmanager
async def world(playground: Path) -> AsyncIterator[World]:
    async with MountExecutor() as executor:
        targets = KernelTargets(executor)
        async with (
            CsiServer(targets, node=_node(playground), version="1", drain=5) as server,
            Channel(path=str(server.endpoint)) as channel,
        ):
            yield World(playground, csi.NodeStub(channel), targets)


def _play(scenario: Scenario, playground: Path) -> None:
    async def whole() -> None:
        async with world(playground) as node_process:
            await scenario(node_process)

    run_isolated(lambda: asyncio.run(whole()), playground=str(playground), timeout=60)


def test_a_published_volume_is_an_empty_read_only_root_that_receives_mounts(kubelet_dir: Path) -> None:
    async def scenario(world: World) -> None:
        request = world.request()
        await world.publish(request)
        assert list(world.target().iterdir()) == []
        with pytest.raises(OSError, match="Read-only"):
            (world.target() / "planted").touch()
        bucket = world.directory(request) / "data"
        bucket.mkdir()
        syscalls.mount(str(bucket), source="bucket", fstype="tmpfs")
        (world.target() / "data" / "written").write_text("in the container")
        assert (bucket / "written").read_text() == "in the container"

    _play(scenario, kubelet_dir)


def test_publishing_again_changes_nothing_and_unpublishing_leaves_nothing(kubelet_dir: Path) -> None:
    async def scenario(world: World) -> None:
        await world.publish(world.request())
        once = await world.mounted()
        for _ in range(3):
            await world.publish(world.request())
            assert await world.mounted() == once
        for _ in range(2):
            await world.unpublish()
            assert (await world.table()).stack(str(world.target())) == ()
            assert not world.target().exists()
        await world.publish(world.request())
        assert await world.mounted() == once

    _play(scenario, kubelet_dir)


def test_unpublishing_leaves_the_mount_pods_mounts_alone(kubelet_dir: Path) -> None:
    async def scenario(world: World) -> None:
        request = world.request()
        await world.publish(request)
        bucket = world.directory(request) / "data"
        bucket.mkdir()
        syscalls.mount(str(bucket), source="bucket", fstype="tmpfs")
        held = os.open(world.target() / "data" / "file", os.O_CREAT | os.O_WRONLY)
        await world.unpublish()
        os.close(held)
        assert (await world.table()).at(str(bucket)) is not None
        assert (bucket / "file").exists()

    _play(scenario, kubelet_dir)


def test_stats_tell_a_good_target_from_a_lost_and_a_foreign_one(kubelet_dir: Path) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(GRPCError) as refusal:
            await world.stats()
        assert refusal.value.status is Status.NOT_FOUND

        request = world.request()
        await world.publish(request)
        good = await world.stats()
        assert good.volume_condition is not None
        assert (good.volume_condition.abnormal, good.volume_condition.message) == (False, "published")
        assert {usage.unit for usage in good.usage} == {csi.VolumeUsageUnit.BYTES, csi.VolumeUsageUnit.INODES}
        assert all(usage.total >= usage.used for usage in good.usage)

        syscalls.unmount(str(world.target()))
        await _is_abnormal(world, "nothing is mounted at")
        syscalls.mount(str(world.target()), source="foreign", fstype="tmpfs")
        await _is_abnormal(world, "receives no mounts")
        with pytest.raises(GRPCError) as refusal:
            await world.publish(request)
        assert refusal.value.status is Status.FAILED_PRECONDITION
        assert "foreign" in str(refusal.value.message)
        assert (await world.table()).at(str(world.target())) is not None

    _play(scenario, kubelet_dir)


def test_stats_notice_a_view_that_was_cut_off_and_one_of_another_pods_directory(kubelet_dir: Path) -> None:
    async def scenario(world: World) -> None:
        request, other = world.request(), world.request(pod_uid=OTHER_UID)
        await world.publish(request)
        await world.publish(other)
        syscalls.unmount(str(world.directory(request)))
        await _is_abnormal(world, "receives no mounts")

        syscalls.unmount(str(world.target()))
        syscalls.mount(str(world.target()), source=str(world.directory(other)), flags=MountFlag.BIND)
        syscalls.mount(str(world.target()), flags=MountFlag.SLAVE)
        await _is_abnormal(world, "belongs to another pod")

    _play(scenario, kubelet_dir)


def test_pods_of_a_shared_root_are_published_at_once(kubelet_dir: Path) -> None:
    async def scenario(world: World) -> None:
        uids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(20)]
        requests = [world.request(pod_uid=uid, policy="shared") for uid in uids]
        await asyncio.gather(*(world.publish(request) for request in requests))
        root = str(publication(requests[0], node=world.node).root)
        table = await world.table()
        assert len(table.stack(root)) == 1
        assert [len(table.stack(str(world.target(pod_uid=uid)))) for uid in uids] == [1] * len(uids)
        await asyncio.gather(*(world.unpublish(pod_uid=uid) for uid in uids))
        assert not any(path.startswith(world.kubelet_dir) for path in await world.mounted())

    _play(scenario, kubelet_dir)


def test_a_server_that_starts_anew_knows_what_the_last_one_published(kubelet_dir: Path) -> None:
    async def whole() -> None:
        async with world(kubelet_dir) as first:
            await first.publish(first.request())
            before = await first.mounted()
        async with world(kubelet_dir) as second:
            stats = await second.stats()
            assert stats.volume_condition is not None
            assert not stats.volume_condition.abnormal
            await second.publish(second.request())
            assert await second.mounted() == before
            await second.unpublish()
            assert not second.target().exists()

    run_isolated(lambda: asyncio.run(whole()), playground=str(kubelet_dir), timeout=60)


def test_inspecting_says_how_a_target_is(kubelet_dir: Path) -> None:
    async def scenario(world: World) -> None:
        wanted = publication(world.request(), node=world.node)
        assert (await world.targets.inspect(wanted.target)).exists is False
        await world.targets.publish(wanted)
        standing = await world.targets.inspect(wanted.target)
        assert (standing.exists, standing.problem) == (True, "")
        assert standing != Standing(exists=True)

    _play(scenario, kubelet_dir)


async def _is_abnormal(world: World, says: str) -> None:
    condition = (await world.stats()).volume_condition
    assert condition is not None
    assert condition.abnormal
    assert says in condition.message


def test_what_a_node_process_in_a_container_publishes_is_the_hosts_and_receives_what_the_host_mounts(kubelet_dir: Path) -> None:
    def host() -> None:
        for name in ("kubelet", "state"):
            (kubelet_dir / name).mkdir()
            propagation.attach_bind(str(kubelet_dir / name), str(kubelet_dir / name), propagation=propagation.OWN_PEER_GROUP)
        request = publish_request(str(kubelet_dir / "kubelet"))
        target = Path(request.target_path)
        target.parent.mkdir(parents=True)
        bucket = Path(publication(request, node=_node(kubelet_dir)).directory) / "data"
        with Namespace.copy() as container:
            container.run(lambda: asyncio.run(_in_world(kubelet_dir, lambda world: world.stub.node_publish_volume(request))))
            assert mountinfo.read().stack(str(target))[0].read_only
            bucket.mkdir()
            syscalls.mount(str(bucket), source="bucket", fstype="tmpfs")
            (target / "data" / "written").write_text("through the view")
            assert (bucket / "written").exists()
            container.run(lambda: asyncio.run(_in_world(kubelet_dir, World.unpublish)))
        assert not target.exists()
        assert mountinfo.read().at(str(bucket)) is not None

    run_isolated(host, playground=str(kubelet_dir), timeout=60)


async def _in_world(playground: Path, scenario: Callable[[World], Awaitable[object]]) -> None:
    async with world(playground) as node_process:
        await scenario(node_process)
