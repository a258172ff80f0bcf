"""The same door, held against a real kube-apiserver, where KUBEBUILDER_ASSETS has one."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from dynvol.api.meta import ObjectMeta, Projection
from dynvol.api.resources import CLAIMS, LEASES, NAMESPACES, NODES, PODS, SECRETS, Resource
from dynvol.kube import errors
from dynvol.kube.client import KubeClient
from dynvol.kube.events import EVENTS, EventRecorder, ObjectReference
from dynvol.kube.lease import ApiLeaseLock
from dynvol.runtime import errors as runtime
from dynvol.runtime.informer import Informer
from dynvol.runtime.leader import LeaderElector, LeaseRecord
from dynvol.runtime.source import Added, Bookmark, Deleted, Event, Modified
from e2e.cluster import real
from e2e.grounds import envtest

ASSETS = real.programs()
CRDS = Path(__file__).parents[2] / "config" / "crd"
TIMEOUT = 20.0

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(ASSETS is None, reason=real.MISSING),
]


class _Any(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, _Any)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", True, _Any)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[envtest.ControlPlane]:
    assert ASSETS is not None
    # ConfigMaps come straight from etcd: a cache would answer for what etcd has forgotten.
    arguments = ["--watch-cache-sizes=configmaps#0"]
    async with envtest.EnvTest(ASSETS, tmp_path_factory.mktemp("control-plane"), arguments=arguments) as plane:
        yield plane


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(plane: envtest.ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient.connect(plane.kubeconfig) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def namespace(client: KubeClient) -> str:
    """An empty one. Nothing ends it: the server goes when the module does."""
    made = await client.create(NAMESPACES, {"metadata": {"generateName": "test-"}})
    return made.metadata.name


def secret(name: str, data: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"app": "x"}}, "stringData": {"key": data}}


async def take(events: AsyncIterator[Event[Any]], count: int) -> list[Event[Any]]:
    async with asyncio.timeout(TIMEOUT):
        return [await anext(events) for _ in range(count)]


def names_of(events: list[Event[Any]]) -> list[str]:
    return [e.object.metadata.name for e in events if isinstance(e, Added | Modified | Deleted)]


async def test_a_list_in_pages_and_a_watch_from_its_version_miss_nothing(client: KubeClient, namespace: str) -> None:
    for name in "abc":
        await client.create(SECRETS, secret(name), namespace=namespace)
    source = client.source(SECRETS, namespace=namespace, label_selector="app=x")
    first = await source.list(resource_version="", limit=2)
    assert first.continue_token
    rest = await source.list(resource_version="", limit=2, continue_token=first.continue_token)
    assert [s.metadata.name for s in first.items + rest.items] == ["a", "b", "c"]
    assert rest.continue_token == ""
    async with source.watch(resource_version=rest.resource_version, timeout=60) as events:
        await client.create(SECRETS, secret("d", "x" * 900_000), namespace=namespace)
        await client.merge_patch(SECRETS, "d", {"stringData": {"more": "1"}}, namespace=namespace)
        await client.delete(SECRETS, "d", namespace=namespace)
        changes = await take(events, 3)
    assert [type(c) for c in changes] == [Added, Modified, Deleted]


@pytest.mark.parametrize("version", ["0", "1", ""])
async def test_a_list_may_be_asked_for_by_any_age(version: str, client: KubeClient) -> None:
    page = await client.source(NAMESPACES).list(resource_version=version, limit=500)
    assert "default" in {n.metadata.name for n in page.items}
    assert int(page.resource_version) > 1


async def test_a_streaming_list_ends_with_a_bookmark_that_says_so(client: KubeClient, namespace: str) -> None:
    await client.create(SECRETS, secret("a"), namespace=namespace)
    await client.create(SECRETS, secret("b"), namespace=namespace)
    async with client.source(SECRETS, namespace=namespace).watch(resource_version="", timeout=60, initial_events=True) as events:
        found = await take(events, 3)
        assert sorted(names_of(found)) == ["a", "b"]
        assert isinstance(found[-1], Bookmark)
        assert found[-1].initial_events_end
        await client.create(SECRETS, secret("c"), namespace=namespace)
        assert names_of(await take(events, 1)) == ["c"]


async def test_a_watch_ends_when_it_was_asked_to(client: KubeClient, namespace: str) -> None:
    page = await client.source(SECRETS, namespace=namespace).list(resource_version="", limit=0)
    async with asyncio.timeout(TIMEOUT):
        async with client.source(SECRETS, namespace=namespace).watch(resource_version=page.resource_version, timeout=1) as events:
            assert [e async for e in events if not isinstance(e, Bookmark)] == []


async def test_a_version_that_is_compacted_away_is_expired(client: KubeClient, plane: envtest.ControlPlane, namespace: str) -> None:
    for name in "abc":
        await client.create(CONFIG_MAPS, {"metadata": {"name": name}}, namespace=namespace)
    source = client.source(CONFIG_MAPS, namespace=namespace)
    first = await source.list(resource_version="", limit=1)
    for name in "de":
        await client.create(CONFIG_MAPS, {"metadata": {"name": name}}, namespace=namespace)
    await plane.compact()
    with pytest.raises(runtime.Expired):
        async with source.watch(resource_version=first.resource_version, timeout=60) as events:
            await take(events, 1)
    with pytest.raises(runtime.Expired):
        await source.list(resource_version="", limit=1, continue_token=first.continue_token)


async def test_a_version_of_the_future_is_too_large(client: KubeClient, namespace: str) -> None:
    with pytest.raises(runtime.TooLargeVersion):
        await client.source(SECRETS, namespace=namespace).list(resource_version="999999999", limit=500)


async def test_metadata_can_be_had_alone(client: KubeClient) -> None:
    await client.create(NODES, {"metadata": {"name": "n1", "labels": {"zone": "a"}}, "spec": {"unschedulable": True}})
    [node] = (await client.source(NODES, metadata_only=True).list(resource_version="0", limit=500)).items
    assert (node.metadata.name, node.metadata.labels) == ("n1", {"zone": "a"})
    assert not node.spec.unschedulable, "the rest was sent as well"


async def test_two_field_managers_own_an_entry_each_of_a_claims_status(client: KubeClient, namespace: str) -> None:
    for manifest in CRDS.glob("*.yaml"):
        for definition in yaml.safe_load_all(manifest.read_text()):
            if definition and definition["kind"] == "CustomResourceDefinition":
                name = definition["metadata"]["name"]
                await client.apply(DEFINITIONS, name, definition, field_manager="test")
    await until_served(client)
    spec = {"mountpoint": "/data", "selector": {}, "s3Config": {"bucket": "bucket", "endpoint": "https://s3"}}
    await client.create(CLAIMS, {"metadata": {"name": "c"}, "spec": spec}, namespace=namespace)

    async def report(node: str, *uids: str) -> list[str]:
        entries = [{"uid": uid, "pod": f"pod-{uid}", "node": node, "phase": "Mounted"} for uid in uids]
        claim = await client.apply(
            CLAIMS,
            "c",
            {"status": {"pods": entries}},
            namespace=namespace,
            subresource="status",
            field_manager=f"dynvol-node-{node}",
        )
        return sorted(e.uid for e in claim.status.pods)

    assert await report("n1", "u1") == ["u1"]
    assert await report("n2", "u2", "u3") == ["u1", "u2", "u3"]
    assert await report("n2", "u3") == ["u1", "u3"]
    assert await report("n1") == ["u3"]


async def until_served(client: KubeClient) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await client.list(CLAIMS)
                return
            except errors.NotFound:
                await asyncio.sleep(0.1)


async def test_a_json_patch_whose_test_fails_changes_nothing(client: KubeClient, namespace: str) -> None:
    made = await client.create(SECRETS, secret("a"), namespace=namespace)
    change = {"op": "add", "path": "/metadata/labels/new", "value": "1"}
    held = {"op": "test", "path": "/metadata/labels/app", "value": "x"}
    broken = {"op": "test", "path": "/metadata/labels/app", "value": "y"}
    with pytest.raises(errors.Invalid):
        await client.json_patch(SECRETS, "a", [broken, change], namespace=namespace)
    assert (await client.get(SECRETS, "a", namespace=namespace)).metadata == made.metadata
    patched = await client.json_patch(SECRETS, "a", [held, change], namespace=namespace)
    assert patched.metadata.labels == {"app": "x", "new": "1"}


async def test_a_merge_patch_that_names_an_old_version_is_a_conflict(client: KubeClient, namespace: str) -> None:
    made = await client.create(SECRETS, secret("a"), namespace=namespace)
    body = {"metadata": {"resourceVersion": made.metadata.resource_version, "labels": {"app": None}}}
    assert (await client.merge_patch(SECRETS, "a", body, namespace=namespace)).metadata.labels == {}
    with pytest.raises(errors.Conflict):
        await client.merge_patch(SECRETS, "a", body, namespace=namespace)


async def test_two_of_one_name_cannot_be(client: KubeClient, namespace: str) -> None:
    await client.create(SECRETS, secret("a"), namespace=namespace)
    with pytest.raises(errors.AlreadyExists):
        await client.create(SECRETS, secret("a"), namespace=namespace)


async def test_fields_that_others_own_are_taken_only_by_force(client: KubeClient, namespace: str) -> None:
    await client.apply(SECRETS, "a", {"metadata": {"labels": {"k": "1"}}}, namespace=namespace, field_manager="one")
    body = {"metadata": {"labels": {"k": "2"}}}
    with pytest.raises(errors.Conflict):
        await client.apply(SECRETS, "a", body, namespace=namespace, field_manager="two", force=False)
    taken = await client.apply(SECRETS, "a", body, namespace=namespace, field_manager="two")
    assert taken.metadata.labels == {"k": "2"}


async def test_a_successor_of_the_same_name_is_not_deleted_by_mistake(client: KubeClient, namespace: str) -> None:
    made = await client.create(SECRETS, secret("a"), namespace=namespace)
    with pytest.raises(errors.Conflict):
        await client.delete(SECRETS, "a", namespace=namespace, uid="00000000-0000-0000-0000-000000000000")
    await client.delete(SECRETS, "a", namespace=namespace, uid=made.metadata.uid)
    with pytest.raises(errors.NotFound):
        await client.delete(SECRETS, "a", namespace=namespace)


async def test_who_may_not_is_told_what_is_missing(plane: envtest.ControlPlane, namespace: str) -> None:
    async with KubeClient.connect(plane.kubeconfig_for("nobody")) as nobody:
        with pytest.raises(errors.Forbidden, match=r'"nobody" cannot get resource "secrets".*config/rbac'):
            await nobody.get(SECRETS, "a", namespace=namespace)
        with pytest.raises(runtime.SourceError, match='cannot list resource "secrets"'):
            await nobody.source(SECRETS).list(resource_version="0", limit=500)


class _Counted(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    count: int = 0


async def test_an_event_is_told_once_and_counted(client: KubeClient, namespace: str) -> None:
    spec = {"containers": [{"name": "c", "image": "i"}]}
    pod = await client.create(PODS, {"metadata": {"name": "p"}, "spec": spec}, namespace=namespace)
    async with EventRecorder(client, instance="n1") as recorder:
        for _ in range(2):
            recorder.warning(ObjectReference.of(PODS, pod.metadata), "MountFailed", "the bucket does not exist")
            await recorder._idle.wait()
    events = Resource("", "v1", "events", "Event", True, _Counted)
    [event] = await client.list(events, namespace=namespace, field_selector="reason=MountFailed,involvedObject.name=p")
    assert event.count == 2


async def test_an_event_about_what_has_no_namespace_is_accepted(client: KubeClient) -> None:
    async with EventRecorder(client) as recorder:
        recorder.normal(ObjectReference.of(NAMESPACES, ObjectMeta(name="x")), "Told", "in default")
    assert await client.list(EVENTS, namespace="default", field_selector="reason=Told")


async def test_a_lease_has_one_holder(client: KubeClient, namespace: str) -> None:
    at = datetime.datetime.now(datetime.UTC)
    lock = ApiLeaseLock(client, namespace=namespace, name="leader")
    assert await lock.get() is None
    made = await lock.create(LeaseRecord(holder="n1", duration=15, acquired=at, renewed=at))
    with pytest.raises(errors.AlreadyExists):
        await lock.create(LeaseRecord(holder="n2", duration=15, acquired=at, renewed=at))
    taken = await lock.update(LeaseRecord(holder="n2", duration=15, acquired=at, renewed=at, transitions=1), version=made.version)
    with pytest.raises(errors.Conflict):
        await lock.update(LeaseRecord(holder="n1", duration=15, acquired=at, renewed=at), version=made.version)
    assert await lock.get() == taken
    released = await lock.update(LeaseRecord(holder="", duration=0, acquired=at, renewed=at, transitions=1), version=taken.version)
    assert released.record.holder == ""
    assert (await client.get(LEASES, "leader", namespace=namespace)).spec.holder_identity is None


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_informer_knows_what_the_server_has(streaming: bool, client: KubeClient, namespace: str) -> None:
    await client.create(SECRETS, secret("a"), namespace=namespace)
    informer = Informer(client.source(SECRETS, namespace=namespace), name="secrets", streaming=streaming)
    changes: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    informer.add_handler(lambda change: changes.put_nowait((change.key, change.new is not None)))
    running = asyncio.create_task(informer.run(), name="informer")
    async with asyncio.timeout(TIMEOUT):
        await informer.synced()
        assert [s.metadata.name for s in informer.store.values()] == ["a"]
        await client.create(SECRETS, secret("b"), namespace=namespace)
        await client.delete(SECRETS, "a", namespace=namespace)
        told = [await changes.get() for _ in range(3)]
    assert told == [(f"{namespace}/a", True), (f"{namespace}/b", True), (f"{namespace}/a", False)]
    assert [s.metadata.name for s in informer.store.values()] == ["b"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_of_two_candidates_one_leads_and_the_other_follows_when_it_leaves(client: KubeClient, namespace: str) -> None:
    led: asyncio.Queue[str] = asyncio.Queue()
    release = asyncio.Event()

    async def campaign(name: str) -> None:
        elector = LeaderElector(
            ApiLeaseLock(client, namespace=namespace, name="leader"),
            name="test",
            identity=name,
            lease_duration=5,
            renew_deadline=3,
            retry_period=0.2,
        )

        async def work() -> None:
            led.put_nowait(name)
            await release.wait()

        await elector.run(work)

    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        for name in ("n1", "n2"):
            tasks.create_task(campaign(name), name=f"candidate {name}")
        first = await led.get()
        lease = await client.get(LEASES, "leader", namespace=namespace)
        assert lease.spec.holder_identity == first
        assert led.empty()
        release.set()
        assert await led.get() != first
    assert not (await client.get(LEASES, "leader", namespace=namespace)).spec.holder_identity
