"""What the controllers of one node see: informers, the node's mount table, and the questions that they ask of both.

It answers from caches only and changes nothing. `NodeMounts` is the one door to the kernel; `dynvol.app.node` provides it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Node, Pod
from dynvol.api.identity import Workload
from dynvol.api.mounts import MalformedAnnotation, MountReport, WantedMount, decode_reports, decode_wanted
from dynvol.api.providerclass import StorageProviderClass
from dynvol.runtime.controller import Controller, Reconcile
from dynvol.runtime.informer import Informer
from dynvol.runtime.metrics import UNMEASURED, QueueMetrics, ReconcileMetrics

from .desired import Attachment, attachments, dynamic_volumes, workload, workloads

BY_WORKLOAD: Final = "workload"
BY_NAMESPACE: Final = "namespace"
BY_CLASS: Final = "class"
BY_UID: Final = "uid"
BY_CLAIM_UID: Final = "claim"
SYNC_DEADLINE: Final = 7 * 24 * 3600.0
"""Seconds. Ending the process would not bring the API server back, but would keep pods from starting; /readyz tells meanwhile."""
SOURCE_PREFIX: Final = "dynvol-"
"""All that a mounter mounts has a source that begins so (`WantedMount.source`)."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """How controllers are measured; by default not at all."""

    reconciles: ReconcileMetrics = UNMEASURED
    queues: QueueMetrics = UNMEASURED

    def controller(self, name: str, reconcile: Reconcile, *, workers: int) -> Controller:
        """One of ours. It waits for its caches as long as it takes: without an API server the process still serves kubelet."""
        return Controller(
            name,
            reconcile,
            workers=workers,
            sync_deadline=SYNC_DEADLINE,
            metrics=self.reconciles,
            queue_metrics=self.queues,
        )


class NodeMounts(Protocol):
    """The node's mounts. Reading asks the mount table, never a path, so it cannot block on a dead mount."""

    def source_at(self, path: PurePosixPath) -> str | None:
        """The source of a mounter's mount that is topmost at `path`; None if there is none."""
        ...

    def below(self, root: PurePosixPath) -> dict[PurePosixPath, str]:
        """The mounts of mounters at and below `root`: path → source."""
        ...

    def on_change(self, handler: Callable[[frozenset[tuple[PurePosixPath, str]]], None]) -> None:
        """`handler` hears which (path, source) pairs below all roots came or went."""
        ...

    def uuid_of(self, path: PurePosixPath) -> str | None:
        """The workload whose root `path` is, or lies below."""
        ...

    async def roots(self) -> dict[str, PurePosixPath]:
        """The mount pods' roots that exist on disk: uuid → path."""
        ...

    def is_root(self, path: PurePosixPath) -> bool:
        """Whether `path` is a mount pod's root that has been published: a shared mount of its own."""
        ...

    def pods_of_claim(self, claim_uid: str) -> frozenset[str]:
        """The uids of the pods in whose directories something of this claim is mounted."""
        ...

    async def clear_dead(self, root: PurePosixPath) -> None:
        """Unmounts what a mount pod that is gone left below `root`. Only for when its clients are dead."""
        ...

    async def release(self, root: PurePosixPath, *, keep: frozenset[str]) -> list[str]:
        """Removes the directories below `root` whose pod uid is not in `keep`, and `root` too when `keep` is empty.

        Never removes through a mount. Returns what is still in the way, in words.
        """
        ...


def index_by_workload(pod: Pod) -> Iterable[str]:
    """Informer index: the uuids of the workloads that a bound pod belongs to."""
    return [w.uuid for w in workloads(pod)] if pod.spec.node_name else []


def index_by_class(pod: Pod) -> Iterable[str]:
    """Informer index: the classes that a pod uses, unless it has finished."""
    return [] if pod.finished else {v.provider_class for v in dynamic_volumes(pod)}


def index_by_namespace(obj: Pod | DynamicVolumeClaim) -> Iterable[str]:
    return [obj.metadata.namespace]


def index_by_uid(claim: DynamicVolumeClaim) -> Iterable[str]:
    return [claim.metadata.uid]


def has_dynamic_volume(pod: Pod) -> bool:
    return bool(dynamic_volumes(pod))


