"""A node process that is told to end stays only where nobody comes after it, and only for as long as it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dynvol.api import names
from dynvol.api.resources import DAEMON_SETS, NAMESPACES, PODS, SERVICE_ACCOUNTS
from dynvol.controllers import farewell
from dynvol.controllers.farewell import Farewell
from dynvol.kube.client import KubeClient
from e2e.grounds.envtest import free_ports
from unit.apiservers import DEADLINE
from unit.kube.server import kubeconfig

from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

POD = "dynvol-node-x"
SPEC = {
    "serviceAccountName": names.NODE_ACCOUNT,
    "automountServiceAccountToken": False,
    "containers": [{"name": "node", "image": "i"}],
}
LABELS = {"app": "node"}
DAEMON_SET = {
    "metadata": {"name": "dynvol-node"},
    "spec": {"selector": {"matchLabels": LABELS}, "template": {"metadata": {"labels": LABELS}, "spec": SPEC}},
}


async def installed(world: World) -> None:
    """A DaemonSet with its pod, and the account, which is guarded."""
    account = {"metadata": {"name": names.NODE_ACCOUNT, "finalizers": [names.GUARD_FINALIZER]}}
    await world.admin.create(SERVICE_ACCOUNTS, account, namespace=world.driver)
    made = await world.admin.create(DAEMON_SETS, DAEMON_SET, namespace=world.driver)
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "dynvol-node", "uid": made.metadata.uid, "controller": True}
    pod = {"metadata": {"name": POD, "ownerReferences": [owner]}, "spec": SPEC}
    await world.admin.create(PODS, pod, namespace=world.driver)


async def remove_daemon_set(world: World) -> None:
    await world.admin.delete(DAEMON_SETS, "dynvol-node", namespace=world.driver, propagation="Orphan")
    # There is no garbage collector here, which does nothing else to it.
    await world.admin.merge_patch(DAEMON_SETS, "dynvol-node", {"metadata": {"finalizers": None}}, namespace=world.driver)


async def unguard(world: World) -> None:
    off = {"metadata": {"finalizers": None}}
    await world.admin.merge_patch(SERVICE_ACCOUNTS, names.NODE_ACCOUNT, off, namespace=world.driver)


def process(world: World) -> Farewell:
    return Farewell(world.admin, pod_name=POD, namespace=world.driver)


@asynccontextmanager
async def staying(told: Farewell) -> AsyncIterator[asyncio.Task[None]]:
    """A process that has been told to end, and stays. It has left by the end of the block."""
    waiting = asyncio.create_task(told.wait(), name="farewell")
    async with asyncio.timeout(DEADLINE):
        await told.begun.wait()
        assert not waiting.done()
        yield waiting
        await waiting


async def test_in_a_rollout_it_leaves_at_once(world: World) -> None:
    await installed(world)
    leaving = process(world)
    await leaving.wait()
    assert not leaving.begun.is_set()


async def test_without_its_daemon_set_it_stays_until_the_guard_is_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "LOOK", 0.1)
    await installed(world)
    await remove_daemon_set(world)
    async with staying(process(world)):
        await unguard(world)


async def test_in_a_namespace_that_goes_it_stays_until_the_guard_is_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "LOOK", 0.1)
    await installed(world)
    await world.admin.delete(NAMESPACES, world.driver)
    async with staying(process(world)):
        await unguard(world)


async def test_the_leader_that_is_done_waits_for_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "LOOK", 10 * DEADLINE)
    await installed(world)
    await remove_daemon_set(world)
    told = process(world)
    async with staying(told):
        told.over.set()


async def test_a_removal_that_went_no_further_is_not_the_end_of_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "LOOK", 0.1)
    await installed(world)
    await remove_daemon_set(world)
    told = process(world)
    told.over.set()
    async with staying(told):
        await unguard(world)


async def test_it_does_not_stay_for_longer_than_it_may(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "LONGEST", 0.3)
    await installed(world)
    await remove_daemon_set(world)
    async with staying(process(world)):
        pass


async def test_where_nothing_is_guarded_it_is_not_needed(world: World) -> None:
    await installed(world)
    await unguard(world)
    await remove_daemon_set(world)
    async with asyncio.timeout(DEADLINE):
        await process(world).wait()


async def test_before_another_daemon_set_of_its_name_it_makes_way(world: World) -> None:
    await installed(world)
    await remove_daemon_set(world)
    assert await process(world).is_removal()
    await world.admin.create(DAEMON_SETS, DAEMON_SET, namespace=world.driver)
    assert not await process(world).is_removal()


async def test_without_an_api_server_it_leaves(tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    config = kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{nobody}")
    async with KubeClient.connect(config) as client, asyncio.timeout(DEADLINE):
        leaving = Farewell(client, pod_name=POD, namespace="any")
        await leaving.wait()
        assert not leaving.begun.is_set()
