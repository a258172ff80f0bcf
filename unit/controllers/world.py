"""One test's cluster: a real API server's edge, the controllers as the node process wires them, and a node that is played."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

import yaml

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim, PodMount
from dynvol.api.core import Pod, Secret
from dynvol.api.identity import Workload
from dynvol.api.meta import Condition, ObjectMeta, Projection
from dynvol.api.mounts import Phase
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import CLAIMS, CLASSES, NAMESPACES, NODES, PODS, SECRETS, Resource
from dynvol.app.caches import MOUNT_PODS, holder_pods, leader_view, node_view
from dynvol.controllers.claimreport import ClaimReporter
from dynvol.controllers.claimstatus import ClaimStatusController
from dynvol.controllers.externalvolume import ExternalVolumeController
from dynvol.controllers.held.volumes import HeldVolumes
from dynvol.controllers.mountpod import MountPodController
from dynvol.controllers.mountpodspec import Installation
from dynvol.controllers.providerclass import ProviderClassController
from dynvol.controllers.view import Instruments, NodeView, told
from dynvol.kube.client import KubeClient
from dynvol.kube.connection import Answer, Connection
from dynvol.kube.errors import KubeError, NotFound, Status, Unreachable, from_status
from dynvol.kube.events import EventRecorder
from dynvol.observe.metrics import Metrics
from dynvol.runtime.informer import Informer
from dynvol.webhook.rules.classes import review_class

from .node_played import STATE, NoVolumes, PlayedMountPods, Table
from .tasks import owning

CRDS = Path(__file__).parents[2] / "config" / "crd"
PATIENCE = 20.0
"""Seconds that the world may take to become as expected, on a machine that has other things to do."""

Connect = Callable[[], AbstractAsyncContextManager[Connection]]

_numbers = itertools.count(1)


class _Any(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, _Any)
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", True, _Any)


async def install_definitions(admin: KubeClient) -> None:
    """The CRDs of config/, until they are served."""
    for file in sorted(CRDS.glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            if manifest.get("kind") == DEFINITIONS.kind:
                await admin.create(DEFINITIONS, manifest)
    for resource in (CLAIMS, CLASSES):
        await _until_served(admin, resource)


async def _until_served(admin: KubeClient, resource: Resource[Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await admin.list(resource)
                return
            except KubeError:
                await asyncio.sleep(0.02)


class Wire:
    """A connection on which writes are noted, and which can end a process in the middle of one.

    Leases and events are not noted: they are written by the clock, or by the way.
    """

    def __init__(self, inner: Connection, *, told: Callable[[], None], cut_at: int = 0, after: bool = False) -> None:
        self._inner = inner
        self._told = told
        self.cut_at = cut_at
        """The write, counted from 1, at which all ends. `told` is called then, when a write is refused, and at each read."""
        self.after = after
        """Whether that one takes effect, though its answer does not come."""
        self.writes: list[str] = []
        self.reads: list[str] = []
        self.cut = asyncio.Event()
        self.refused = ""
        """Writes to paths that contain this fail, as if the server could not store them."""
        self.flowing = asyncio.Event()
        """While it is clear, watches of mount pods say nothing; what happens meanwhile comes afterwards."""
        self.flowing.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @asynccontextmanager
    async def exchange(self, method: str, path: str, **options: Any) -> AsyncIterator[Any]:
        async with self._inner.exchange(method, path, **options) as answer:
            yield _Gated(answer, self.flowing) if MOUNT_PODS in options["query"].get("labelSelector", "") else answer

    async def call(self, method: str, path: str, **options: Any) -> bytes:
        if self.cut.is_set():
            raise Unreachable("the process is no more")
        if "/leases" in path or "/events" in path:
            return await self._inner.call(method, path, **options)
        (self.reads if method == "GET" else self.writes).append(f"{method} {path}")
        if method == "GET":
            self._told()
            return await self._inner.call(method, path, **options)
        if self.refused and self.refused in path:
            self._told()
            raise from_status(Status(code=500, message="etcdserver: request is too large"), request=f"{method} {path}")
        if len(self.writes) != self.cut_at:
            return await self._inner.call(method, path, **options)
        self.cut.set()
        if self.after:
            with suppress(KubeError):
                await self._inner.call(method, path, **options)
        self._told()
        raise Unreachable("the process is no more")


class _Gated:
    """An answer that comes in while a gate is open."""

    def __init__(self, answer: Answer, gate: asyncio.Event) -> None:
        self._answer = answer
        self._gate = gate

    def detect_dead_peer(self) -> None:
        self._answer.detect_dead_peer()

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.chunks():
            await self._gate.wait()
            yield chunk


@dataclass
class Process:
    """What one node process does, but for its sockets."""

    view: NodeView
    wire: Wire
    client: KubeClient
    recorder: EventRecorder
    removal: bool = False

    async def is_removal(self) -> bool:
        return self.removal


@dataclass
class World:
    admin: KubeClient
    connect: Connect
    name: str
    stack: AsyncExitStack
    claims: Informer[DynamicVolumeClaim]
    classes: Informer[StorageProviderClass]
    pods: Informer[Pod]
    mount_pods: Informer[Pod]
    secrets: Informer[Secret]
    tables: dict[str, Table] = field(default_factory=dict)
    played: dict[str, PlayedMountPods] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def namespace(self) -> str:
        return f"apps-{self.name}"

    @property
    def driver(self) -> str:
        return f"driver-{self.name}"

    @property
    def node(self) -> str:
        return f"node-{self.name}"

    @property
    def provider_class(self) -> str:
        return f"class-{self.name}"

    @property
    def table(self) -> Table:
        return self.tables[self.node]

    @property
    def mounters(self) -> PlayedMountPods:
        return self.played[self.node]

    # --- Waiting

    def poke(self, _: object = None) -> None:
        self.changed.set()

    async def until(self, holds: Callable[[], Any], *, within: float = PATIENCE) -> Any:
        """What `holds` returns, as soon as that is true. It is asked after each change of the world."""
        try:
            async with asyncio.timeout(within):
                while not (found := holds()):
                    self.changed.clear()
                    await self.changed.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"did not come true:\n{self.picture()}") from None

    def picture(self) -> str:
        claims = [f"{c.metadata.name} {c.metadata.finalizers} {c.status.pods} {c.status.conditions}" for c in self.mine()]
        mounts = [f"{path} {source}" for table in self.tables.values() for path, source in table.mounts.items()]
        mounts += [f"{table.directories} {table.published} {table.living}" for table in self.tables.values()]
        mount_pods = [
            f"{p.metadata.name} {p.metadata.deletion_timestamp} {p.status.phase} {p.metadata.annotations}"
            for p in self.mount_pods.store
        ]
        pods = [f"{p.metadata.name} {p.metadata.uid} {p.metadata.labels}" for p in self.pods.store]
        secrets = [f"{s} {s.metadata.owner_references}" for s in self.secrets.store]
        return "\n".join([*claims, *pods, *mounts, *mount_pods, *secrets])

    # --- Looking

    def mine(self) -> list[DynamicVolumeClaim]:
        return [c for c in self.claims.store if c.metadata.namespace == self.namespace]

    def claim(self, name: str = "data") -> DynamicVolumeClaim | None:
        return self.claims.store.get(f"{self.namespace}/{name}")

    def entries(self, name: str = "data") -> dict[str, PodMount]:
        claim = self.claim(name)
        return {e.pod: e for e in claim.status.pods} if claim else {}

    def phase(self, pod: str = "web", claim: str = "data") -> str:
        entry = self.entries(claim).get(pod)
        return entry.phase if entry else ""

    def is_mounted(self, pod: str = "web", claim: str = "data") -> bool:
        return self.phase(pod, claim) == Phase.MOUNTED

    def condition(self, type: str, name: str = "data") -> Condition:
        claim = self.claim(name)
        found = [c for c in claim.status.conditions if c.type == type] if claim else []
        return found[0] if found else Condition(type=type, status="", reason="")

    def mount_pod(self) -> Pod | None:
        """The only one. Fails where there are more."""
        found = self.mount_pods.store.values()
        assert len(found) < 2
        return found[0] if found else None

    def wanted(self) -> dict[str, str]:
        """Claim's name → path, as the only mount pod has been told."""
        return {w.claim.partition("/")[2]: w.path.partition("/")[2] for w in told(self.mount_pod())}

    def is_empty(self) -> bool:
        """Nothing is left of any mount pod: object, Secret copy, mount, directory."""
        on_nodes = any(table.mounts or table.directories for table in self.tables.values())
        return not on_nodes and not len(self.mount_pods.store) and all(map(self.is_garbage, self.secrets.store))

    def is_garbage(self, secret: Secret) -> bool:
        """Whether a cluster's garbage collector, which there is none of here, would remove it: its owner is gone."""
        owners = {o.uid for o in secret.metadata.owner_references}
        return bool(owners) and not owners & {p.metadata.uid for p in self.mount_pods.store}

    async def reasons_told(self, kind: str) -> set[str]:
        """The reasons of all events about objects of this kind."""
        async with self.connect() as connection:
            body = await connection.call("GET", f"/api/v1/namespaces/{self.namespace}/events")
        return {event["reason"] for event in json.loads(body)["items"] if event["involvedObject"]["kind"] == kind}

    # --- Doing what users do

    async def add_class(self, *, secret: bool = True, named: bool = True, **parameters: str) -> None:
        """`named`: it names a Secret, which there is if there is to be one. Further `parameters` by the ends of their keys."""
        if secret and named:
            await self.add_secret()
        named_secret = {names.SECRET_NAME_PARAMETER: "keys", names.SECRET_NAMESPACE_PARAMETER: self.namespace}
        given = {f"{names.GROUP}/{key.replace('_', '-')}": value for key, value in parameters.items()}
        spec = {"provider": "s3", "parameters": (named_secret if named else {}) | given}
        await self.admin.create(CLASSES, {"metadata": {"name": self.provider_class}, "spec": spec})

    async def add_secret(self, key: str = "k", *, name: str = "keys") -> None:
        body = {"metadata": {"name": name}, "stringData": {names.ACCESS_KEY: key, names.SECRET_KEY: "s"}}
        await self.admin.create(SECRETS, body, namespace=self.namespace)

    async def drop_secret(self, name: str = "keys") -> None:
        await self.admin.delete(SECRETS, name, namespace=self.namespace)

    def copied(self) -> dict[str, str]:
        """What the only Secret copy holds."""
        copies = self.secrets.store.values()
        assert len(copies) < 2
        return {key: value.decode() for copy in copies for key, value in copy.data.items()}

    async def add_claim(
        self,
        name: str = "data",
        *,
        mountpoint: str = "",
        labels: dict[str, str] | None = None,
        bucket: str = "bucket",
        secret: str = "",
        finalizers: Sequence[str] = (),
    ) -> None:
        spec = {
            "mountpoint": mountpoint or f"/{name}",
            "selector": {"matchLabels": {"app": "web"} if labels is None else labels},
            "s3Config": {"bucket": bucket, "endpoint": "http://s3"},
            **({"credentialsSecretRef": {"name": secret}} if secret else {}),
        }
        metadata = {"name": name, "finalizers": [*finalizers]}
        await self.admin.create(CLAIMS, {"metadata": metadata, "spec": spec}, namespace=self.namespace)

    async def edit(self, name: str, **spec: Any) -> None:
        await self.admin.merge_patch(CLAIMS, name, {"spec": spec}, namespace=self.namespace)

    async def delete_claim(self, name: str = "data") -> None:
        await self.admin.delete(CLAIMS, name, namespace=self.namespace)

    async def add_pod(
        self, name: str = "web", *, node: str = "", policy: str = names.INDEPENDENT, published: bool = True, **labels: str
    ) -> Pod:
        """Runs on the node, and kubelet has published its volume."""
        node = node or self.node
        attributes = {names.CLASS_ATTRIBUTE: self.provider_class, names.POLICY_ATTRIBUTE: policy}
        volume = {"name": names.VOLUME_NAME, "csi": {"driver": names.DRIVER, "readOnly": True, "volumeAttributes": attributes}}
        container = {"name": "app", "image": "i", "volumeMounts": [{"name": names.VOLUME_NAME, "mountPath": "/root"}]}
        spec = {"nodeName": node, "containers": [container], "volumes": [volume], "automountServiceAccountToken": False}
        meta = {"name": name, "labels": {"app": "web", names.INJECTED_LABEL: "true"} | labels}
        made = await self.admin.create(PODS, {"metadata": meta, "spec": spec}, namespace=self.namespace)
        if published:
            self.publish(made)
        return made

    def workload(self, pod: Pod) -> Workload:
        volume = pod.spec.volumes[0].csi
        assert volume is not None
        return Workload.of(
            node=pod.spec.node_name,
            namespace=self.namespace,
            provider_class=self.provider_class,
            policy=volume.volume_attributes[names.POLICY_ATTRIBUTE],
            pod_uid=pod.metadata.uid,
        )

    def publish(self, pod: Pod) -> None:
        root = PurePosixPath(str(self.workload(pod).root(STATE)))
        self.tables[pod.spec.node_name].publish(root, pod.metadata.uid)

    async def noise(self, beat: int) -> None:
        """What goes on in a cluster and concerns no one here: a heart-beat, a pod's readiness, another one's status."""
        condition = {"type": "Ready", "status": "True", "reason": f"Beat{beat}", "message": ""}
        status = {"status": {"conditions": [condition]}}
        await self.admin.merge_patch(NODES, self.node, status, subresource="status")
        await self.admin.merge_patch(PODS, "web", status, namespace=self.namespace, subresource="status")

    async def end_pod(self, pod: Pod) -> None:
        """Kubelet's order: the volume is unpublished, then the object goes."""
        self.tables[pod.spec.node_name].unpublish(pod.metadata.uid)
        await self.admin.delete(PODS, pod.metadata.name, namespace=self.namespace, uid=pod.metadata.uid, grace_seconds=0)

    async def add_node(self, name: str) -> None:
        await self.admin.create(NODES, {"metadata": {"name": name}})
        table = self.tables[name] = Table()
        table.on_change(self.poke)
        played = self.played[name] = PlayedMountPods(self.admin, table, node=name, namespace=self.driver)
        await self.stack.enter_async_context(played.running())

    # --- The processes

    @asynccontextmanager
    async def process(self, *, node: str = "", lead: bool = True, cut_at: int = 0, after: bool = False) -> AsyncIterator[Process]:
        """A node process, which leads too unless told otherwise, until the block ends or its wire is cut."""
        node = node or self.node
        async with self.connect() as connection:
            wire = Wire(connection, told=self.poke, cut_at=cut_at, after=after)
            client = KubeClient(cast(Connection, wire))
            # Events go past the wire: one that is cut would only make their writer wait at the end.
            async with EventRecorder(KubeClient(connection)) as recorder, AsyncExitStack() as stack:
                process = Process(self._view(client, node=node), wire, client, recorder)
                await stack.enter_async_context(self._running(process))
                if lead:
                    await stack.enter_async_context(self.leading(process))
                try:
                    yield process
                finally:
                    self.tables[node].handlers = [self.poke, self.played[node].poke]

    def _view(self, client: KubeClient, *, node: str) -> NodeView:
        view = node_view(client, self.tables[node], node=node, namespace=self.driver, state_dir=STATE)
        for cache in _caches(view):
            cache.add_handler(self.poke)
        return view

    def _running(self, process: Process) -> AbstractAsyncContextManager[None]:
        view, client, instruments = process.view, process.client, Instruments()
        metrics = Metrics(process="node").mounts
        held = HeldVolumes(view, holder_pods(client, node=view.node), NoVolumes())
        reporter = ClaimReporter(
            view, client=client, recorder=process.recorder, instruments=instruments, metrics=metrics, held=held
        )
        installation = Installation(self.driver, "image", STATE)
        volumes = ExternalVolumeController(
            view, client=client, installation=installation, reporter=reporter, instruments=instruments
        )
        mount_pods = MountPodController(view, client=client, instruments=instruments)
        caches = (*_caches(view), held.holders)
        return owning(*(cache.run() for cache in caches), reporter.run(), volumes.run(), mount_pods.run())

    def leading(self, process: Process) -> AbstractAsyncContextManager[None]:
        """One term as the leader, of a process that runs."""
        client, instruments = process.client, Instruments()
        sight = leader_view(client, classes=process.view.classes, namespace=self.driver)
        claims = ClaimStatusController(sight, client=client, instruments=instruments)
        classes = ProviderClassController(
            sight,
            client=client,
            recorder=process.recorder,
            assess=review_class,
            is_removal=process.is_removal,
            instruments=instruments,
        )
        caches: tuple[Informer[Any], ...] = (sight.claims, sight.pods, sight.mount_pods, sight.nodes)
        return owning(*(cache.run() for cache in caches), claims.run(), classes.run())


