"""A process may end at any write, before it or after it: the next one brings the world to the same end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dynvol.api import names
from dynvol.kube.configuration import connect

from .world import World
from .world import world as a_world

pytestmark = pytest.mark.asyncio(loop_scope="session")

MOST_WRITES = 40
"""Of one step. More than this is a loop."""


@asynccontextmanager
async def prepared(kubeconfig: Path) -> AsyncIterator[World]:
    """A pod with a mount that works, and no process."""
    async with a_world(partial(connect, kubeconfig)) as world:
        await world.add_class()
        await world.add_pod()
        yield world


def is_moved(world: World) -> bool:
    return is_whole(world) and world.wanted() == {"data": "moved"} and next(iter(world.table.mounts)).name == "moved"


def is_gone(world: World) -> bool:
    return world.claim() is None and not world.table.mounts and world.mount_pod() is None


def is_whole(world: World) -> bool:
    """Everything of one claim in one pod is there, once, and belongs together."""
    mount_pod, claim, provider_class = world.mount_pod(), world.claim(), world.classes.store.get(world.provider_class)
    if mount_pod is None or claim is None or provider_class is None:
        return False
    copy = world.secrets.store.get(mount_pod.metadata.key)
    return (
        world.condition("Ready").status == "True"
        and world.condition("Ready").observed_generation == claim.metadata.generation
        and claim.metadata.finalizers == (names.CLAIM_FINALIZER,)
        and provider_class.metadata.finalizers == (names.CLASS_FINALIZER,)
        and (provider_class.status.pods, provider_class.status.mount_pods) == (1, 1)
        and sum(not world.is_garbage(secret) for secret in world.secrets.store) == 1
        and copy is not None
        and [o.uid for o in copy.metadata.owner_references] == [mount_pod.metadata.uid]
        and len(world.table.mounts) == 1
    )


async def survive(world: World, act: Callable[[], Awaitable[Any]], *, at: int, after: bool, then: Callable[[World], bool]) -> bool:
    """Lets a process end at its write number `at` after `act`, and another take over. False if there were not that many."""
    async with world.process(cut_at=at, after=after) as process:
        await act()
        await world.until(lambda: process.wire.cut.is_set() or then(world))
    if was_cut := process.wire.cut.is_set():
        async with world.process():
            await world.until(lambda: then(world))
    return was_cut


async def test_a_process_that_ends_at_any_write_leaves_nothing_that_the_next_cannot_finish(kubeconfig: Path) -> None:
    for at in range(1, MOST_WRITES):
        async with prepared(kubeconfig) as world:
            # Both kinds of end in turns; to try both at each write would take twice as long.
            cuts = [
                await survive(world, world.add_claim, at=at, after=at % 2 == 0, then=is_whole),
                await survive(world, partial(world.edit, "data", mountpoint="/moved"), at=at, after=at % 2 == 1, then=is_moved),
                await survive(world, world.delete_claim, at=at, after=at % 2 == 0, then=is_gone),
            ]
        if not any(cuts):
            return
    raise AssertionError(f"still writing after {MOST_WRITES} writes")


async def test_a_secret_copy_whose_mount_pod_never_came_goes_when_nobody_needs_one(kubeconfig: Path) -> None:
    async with prepared(kubeconfig) as world:
        for crashes in (False, True):
            async with world.process() as process:
                process.wire.refused = f"/namespaces/{world.driver}/pods"
                await world.add_claim()
                await world.until(lambda: len(world.secrets.store))
                if not crashes:
                    await world.delete_claim()
                    await world.until(lambda: world.claim() is None and not len(world.secrets.store))
        await world.delete_claim()
        async with world.process():
            await world.until(lambda: not len(world.secrets.store))
