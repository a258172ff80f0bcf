"""What a removal needs is kept for as long as it is needed, and goes with the last right to touch it.

The leader has no more rights here than config/rbac grants.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import pytest_asyncio

from dynvol.api import names
from dynvol.api.core import Bare
from dynvol.api.resources import (
    CLAIMS,
    CLASSES,
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    DEFINITIONS,
    LEASES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    Resource,
)
from dynvol.app.caches import leader_view
from dynvol.controllers import removal
from dynvol.controllers.claimstatus import LeaderView
from dynvol.controllers.farewell import Farewell
from dynvol.controllers.removal import RemovalController
from dynvol.controllers.view import Instruments
from dynvol.kube.client import KubeClient, Patch
from dynvol.kube.errors import Forbidden, NotFound
from dynvol.runtime.informer import Informer
from unit.apiservers import KINDS, Kubectl, apiserver, eventually, needs_kubectl
from unit.config.manifests import Manifest, rendered

from .tasks import owning

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_kubectl]

RIGHTS: tuple[Resource[Any], ...] = (SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS)
SECRET = {names.SECRET_NAME_PARAMETER: "keys", names.SECRET_NAMESPACE_PARAMETER: "default"}
REMOVE_GUARD = {"op": "remove", "path": "/metadata/finalizers"}
CLAIM = {"mountpoint": "/data", "selector": {}, "s3Config": {"bucket": "bucket", "endpoint": "http://s3"}}
LEASE = {"metadata": {"name": names.LEADER_LEASE, "namespace": names.NAMESPACE}}


def installed(resource: Resource[Any]) -> Sequence[Manifest]:
    """Those that the removal is about: the webhook's have nothing to do with it."""
    if resource is LEASES:
        return [LEASE]
    mine = [manifest for manifest in rendered("default") if manifest["kind"] == resource.kind]
    return [m for m in mine if resource is DEFINITIONS or m["metadata"]["name"] in (names.NODE_ACCOUNT, names.MOUNT_ACCOUNT)]


class Cluster:
    """dynvol's definitions, accounts, roles and lease on an API server; its administrator; and a node process, the leader."""

    def __init__(self, admin: KubeClient, node: KubeClient) -> None:
        self.admin = admin
        self.node = node
        self.farewell = Farewell(node, pod_name="none", namespace=names.NAMESPACE)

    def controller(self, view: LeaderView) -> RemovalController:
        return RemovalController(
            view, client=self.node, namespace=names.NAMESPACE, farewell=self.farewell, instruments=Instruments()
        )

    def view(self) -> LeaderView:
        classes = Informer(self.node.source(CLASSES), name="classes")
        return leader_view(self.node, classes=classes, namespace=names.NAMESPACE)

    @asynccontextmanager
    async def leader(self) -> AsyncIterator[RemovalController]:
        """One term."""
        view = self.view()
        controller = self.controller(view)
        async with owning(view.claims.run(), view.classes.run(), controller.run()):
            yield controller

    async def there(self, *resources: Resource[Any]) -> list[Bare]:
        """What there still is, be it on its way out."""
        found = []
        for resource in resources:
            for manifest in installed(resource):
                meta = manifest["metadata"]
                with suppress(NotFound):
                    found.append(await self.admin.get(resource, meta["name"], namespace=meta.get("namespace", "")))
        return found

    async def guarded(self) -> int:
        return sum(names.GUARD_FINALIZER in found.metadata.finalizers for found in await self.there(*RIGHTS, LEASES))

    async def is_guarded(self) -> bool:
        return await self.guarded() == 9

    async def is_bare(self) -> bool:
        return await self.guarded() == 0

    async def is_removed(self) -> bool:
        return not await self.there(*RIGHTS, LEASES, DEFINITIONS)

    async def has_no_definitions(self) -> bool:
        return not await self.there(DEFINITIONS)

    async def delete(self, *resources: Resource[Any]) -> None:
        """As `kubectl delete` does, which deletes all before it waits for any."""
        for resource in resources:
            for manifest in installed(resource):
                meta = manifest["metadata"]
                with suppress(NotFound):
                    await self.admin.delete(resource, meta["name"], namespace=meta.get("namespace", ""))

    async def add_class(self, *finalizers: str) -> None:
        spec = {"provider": "s3", "parameters": SECRET}
        await self.admin.create(CLASSES, {"metadata": {"name": "s3", "finalizers": finalizers}, "spec": spec})

    async def add_mounted_claim(self) -> None:
        meta = {"name": "data", "finalizers": [names.CLAIM_FINALIZER]}
        await self.admin.create(CLAIMS, {"metadata": meta, "spec": CLAIM}, namespace="default")

    async def let_go(self) -> None:
        """What other controllers of the leader do when the last pod has lost its mount, with the rights that it has."""
        await self.node.merge_patch(CLASSES, "s3", {"metadata": {"finalizers": []}})
        await self.node.merge_patch(CLAIMS, "data", {"metadata": {"finalizers": []}}, namespace="default")

    async def clean_up(self) -> None:
        """A test that failed may have left anything."""
        await self.delete(*RIGHTS, LEASES, DEFINITIONS)
        own: list[tuple[Resource[Any], str, str]] = [(CLASSES, "s3", ""), (CLAIMS, "data", "default")]
        for resource in (*RIGHTS, LEASES):
            own += [(resource, m["metadata"]["name"], m["metadata"].get("namespace", "")) for m in installed(resource)]
        for resource, name, namespace in own:
            with suppress(NotFound):
                await self.admin.merge_patch(resource, name, {"metadata": {"finalizers": []}}, namespace=namespace)
        await eventually(self.is_removed)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kubectl]:
    async with apiserver(request.param, tmp_path_factory.mktemp("apiserver")) as kubectl:
        await kubectl.ok("create", "namespace", names.NAMESPACE)
        yield kubectl


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(server: Kubectl) -> AsyncIterator[Cluster]:
    async with KubeClient.connect(server.kubeconfig) as admin:
        for resource in (*RIGHTS, LEASES, DEFINITIONS):
            for manifest in installed(resource):
                meta = manifest["metadata"]
                where = meta.get("namespace", "")
                await admin.apply(resource, meta["name"], manifest, namespace=where, field_manager="test")
        for served in (CLAIMS, CLASSES):
            await eventually(lambda served=served: is_served(admin, served))  # type: ignore[misc]
        account = await server.account(names.NODE_ACCOUNT, namespace=names.NAMESPACE)
        async with KubeClient.connect(account.kubeconfig) as node:
            made = Cluster(admin, node)
            yield made
        await made.clean_up()


