"""Whatever happens, in whatever order, the world comes to what the API says, and nothing is left behind in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.mounts import Phase
from dynvol.api.resources import CLAIMS, PODS
from dynvol.controllers.desired import attachments, wanted_mount
from dynvol.kube.errors import AlreadyExists, Conflict, NotFound

from .world import Process, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

STEPS = 60
CLAIMS_TRIED = ("a", "b", "c")
PODS_TRIED = {"one": names.INDEPENDENT, "two": names.SHARED, "three": names.SHARED}
MOUNTPOINTS = ("/x", "/x/y", "/z")


class Misfortune:
    """One thing after another, as the dice fall. Never waits for anything to come of it."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.process: Process | None = None
        self.stack = AsyncExitStack()

    async def go_on(self) -> None:
        acts: list[Callable[[], Awaitable[None]]] = [
            self.make_claim,
            self.edit_claim,
            self.delete_claim,
            self.make_pod,
            self.end_pod,
            self.relabel,
            self.end_mount_pod,
            self.fail_mount_pod,
            self.delete_mount_pod,
            self.restart,
            self.lag,
            self.flush,
        ]
        try:
            await self.dice.choice(acts)()
        except (NotFound, AlreadyExists, Conflict):
            return  # The dice knew less than the server.

    async def make_claim(self) -> None:
        name = self.dice.choice(CLAIMS_TRIED)
        if self.world.claim(name) is None:
            await self.world.add_claim(name, mountpoint=self.dice.choice(MOUNTPOINTS))

    async def edit_claim(self) -> None:
        await self.world.edit(self.dice.choice(CLAIMS_TRIED), mountpoint=self.dice.choice(MOUNTPOINTS))

    async def delete_claim(self) -> None:
        await self.world.delete_claim(self.dice.choice(CLAIMS_TRIED))

    async def make_pod(self) -> None:
        name = self.dice.choice(list(PODS_TRIED))
        await self.world.add_pod(name, policy=PODS_TRIED[name])

    async def end_pod(self) -> None:
        if pods := self.world.pods.store.values():
            await self.world.end_pod(self.dice.choice(pods))

    async def relabel(self) -> None:
        body = {"metadata": {"labels": {"app": self.dice.choice(("web", "db"))}}}
        await self.world.admin.merge_patch(PODS, self.dice.choice(list(PODS_TRIED)), body, namespace=self.world.namespace)

    def _mount_pod(self) -> Pod | None:
        running = [p for p in self.world.mount_pods.store.values() if p.status.phase == "Running"]
        return self.dice.choice(running) if running else None

    async def end_mount_pod(self) -> None:
        if found := self._mount_pod():
            await self.world.mounters.end(found)

    async def fail_mount_pod(self) -> None:
        if found := self._mount_pod():
            await self.world.mounters.fail(found)

    async def delete_mount_pod(self) -> None:
        if found := self._mount_pod():
            await self.world.admin.delete(PODS, found.metadata.name, namespace=self.world.driver)

    async def restart(self) -> None:
        await self.stack.aclose()
        self.process = await self.stack.enter_async_context(self.world.process())

    async def lag(self) -> None:
        if self.process is not None:
            (self.process.wire.flowing.clear if self.dice.random() < 0.5 else self.process.wire.flowing.set)()

    async def flush(self) -> None:
        self.world.mounters.flushing = self.dice.random() < 0.5
        self.world.mounters.poke()

    async def end(self) -> None:
        """Nothing stands in the way any more."""
        if self.process is None:
            await self.restart()
        assert self.process is not None
        self.process.wire.flowing.set()
        self.world.mounters.flushing = False
        self.world.mounters.poke()

    async def take_all_away(self) -> None:
        """Asked of the server: the test's own caches may lag behind as well."""
        for claim in await self.world.admin.list(CLAIMS, namespace=self.world.namespace):
            with suppress(NotFound):
                await self.world.delete_claim(claim.metadata.name)
        for pod in await self.world.admin.list(PODS, namespace=self.world.namespace):
            with suppress(NotFound):
                await self.world.end_pod(pod)


def due(world: World) -> dict[tuple[str, str], str]:
    """(claim, pod) → the source of the mount that should be, or the phase of a pair that gets none."""
    classes = {c.metadata.name: c for c in world.classes.store}
    found: dict[tuple[str, str], str] = {}
    for pod in world.pods.store:
        for each in attachments(pod, world.mine(), classes):
            pair = each.claim.metadata.name, pod.metadata.name
            mounts = each.volume is not None and each.refusal is None
            found[pair] = wanted_mount(each, classes[world.provider_class]).source if mounts else Phase.CONFLICT
    return found


def has_come_true(world: World) -> bool:
    wanted = due(world)
    said = {(c.metadata.name, e.pod): e.phase for c in world.mine() for e in c.status.pods}
    sources = sorted(source for source in wanted.values() if source != Phase.CONFLICT)
    return (
        not any(c.metadata.deleting for c in world.mine())
        and said == {pair: Phase.CONFLICT if what == Phase.CONFLICT else Phase.MOUNTED for pair, what in wanted.items()}
        and sorted(world.table.mounts.values()) == sources
        and len(world.table.living) == len(world.mount_pods.store)
    )


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_misfortune_the_world_comes_to_what_the_api_says(world: World, seed: int) -> None:
    await world.add_class()
    misfortune = Misfortune(world, random.Random(seed))
    async with misfortune.stack:
        for _ in range(STEPS):
            await misfortune.go_on()
            # Sometimes the controllers get a turn in between, sometimes they do not.
            await asyncio.sleep(misfortune.dice.choice((0.0, 0.0, 0.02, 0.05)))
        await misfortune.end()
        await world.until(lambda: has_come_true(world))
        await misfortune.take_all_away()
        await world.until(lambda: world.is_empty() and not world.mine())
