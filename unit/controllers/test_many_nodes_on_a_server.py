"""Several nodes, and the leader's work: sums, conditions, letting go."""

from __future__ import annotations

from typing import cast

import pytest

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.resources import CLAIMS, CLASSES, NODES
from dynvol.controllers.finalizers import add_finalizer
from dynvol.kube.client import KubeClient
from dynvol.kube.connection import Connection
from dynvol.runtime.store import Change

from .world import Wire, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


def users(world: World) -> tuple[int, int]:
    found = world.classes.store.get(world.provider_class)
    return (found.status.pods, found.status.mount_pods) if found else (0, 0)


def class_condition(world: World, type: str) -> str:
    found = world.classes.store.get(world.provider_class)
    return next((c.message for c in found.status.conditions if c.type == type), "") if found else ""


async def test_two_nodes_write_into_one_claim_and_each_takes_only_its_own_back(world: World) -> None:
    other = f"other-{world.name}"
    await world.add_node(other)
    async with world.process(), world.process(node=other, lead=False):
        await world.add_class()
        here, there = await world.add_pod("here"), await world.add_pod("there", node=other)
        await world.add_claim()
        await world.until(lambda: world.condition("Ready").message == "2 of 2 pods have the mount")
        assert {pod: e.node for pod, e in world.entries().items()} == {"here": world.node, "there": other}
        await world.end_pod(here)
        await world.until(lambda: list(world.entries()) == ["there"])
        assert world.is_mounted("there")
        await world.delete_claim()
        await world.until(lambda: world.claim() is None)
        await world.end_pod(there)
        await world.until(world.is_empty)


async def test_a_vanished_node_holds_no_claim(world: World) -> None:
    other = f"other-{world.name}"
    await world.add_node(other)
    async with world.process():
        async with world.process(node=other, lead=False):
            await world.add_class()
            await world.add_pod("here")
            lost = await world.add_pod("there", node=other)
            await world.add_claim()
            await world.until(lambda: world.is_mounted("here") and world.is_mounted("there"))
        await world.admin.delete(NODES, other)
        await world.until(lambda: list(world.entries()) == ["here"])
        await world.end_pod(lost)
        await world.until(lambda: world.condition("Ready").message == "1 of 1 pods have the mount")
        await world.delete_claim()
        await world.until(lambda: world.claim() is None)


async def test_without_a_leader_claims_come_and_go_but_for_the_last_step(world: World) -> None:
    async with world.process(lead=False) as process:
        await world.add_class()
        await world.add_pod()
        await world.add_claim()
        await world.until(world.is_mounted)
        assert world.condition("Ready").status == ""
        await world.delete_claim()
        await world.until(lambda: not world.entries() and not world.table.mounts)
        assert world.claim() is not None
        async with world.leading(process):
            await world.until(lambda: world.claim() is None)


async def test_a_new_leader_goes_on_where_the_last_one_stopped(world: World) -> None:
    async with world.process(lead=False) as process:
        async with world.leading(process):
            await world.add_class()
            await world.add_pod()
            await world.add_claim()
            await world.until(lambda: world.condition("Ready").status == "True")
        await world.add_pod("second")
        await world.until(lambda: world.is_mounted("second"))
        handlers = len(process.view.classes._registrations)
        async with world.leading(process):
            await world.until(lambda: world.condition("Ready").message == "2 of 2 pods have the mount")
        assert len(process.view.classes._registrations) == handlers


async def test_a_claim_is_never_let_go_while_an_entry_stands(world: World) -> None:
    seen: list[bool] = []

    def see(change: Change[DynamicVolumeClaim]) -> None:
        claim = change.new or change.old
        if claim is not None and claim.metadata.deleting and names.CLAIM_FINALIZER not in claim.metadata.finalizers:
            seen.append(bool(claim.status.pods))

    world.claims.add_handler(see)
    async with world.process():
        await world.add_class()
        await world.add_pod()
        await world.add_claim()
        await world.until(world.is_mounted)
        await world.delete_claim()
        await world.until(lambda: world.claim() is None)
    assert not any(seen)


async def test_a_class_that_is_deleted_while_used_stays_says_why_and_goes_with_its_last_user(world: World) -> None:
    async with world.process():
        await world.add_class()
        pod = await world.add_pod()
        await world.add_claim()
        await world.until(lambda: world.is_mounted() and users(world) == (1, 1))
        await world.admin.delete(CLASSES, world.provider_class)
        await world.until(lambda: f"{world.namespace}/web" in class_condition(world, "Terminating"))
        assert world.is_mounted()
        await world.add_claim("late")
        await world.until(lambda: world.is_mounted(claim="late"))
        await world.end_pod(pod)
        await world.until(lambda: world.provider_class not in world.classes.store)
        await world.until(world.is_empty)


async def test_a_class_made_anew_serves_as_the_first_did(world: World) -> None:
    async with world.process():
        await world.add_class()
        await world.until(lambda: class_condition(world, "Ready") == "" and users(world) == (0, 0) and world.classes.store)
        await world.admin.delete(CLASSES, world.provider_class)
        await world.until(lambda: world.provider_class not in world.classes.store)
        await world.add_pod()
        await world.add_claim()
        await world.until(lambda: world.condition("Ready").reason == "ClassNotFound")
        await world.add_class(secret=False)
        await world.until(world.is_mounted)


async def test_a_finalizer_goes_on_at_once_though_others_have_written_the_status(world: World) -> None:
    await world.add_claim()
    stale = await world.until(world.claim)
    await world.admin.merge_patch(CLAIMS, "data", {"status": {"desired": 7}}, namespace=world.namespace, subresource="status")
    async with world.connect() as connection:
        wire = Wire(connection, told=world.poke)
        await add_finalizer(KubeClient(cast(Connection, wire)), CLAIMS, stale, names.CLAIM_FINALIZER)
    assert (len(wire.writes), wire.reads) == (1, [])
    await world.until(lambda: (claim := world.claim()) and names.CLAIM_FINALIZER in claim.metadata.finalizers)
