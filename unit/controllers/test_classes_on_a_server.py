"""A class is held by those who use it, and by nobody else."""

from __future__ import annotations

import pytest

from dynvol.api import names
from dynvol.api.resources import CLASSES
from dynvol.controllers import providerclass

from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


def finalizers(world: World) -> tuple[str, ...] | None:
    """None: there is no such class."""
    found = world.classes.store.get(world.provider_class)
    return found.metadata.finalizers if found else None


async def test_a_class_is_held_while_a_pod_uses_it(world: World) -> None:
    async with world.process():
        await world.add_class()
        pod = await world.add_pod()
        await world.until(lambda: finalizers(world) == (names.CLASS_FINALIZER,))
        await world.admin.delete(CLASSES, world.provider_class)
        await world.until(lambda: (c := world.classes.store.get(world.provider_class)) and c.metadata.deleting)
        await world.end_pod(pod)
        await world.until(lambda: finalizers(world) is None)


async def test_a_class_that_nobody_uses_any_more_is_not_held(world: World) -> None:
    async with world.process():
        await world.add_class()
        pod = await world.add_pod()
        await world.until(lambda: finalizers(world) == (names.CLASS_FINALIZER,))
        await world.end_pod(pod)
        await world.until(lambda: finalizers(world) == ())


async def test_in_a_removal_a_class_waits_for_mounts_and_not_for_pods(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providerclass, "REMOVAL_CHECK", 0.1)
    async with world.process() as process:
        await world.add_class()
        await world.add_pod()
        await world.add_claim()
        await world.until(world.is_mounted)
        world.mounters.flushing = True
        process.removal = True
        await world.delete_claim()
        await world.admin.delete(CLASSES, world.provider_class)
        await world.until(lambda: not world.wanted())
        assert finalizers(world) == (names.CLASS_FINALIZER,)
        world.mounters.flushing = False
        world.mounters.poke()
        await world.until(lambda: finalizers(world) is None)
        assert world.mount_pod() is None
        assert world.pods.store.get(f"{world.namespace}/web") is not None