def _caches(view: NodeView) -> tuple[Informer[Any], ...]:
    return view.pods, view.mount_pods, view.claims, view.classes, view.nodes


@asynccontextmanager
async def world(connect: Connect) -> AsyncIterator[World]:
    """One of its own on the server that `connect` leads to."""
    name = f"{os.getpid()}-{next(_numbers)}"
    async with connect() as connection, AsyncExitStack() as stack:
        admin = KubeClient(connection)
        made = World(
            admin,
            connect,
            name,
            stack,
            claims=Informer(admin.source(CLAIMS, namespace=f"apps-{name}"), name="w-claims"),
            classes=Informer(admin.source(CLASSES), name="w-classes"),
            pods=Informer(admin.source(PODS, namespace=f"apps-{name}"), name="w-pods"),
            mount_pods=Informer(admin.source(PODS, namespace=f"driver-{name}"), name="w-mount-pods"),
            secrets=Informer(admin.source(SECRETS, namespace=f"driver-{name}"), name="w-secrets"),
        )
        for namespace, account in ((made.namespace, "default"), (made.driver, "dynvol-mount")):
            await admin.create(NAMESPACES, {"metadata": {"name": namespace}})
            await admin.create(ACCOUNTS, {"metadata": {"name": account}}, namespace=namespace)
        watched: tuple[Informer[Any], ...] = (made.claims, made.classes, made.pods, made.mount_pods, made.secrets)
        for informer in watched:
            informer.add_handler(made.poke)
        await stack.enter_async_context(owning(*(informer.run() for informer in watched)))
        await made.add_node(made.node)
        try:
            yield made
        finally:
            await _clean_up(made)
        assert [wrong for table in made.tables.values() for wrong in table.wrongs] == []


async def _clean_up(made: World) -> None:
    """Other tests' controllers see all claims and classes; none of ours may be left for them."""
    for claim in await made.admin.list(CLAIMS, namespace=made.namespace):
        await _remove(made.admin, CLAIMS, claim.metadata)
    for found in await made.admin.list(CLASSES):
        if found.metadata.name == made.provider_class:
            await _remove(made.admin, CLASSES, found.metadata)
    for node in made.tables:
        try:
            await made.admin.delete(NODES, node)
        except NotFound:
            continue


async def _remove(admin: KubeClient, resource: Resource[Any], meta: ObjectMeta) -> None:
    try:
        await admin.merge_patch(resource, meta.name, {"metadata": {"finalizers": []}}, namespace=meta.namespace)
        await admin.delete(resource, meta.name, namespace=meta.namespace)
    except NotFound:
        return
