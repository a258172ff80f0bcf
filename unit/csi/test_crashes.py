"""The CSI server is killed at each system call while two pods of one root come and go, and kubelet calls the next one.

A third pod of that root has a mount all the while, and must never lose it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dynvol.mount import mountinfo, syscalls, targets
from unit.csi.test_kernel import World, world
from unit.mount.killing import at_each_call
from unit.mount.namespaces import run_isolated

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts")]

COMING = ("11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000")


async def publish(node: World) -> None:
    await asyncio.gather(*(node.publish(node.request(pod_uid=uid, policy="shared")) for uid in COMING))


async def unpublish(node: World) -> None:
    await asyncio.gather(*(node.unpublish(pod_uid=uid) for uid in COMING))


def life(playground: Path, *calls: Callable[[World], Awaitable[None]]) -> None:
    """Of a node process, in which kubelet makes these calls."""

    async def scene() -> None:
        async with world(playground) as node:
            for call in calls:
                await call(node)

    asyncio.run(scene())


def a_pod_with_a_mount(playground: Path) -> Path:
    """The place where its program sees it."""
    places: list[Path] = []

    async def come(node: World) -> None:
        request = node.request(policy="shared")
        await node.publish(request)
        places.extend((node.directory(request), node.target()))

    life(playground, come)
    directory, target = places
    (directory / "data").mkdir()
    syscalls.mount(str(directory / "data"), source="bucket", fstype="tmpfs")
    (target / "data" / "file").write_text("mine")
    return target / "data"


async def is_published(node: World) -> None:
    table = await node.table()
    for uid in COMING:
        directory = _directory(node, uid)
        targets.check_published(table, targets.Placement(str(node.target(pod_uid=uid)), str(directory), str(directory.parent)))


async def is_gone(node: World) -> None:
    """With the pods, the workloads' directories can go too."""
    for uid in COMING:
        directory = _directory(node, uid)
        assert not node.target(pod_uid=uid).exists()
        removal = await asyncio.to_thread(targets.release_workload, str(directory), root=str(directory.parent))
        assert removal.left == () and not directory.exists()


def _directory(node: World, uid: str) -> Path:
    return node.directory(node.request(pod_uid=uid, policy="shared"))


def test_a_server_killed_at_any_call_keeps_no_pod_from_coming_or_going(kubelet_dir: Path) -> None:
    def play() -> None:
        data = a_pod_with_a_mount(kubelet_dir)
        idle = sorted(m.path for m in mountinfo.read())
        calls = set()
        for call in at_each_call(lambda: life(kubelet_dir, publish, unpublish)):
            calls.add(call)
            life(kubelet_dir, publish, is_published)
            life(kubelet_dir, unpublish, is_gone)
            assert (data / "file").read_text() == "mine"
            assert sorted(m.path for m in mountinfo.read()) == idle
        assert calls == {"mkdir", "chmod", "rename", "remove", "open_tree", "mount_setattr", "move_mount", "umount"}

    run_isolated(play, playground=str(kubelet_dir), timeout=60)
