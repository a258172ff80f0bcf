"""Mount pods that die, are deleted, are drained; and what must never be done to those that live."""

from __future__ import annotations

import asyncio

import pytest

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.resources import NAMESPACES, NODES, PODS
from dynvol.controllers import credentials, overdue
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import Conflict, Status

from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def mounted(world: World) -> Pod:
    """A workload pod whose mount pod serves it."""
    await world.add_class()
    pod = await world.add_pod()
    await world.add_claim()
    await world.until(world.is_mounted)
    return pod


async def present(world: World) -> Pod:
    found = await world.until(world.mount_pod)
    assert isinstance(found, Pod)
    return found


def is_replaced(world: World, old: Pod) -> bool:
    new = world.mount_pod()
    return new is not None and new.metadata.uid != old.metadata.uid and world.is_mounted() and bool(world.table.living)


async def test_a_mount_pod_that_was_evicted_is_replaced_after_its_remains_are_cleared(world: World) -> None:
    async with world.process():
        await mounted(world)
        old = await present(world)
        await world.mounters.fail(old)
        await world.until(lambda: is_replaced(world, old))


async def test_a_mount_pod_that_vanished_is_replaced_after_its_remains_are_cleared(world: World) -> None:
    async with world.process():
        await mounted(world)
        old = await present(world)
        await world.mounters.end(old)
        await world.until(lambda: is_replaced(world, old))


async def test_a_mount_pod_that_is_deleted_by_hand_is_released_and_replaced(world: World) -> None:
    async with world.process():
        await mounted(world)
        old = await present(world)
        await world.admin.delete(PODS, old.metadata.name, namespace=world.driver)
        await world.until(lambda: is_replaced(world, old))


async def test_in_a_removal_a_mount_pod_serves_until_nothing_is_wanted(world: World) -> None:
    async with world.process():
        await mounted(world)
        old = await present(world)
        await world.admin.delete(NAMESPACES, world.driver)
        await world.admin.delete(PODS, old.metadata.name, namespace=world.driver)
        await world.add_claim("late")
        await world.until(lambda: world.is_mounted(claim="late"))
        assert names.RELEASE_ANNOTATION not in (await present(world)).metadata.annotations
        for claim in ("data", "late"):
            await world.delete_claim(claim)
        await world.until(lambda: world.mount_pod() is None and not world.mine())
        assert not world.table.mounts


async def cordon(world: World, *, yes: bool) -> None:
    await world.admin.merge_patch(NODES, world.node, {"spec": {"unschedulable": yes}})


async def test_on_a_drained_node_a_mount_pod_serves_until_its_workload_has_left(world: World) -> None:
    async with world.process() as process:
        pod = await mounted(world)
        old = await present(world)
        await cordon(world, yes=True)
        await world.until(process.view.draining)
        await world.admin.delete(PODS, old.metadata.name, namespace=world.driver)
        await world.add_claim("late")
        await world.until(lambda: world.is_mounted(claim="late"))
        found = await present(world)
        assert found.metadata.deleting and names.RELEASE_ANNOTATION not in found.metadata.annotations
        await world.end_pod(pod)
        await world.until(lambda: world.mount_pod() is None)
        assert not world.table.mounts


async def test_a_mount_pod_that_a_drain_has_deleted_makes_way_when_the_node_is_back(world: World) -> None:
    async with world.process() as process:
        await mounted(world)
        old = await present(world)
        await cordon(world, yes=True)
        await world.until(process.view.draining)
        await world.admin.delete(PODS, old.metadata.name, namespace=world.driver)
        await world.until(lambda: (p := world.mount_pod()) and p.metadata.deleting)
        await cordon(world, yes=False)
        await world.until(lambda: is_replaced(world, old))


async def test_a_claim_deleted_during_a_drain_goes_at_once(world: World) -> None:
    async with world.process() as process:
        await mounted(world)
        await world.add_claim("other")
        await world.until(lambda: world.is_mounted(claim="other"))
        old = await present(world)
        await cordon(world, yes=True)
        await world.until(process.view.draining)
        await world.admin.delete(PODS, old.metadata.name, namespace=world.driver)
        await world.delete_claim("other")
        await world.until(lambda: world.claim("other") is None)
        assert world.is_mounted()


async def test_a_cache_that_lags_behind_never_makes_a_living_mount_pod_look_dead(world: World) -> None:
    """The table asserts it: nothing is cleared while the mount pod's clients live."""
    async with world.process() as process:
        await world.add_class()
        pod = await world.add_pod()
        await world.until(lambda: process.view.mount_pods.has_synced and process.view.pods.store.get(pod.metadata.key))
        process.wire.flowing.clear()
        await world.add_claim()
        await world.until(lambda: len(world.table.mounts) == 1)
        # A change of the table wakes the controllers, whose cache still knows of no mount pod.
        living = set(world.table.mounts)
        for _ in range(20):
            world.table.publish(next(iter(world.table.directories)), pod.metadata.uid)
            await asyncio.sleep(0.01)
        await world.delete_claim()
        await world.until(lambda: (c := process.view.claims.store.get(f"{world.namespace}/data")) is None or c.metadata.deleting)
        await asyncio.sleep(0.2)
        assert set(world.table.mounts) == living
        assert [write.rpartition("/")[2] for write in process.wire.writes if write.startswith("POST")] == ["pods"]
        process.wire.flowing.set()
        await world.until(lambda: world.claim() is None and not world.table.mounts)


