"""Data that lies on a node's disk and waits for its storage: whoever it belonged to may be gone, it is uploaded or spoken of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

import pytest

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.mounts import UNFLUSHED, Phase
from dynvol.api.resources import PODS, SECRETS
from dynvol.controllers import claimreport, credentials, externalvolume, mountpod, providerclass
from dynvol.controllers.mountpodspec import CREDENTIALS_DIGEST
from dynvol.controllers.view import told
from dynvol.mount.caches import Leftover

from .node_played import STATE
from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(autouse=True)
def looks_are_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpod, "UPLOAD_CHECK", 0.2)
    monkeypatch.setattr(claimreport, "LOOK_AGAIN", 0.2)
    monkeypatch.setattr(externalvolume, "PROBLEM_RETRY", 0.2)


async def mounted_with_data_on_disk(world: World, *, policy: str = names.INDEPENDENT) -> tuple[Pod, PurePosixPath]:
    """A pod whose client has two files to upload to a storage that is away, and the cache that they lie in."""
    await world.add_class()
    pod = await world.add_pod(policy=policy)
    await world.add_claim()
    await world.until(world.is_mounted)
    world.mounters.offline = True
    (mount,) = told(world.mount_pod())
    cache = PurePosixPath(str(world.workload(pod).cache(STATE)))
    world.table.left[cache] = (Leftover(mount, 2),)
    return pod, cache


def says_so(world: World) -> bool:
    entry = world.entries().get("web")
    return entry is not None and (entry.phase, entry.reason) == (Phase.UNMOUNTING, UNFLUSHED)


async def storage_is_back(world: World) -> None:
    world.mounters.offline = False
    world.mounters.poke()


@pytest.mark.parametrize("policy", [names.INDEPENDENT, names.SHARED])
async def test_data_of_a_pod_that_is_gone_is_uploaded_by_a_new_mount_pod(world: World, policy: str) -> None:
    async with world.process():
        pod, _ = await mounted_with_data_on_disk(world, policy=policy)
        await world.end_pod(pod)
        await world.until(lambda: says_so(world))
        old = world.mount_pod()
        assert old is not None
        await world.mounters.end(old)
        await world.until(lambda: (new := world.mount_pod()) and new.metadata.uid != old.metadata.uid)
        await world.delete_claim()
        await world.until(lambda: says_so(world) and "Terminating" in world.condition("Ready").reason)
        await storage_is_back(world)
        await world.until(lambda: world.claim() is None and world.is_empty() and not world.table.left)


async def test_data_is_found_by_a_process_that_starts_when_all_else_is_gone(world: World) -> None:
    async with world.process():
        pod, cache = await mounted_with_data_on_disk(world)
    await world.end_pod(pod)
    old = world.mount_pod()
    assert old is not None
    await world.mounters.end(old)
    world.table.directories.clear()
    async with world.process():
        await world.until(lambda: says_so(world) and world.mount_pod())
        assert told(world.mount_pod()) == ()
        assert cache in world.table.left
        await storage_is_back(world)
        await world.until(lambda: world.is_empty() and not world.table.left and not world.entries())


async def test_without_a_secret_data_is_kept_and_spoken_of_until_there_is_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "FRESH", 0.0)
    async with world.process():
        pod, cache = await mounted_with_data_on_disk(world)
        await world.drop_secret()
        await world.end_pod(pod)
        old = world.mount_pod()
        assert old is not None
        await world.mounters.end(old)
        await world.until(lambda: says_so(world) and "does not exist" in world.entries()["web"].message)
        assert f"2 files are not in the storage yet, of {world.namespace}/data; kept on node" in world.entries()["web"].message
        assert str(cache) in world.entries()["web"].message
        await world.add_secret()
        await storage_is_back(world)
        await world.until(lambda: world.is_empty() and not world.table.left and not world.entries())


async def test_a_claim_is_not_held_for_ever_by_data_that_cannot_be_uploaded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimreport, "RELEASED_AFTER", 3.0)
    async with world.process():
        _, cache = await mounted_with_data_on_disk(world)
        await world.delete_claim()
        await world.until(lambda: says_so(world))
        await world.until(lambda: world.claim() is None)
        assert world.table.left[cache]
        assert world.mount_pod() is not None
        assert UNFLUSHED in await world.reasons_told("DynamicVolumeClaim")
        await storage_is_back(world)
        await world.until(lambda: world.mount_pod() is None)


async def test_a_mount_pod_that_is_down_when_its_last_claim_goes_stays_for_what_it_has_to_upload(world: World) -> None:
    async with world.process():
        await mounted_with_data_on_disk(world)
        old = world.mount_pod()
        assert old is not None
        world.mounters.deaf = True
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
        await world.mounters.say(old, {"phase": "Running", "containerStatuses": [container(waiting)]})
        await world.delete_claim()
        await world.until(lambda: not told(world.mount_pod()))
        await world.until(lambda: (c := world.claim()) and c.metadata.deleting and "web" in world.entries())
        assert (found := world.mount_pod()) and not found.metadata.deleting


async def test_a_mount_pod_that_crashes_again_and_again_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(externalvolume, "CRASH_PATIENCE", 2.0)
    async with world.process():
        await world.add_class()
        await world.add_pod()
        await world.add_claim()
        await world.until(world.is_mounted)
        old = world.mount_pod()
        assert old is not None
        world.mounters.asleep = True
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
        await world.mounters.say(old, {"phase": "Running", "containerStatuses": [container(waiting)]})
        await world.until(lambda: (new := world.mount_pod()) and new.metadata.uid != old.metadata.uid)
        world.mounters.asleep = False
        world.mounters.poke()
        await world.until(world.is_mounted)


async def test_a_changed_secret_is_copied_and_marked_on_the_mount_pod(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "FRESH", 0.0)
    monkeypatch.setattr(providerclass, "CREDENTIALS_CHECK", 0.2)
    async with world.process():
        await world.add_class()
        await world.add_pod()
        await world.add_claim()
        await world.until(world.is_mounted)
        before = world.mount_pod()
        assert before is not None
        body = {"stringData": {names.ACCESS_KEY: "other"}}
        await world.admin.merge_patch(SECRETS, "keys", body, namespace=world.namespace)
        await world.until(lambda: _digest(world.mount_pod()) != _digest(before))
        (copy,) = world.secrets.store.values()
        assert copy.data[names.ACCESS_KEY] == b"other"
        await world.drop_secret()
        await world.until(lambda: world.is_mounted())
        after = await world.admin.get(PODS, before.metadata.name, namespace=world.driver)
        assert after.metadata.uid == before.metadata.uid


def _digest(mount_pod: Pod | None) -> str:
    assert mount_pod is not None
    return mount_pod.metadata.annotations[CREDENTIALS_DIGEST]


def container(state: Mapping[str, object]) -> dict[str, object]:
    return {"name": "mounter", "ready": False, "restartCount": 9, "image": "i", "imageID": "i", "state": state}