async def is_served(admin: KubeClient, resource: Resource[Any]) -> bool:
    try:
        await admin.list(resource)
    except NotFound:
        return False
    return True


async def test_what_a_removal_needs_is_guarded_while_there_is_anything_to_hold(cluster: Cluster) -> None:
    async with cluster.leader():
        await cluster.add_class()
        await eventually(cluster.is_guarded)
        await cluster.admin.delete(CLASSES, "s3")
        await eventually(cluster.is_bare)


async def test_all_is_deleted_at_once_and_goes_when_the_last_claim_is_let_go(cluster: Cluster) -> None:
    async with cluster.leader() as controller:
        await cluster.add_class(names.CLASS_FINALIZER)
        await cluster.add_mounted_claim()
        await eventually(cluster.is_guarded)
        await cluster.delete(DEFINITIONS, *RIGHTS, LEASES)
        await controller.reconcile("")
        assert await controller.is_under_way()
        assert await cluster.is_guarded()
        assert not cluster.farewell.over.is_set()
        await cluster.let_go()
        await eventually(cluster.is_removed)
        assert cluster.farewell.over.is_set()


async def test_when_time_is_up_all_that_is_held_is_let_go(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster.leader():
        await cluster.add_class(names.CLASS_FINALIZER)
        await cluster.add_mounted_claim()
        await eventually(cluster.is_guarded)
    await cluster.delete(SERVICE_ACCOUNTS)
    monkeypatch.setattr(removal, "LAST_MOMENT", 0.0)
    # Its next look, by itself: one that came after it would find dynvol back, for nothing else is deleted.
    await cluster.controller(cluster.view()).reconcile("")
    assert await cluster.is_bare()
    assert not (await cluster.admin.get(CLAIMS, "data", namespace="default")).metadata.finalizers
    assert not (await cluster.admin.get(CLASSES, "s3")).metadata.finalizers


async def test_guards_go_though_there_are_no_definitions_any_more(cluster: Cluster) -> None:
    """A leader that comes then has caches that never sync."""
    async with cluster.leader():
        await cluster.add_class()
        await eventually(cluster.is_guarded)
    await cluster.delete(DEFINITIONS)
    await eventually(cluster.has_no_definitions)
    async with cluster.leader():
        await eventually(cluster.is_bare)


async def test_what_cannot_be_let_go_together_stays_together(cluster: Cluster) -> None:
    """Were one guard taken off without the others, nobody could take off the others later."""
    async with cluster.leader():
        await cluster.add_class()
        await eventually(cluster.is_guarded)
    patches = [
        Patch(resource=SERVICE_ACCOUNTS, name=names.NODE_ACCOUNT, namespace=names.NAMESPACE, operations=[REMOVE_GUARD]),
        Patch(resource=CLUSTER_ROLES, name="cluster-admin", operations=[REMOVE_GUARD]),
    ]
    with pytest.raises(Forbidden):
        await cluster.node.patch_together(patches)
    assert await cluster.is_guarded()
