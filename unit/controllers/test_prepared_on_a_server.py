"""Mount pods that are there before the first claim, where the class says so."""

from __future__ import annotations

import pytest

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.mounts import decode_wanted
from dynvol.api.resources import CLASSES, NODES

from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def prepared(world: World) -> tuple[Pod, Pod]:
    """A pod without claims, and the mount pod that is ready for it."""
    await world.add_class(mount_pod="prepared")
    pod = await world.add_pod()
    mount_pod = await world.until(world.mount_pod)
    assert isinstance(mount_pod, Pod)
    assert decode_wanted(mount_pod.metadata.annotations.get(names.WANTED_ANNOTATION, "")) == []
    return pod, mount_pod


def uid(world: World) -> str:
    found = world.mount_pod()
    return found.metadata.uid if found else ""


async def test_it_serves_the_first_claim_outlives_the_last_and_goes_with_the_pod(world: World) -> None:
    async with world.process():
        pod, first = await prepared(world)
        await world.add_claim()
        await world.until(world.is_mounted)
        await world.delete_claim()
        await world.until(lambda: world.claim("data") is None)
        await world.add_claim("next")
        await world.until(lambda: world.is_mounted(claim="next"))
        assert uid(world) == first.metadata.uid
        await world.delete_claim("next")
        await world.end_pod(pod)
        await world.until(lambda: world.mount_pod() is None and not world.mine())


async def test_it_goes_when_the_class_no_longer_wants_it_and_comes_when_it_does(world: World) -> None:
    async with world.process():
        _, first = await prepared(world)
        await set_when(world, names.ON_DEMAND)
        await world.until(lambda: world.mount_pod() is None)
        await set_when(world, names.PREPARED)
        await world.until(lambda: uid(world) not in ("", first.metadata.uid))


async def test_a_node_that_is_being_emptied_is_not_prepared_until_it_is_back(world: World) -> None:
    async with world.process() as process:
        await prepared(world)
        await world.admin.merge_patch(NODES, world.node, {"spec": {"unschedulable": True}})
        await world.until(lambda: process.view.draining() and world.mount_pod() is None)
        await world.admin.merge_patch(NODES, world.node, {"spec": {"unschedulable": False}})
        await world.until(world.mount_pod)


async def test_a_class_that_is_going_prepares_nothing(world: World) -> None:
    async with world.process():
        pod, _ = await prepared(world)
        await world.admin.delete(CLASSES, world.provider_class)
        await world.until(lambda: world.mount_pod() is None)
        await world.end_pod(pod)


async def set_when(world: World, when: str) -> None:
    body = {"spec": {"parameters": {names.MOUNT_POD_PARAMETER: when}}}
    await world.admin.merge_patch(CLASSES, world.provider_class, body)