@dataclass(frozen=True, slots=True)
class NodeView:
    """`pods` holds this node's pods that have a dynamic volume, `mount_pods` this node's mount pods, `nodes` the node itself."""

    node: str
    state_dir: str
    namespace: str
    pods: Informer[Pod]
    mount_pods: Informer[Pod]
    claims: Informer[DynamicVolumeClaim]
    classes: Informer[StorageProviderClass]
    nodes: Informer[Node]
    mounts: NodeMounts

    def pods_of(self, uuid: str) -> tuple[Pod, ...]:
        return self.pods.store.by_index(BY_WORKLOAD, uuid)

    def mount_pod(self, workload: Workload) -> Pod | None:
        return self.mount_pods.store.get(f"{self.namespace}/{workload.mount_pod}")

    def mount_pods_of(self, uuid: str) -> tuple[Pod, ...]:
        """One or none, unless someone made a second by hand."""
        return self.mount_pods.store.by_index(BY_WORKLOAD, uuid)

    def workload(self, uuid: str) -> Workload | None:
        """Who `uuid` is: from a pod of it, else from its mount pod; None if neither is known."""
        for pod in self.pods_of(uuid):
            return next(w for w in workloads(pod) if w.uuid == uuid)
        for mount_pod in self.mount_pods_of(uuid):
            return served_workload(mount_pod, node=self.node)
        return None

    def attachments(self, pod: Pod) -> tuple[Attachment, ...]:
        return attachments(pod, self.claims.store.by_index(BY_NAMESPACE, pod.metadata.namespace), self.class_map())

    def attachments_of(self, uuid: str) -> tuple[Attachment, ...]:
        """What the mount pod of one workload is to serve."""
        found = (a for pod in self.pods_of(uuid) for a in self.attachments(pod))
        return tuple(a for a in found if a.volume and workload(a.pod, a.volume).uuid == uuid)

    def class_map(self) -> dict[str, StorageProviderClass]:
        return {c.metadata.name: c for c in self.classes.store.values()}

    def is_mounted(self, wanted: WantedMount, *, root: PurePosixPath) -> bool:
        """Whether exactly this mount, not another, is in the mount table of this node."""
        return self.mounts.source_at(root / wanted.path) == wanted.source

    def draining(self) -> bool:
        node = self.nodes.store.get(self.node)
        return node is not None and node.spec.unschedulable


def served_workload(mount_pod: Pod, *, node: str) -> Workload | None:
    """The workload that a mount pod says it serves; None if it says nothing that makes sense."""
    try:
        found = Workload.from_annotation(mount_pod.metadata.annotations.get(names.WORKLOAD_ANNOTATION, ""), node=node)
    except ValueError:
        return None
    return found if found.uuid == mount_pod.metadata.labels.get(names.MOUNT_POD_LABEL) else None


def index_mount_pod(mount_pod: Pod) -> Iterable[str]:
    """Informer index of mount pods: the uuid of the workload served."""
    return [mount_pod.metadata.labels.get(names.MOUNT_POD_LABEL, "")]


def index_by_claim_uid(mount_pod: Pod) -> Iterable[str]:
    """Informer index of mount pods: the claims of which they report anything."""
    return {report.claim_uid for report in reported(mount_pod)}


def claim_uid_of(source: str) -> str:
    """The inverse of `WantedMount.source`, as far as the claim's uid; empty for what is not ours."""
    return source.removeprefix(SOURCE_PREFIX).rpartition("-")[0] if source.startswith(SOURCE_PREFIX) else ""


def told(mount_pod: Pod | None) -> list[WantedMount]:
    """What a mount pod has been told to mount; nothing if the annotation is malformed, so that it is written anew."""
    try:
        return decode_wanted(mount_pod.metadata.annotations.get(names.WANTED_ANNOTATION, "")) if mount_pod else []
    except MalformedAnnotation:
        return []


def reported(mount_pod: Pod | None) -> list[MountReport]:
    """What a mount pod says; nothing if the annotation is malformed."""
    try:
        return decode_reports(mount_pod.metadata.annotations.get(names.REPORT_ANNOTATION, "")) if mount_pod else []
    except MalformedAnnotation:
        return []