async def test_a_mount_pod_that_never_started_goes_when_nothing_wants_it(world: World) -> None:
    async with world.process():
        world.mounters.asleep = True
        await world.add_class()
        await world.add_pod()
        await world.add_claim()
        await world.until(lambda: (e := world.entries().get("web")) and e.reason == "MountPodStarting")
        await world.delete_claim()
        await world.until(lambda: world.claim() is None and world.mount_pod() is None)


async def test_what_vanished_while_no_process_ran_leaves_nothing(world: World) -> None:
    async with world.process():
        pod = await mounted(world)
    await world.mounters.end(await present(world))
    await world.end_pod(pod)
    await world.delete_claim()
    async with world.process():
        await world.until(lambda: world.is_empty() and world.claim() is None)


async def test_a_claim_deleted_while_its_mount_pod_is_gone_is_cleared_and_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "FRESH", 0.0)
    async with world.process():
        await mounted(world)
        # Without a class's Secret there is no successor that could clear what is left.
        await world.drop_secret()
        await world.mounters.end(await present(world))
        await world.until(lambda: (e := world.entries().get("web")) and e.reason == "SecretNotFound")
        await world.delete_claim()
        await world.until(lambda: world.claim() is None and not world.table.mounts)


async def test_a_mount_pod_is_told_of_a_change_once(world: World) -> None:
    """Though its cache is slower to show that than the claim's is to bring the next event."""
    async with world.process() as process:
        await mounted(world)
        for number in range(5):
            writes = len(process.wire.writes)
            await world.add_claim(f"other-{number}")
            await world.until(lambda number=number: world.condition("Ready", f"other-{number}").status == "True")  # type: ignore[misc]
            told = [write for write in process.wire.writes[writes:] if write.startswith("PATCH") and "/pods/dynvol-mount-" in write]
            assert len(told) == 1


async def test_nothing_is_written_and_no_secret_is_read_at_rest(world: World) -> None:
    async with world.process() as process:
        await mounted(world)
        await world.add_claim("other")
        await world.until(lambda: world.condition("Ready", "other").status == world.condition("Ready").status == "True")
        await world.until(lambda: world.classes.store.values())
        await asyncio.sleep(0.5)
        writes, reads = len(process.wire.writes), len(process.wire.reads)
        for beat in range(5):
            await world.noise(beat)
        await asyncio.sleep(1.0)
        assert process.wire.writes[writes:] == []
        assert process.wire.reads[reads:] == []


async def test_a_pod_that_does_not_end_loses_its_mounts_and_says_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overdue, "OVERDUE", 0.5)
    async with world.process():
        pod = await mounted(world)
        await world.noise(1)
        await world.admin.delete(PODS, pod.metadata.name, namespace=world.namespace, grace_seconds=1)
        await world.until(lambda: not world.table.mounts and world.mount_pod() is None)
        await world.until(lambda: not world.entries())
        assert world.pods.store.get(pod.metadata.key), "the pod has gone by itself"
        await world.end_pod(pod)
    assert "PodOverdue" in await world.reasons_told("Pod")


async def test_a_mount_pod_that_others_use_too_is_told_who_does_not_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until that pod is gone."""
    monkeypatch.setattr(overdue, "OVERDUE", 0.5)

    def told() -> str | None:
        found = world.mount_pod()
        return found.metadata.annotations.get(names.OVERDUE_ANNOTATION, "") if found else None

    async with world.process():
        await world.add_class()
        late, stays = [await world.add_pod(name, policy=names.SHARED) for name in ("web", "stays")]
        await world.add_claim()
        await world.until(lambda: len(world.table.mounts) == 2)
        await world.noise(1)
        await world.admin.delete(PODS, late.metadata.name, namespace=world.namespace, grace_seconds=1)
        await world.until(lambda: told() == late.metadata.uid)
        await world.until(lambda: len(world.table.mounts) == 1)
        await world.end_pod(late)
        await world.until(lambda: told() == "")
        assert world.pods.store.get(stays.metadata.key)


async def test_what_a_conflict_kept_from_a_mount_pod_it_is_told_later_and_nothing_failed(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.process() as process:
        await mounted(world)
        refusals = [conflict_once(monkeypatch, process.client, method) for method in ("merge_patch", "delete")]
        await world.add_claim("other")
        await world.until(lambda: world.is_mounted(claim="other"))
        for claim in ("data", "other"):
            await world.delete_claim(claim)
        await world.until(lambda: world.mount_pod() is None)
        assert [len(refused) for refused in refusals] == [1, 1]
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


def conflict_once(monkeypatch: pytest.MonkeyPatch, client: KubeClient, method: str) -> list[str]:
    """For the first pod that the client is to change by this method. Its name is in the list then."""
    served, refused = getattr(client, method), list[str]()

    async def serve(resource: object, name: str, *given: object, **options: object) -> object:
        if resource is PODS and not refused:
            refused.append(name)
            raise Conflict(Status(code=409, message="the object has been modified"), request=f"{method} {name}")
        return await served(resource, name, *given, **options)

    monkeypatch.setattr(client, method, serve)
    return refused
