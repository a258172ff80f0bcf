"""What the controllers of one node see: informers, the node's mount table, and the questions that they ask of both.

It answers from caches only and changes nothing. `NodeMounts` is the one door to the kernel; `dynvol.app.node` provides it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final, Protocol, TypeVar

import msgspec

from dynvol.api import names
from dynvol.api.claim import ClaimStatus, DynamicVolumeClaim, S3Config
from dynvol.api.core import Node, Pod, PodSpec, PodStatus
from dynvol.api.identity import Workload, mount_pod_name, uuid_of_holder
from dynvol.api.mounts import (
    SHARED_SOURCE,
    SOURCE_PREFIX,
    MalformedAnnotation,
    MountReport,
    WantedMount,
    decode_reports,
    decode_wanted,
)
from dynvol.api.providerclass import StorageProviderClass
from dynvol.mount.caches import Leftover
from dynvol.runtime.controller import Controller, Reconcile
from dynvol.runtime.informer import Informer
from dynvol.runtime.metrics import UNMEASURED, QueueMetrics, ReconcileMetrics

from .desired import Attachment, dynamic_volumes, workload, workloads
from .matching import Matches, selected
from .overdue import OverduePods
from .status import node_entries
from .turns import Turns

T = TypeVar("T")

BY_WORKLOAD: Final = "workload"
BY_CLASS: Final = "class"
BY_UID: Final = "uid"
BY_CLAIM_UID: Final = "claim"
BY_ENTRY: Final = "entry"
_NOTHING_SAID: Final = ClaimStatus()
_NONE: Final[dict[str, str]] = {}
"""Labels or annotations that no one reads. One for all, as nothing in a cache is ever changed."""
SYNC_DEADLINE: Final = 7 * 24 * 3600.0
"""Seconds. Ending the process would not bring the API server back, but would keep pods from starting; /readyz tells meanwhile."""


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

    async def caches(self) -> dict[str, PurePosixPath]:
        """The mount pods' cache directories that exist on disk: uuid → path. The last part but one is the class."""
        ...

    async def leftovers(self, cache: PurePosixPath) -> tuple[Leftover, ...]:
        """What waits in a mount pod's caches for its way into the storage."""
        ...

    def is_root(self, path: PurePosixPath) -> bool:
        """Whether `path` is a mount pod's root that has been published: a shared mount of its own."""
        ...

    def pods_of_claim(self, claim_uid: str) -> frozenset[str]:
        """The uids of the pods in whose directories something is mounted that names this claim."""
        ...

    def nameless(self, uuid: str) -> frozenset[str]:
        """The paths below a workload's root at which something is mounted that names no claim, since several may share it."""
        ...

    async def clear_dead(self, root: PurePosixPath) -> None:
        """Unmounts what a mount pod that is gone left below `root`. Only for when its clients are dead."""
        ...

    async def make_root(self, root: PurePosixPath) -> None:
        """Makes a mount pod's root as a publish would, where no pod is there to be published."""
        ...

    async def release_cache(self, cache: PurePosixPath) -> list[str]:
        """Removes a mount pod's caches that hold nothing, and its directory with the last of them. Returns what stays, in words."""
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


def index_by_namespace(pod: Pod) -> Iterable[str]:
    return [pod.metadata.namespace]


def index_by_uid(claim: DynamicVolumeClaim) -> Iterable[str]:
    return [claim.metadata.uid]


def index_by_entry(claim: DynamicVolumeClaim) -> Iterable[str]:
    """Informer index of claims: the uids of the pods of which their status speaks, and the keys of the holders."""
    entries, namespace = claim.status.pods, claim.metadata.namespace
    holders = {f"{namespace}/{uuid}" for entry in entries if (uuid := uuid_of_holder(entry.mount_pod))}
    return [*(entry.uid for entry in entries), *holders]


def without_other_nodes(claim: DynamicVolumeClaim, *, node: str) -> DynamicVolumeClaim:
    """For the claims' cache of one node: a claim in ten thousand pods has ten thousand entries, of which a hundred are ours. What
    else is dropped decides nothing here, and is kept by each node for each claim of the cluster."""
    mine = node_entries(claim.status, node)
    metadata = msgspec.structs.replace(
        claim.metadata,
        namespace=_same(claim.metadata.namespace),
        finalizers=_same(claim.metadata.finalizers),
        labels=_NONE,
        annotations=_NONE,
        owner_references=(),
    )
    spec = msgspec.structs.replace(
        claim.spec,
        storage_provider=_same(claim.spec.storage_provider),
        storage_provider_class=_same(claim.spec.storage_provider_class),
        s3_config=_with_common_endpoint(claim.spec.s3_config),
    )
    return msgspec.structs.replace(claim, metadata=metadata, spec=spec, status=ClaimStatus(pods=mine) if mine else _NOTHING_SAID)


def _with_common_endpoint(s3: S3Config | None) -> S3Config | None:
    return s3 and msgspec.structs.replace(s3, endpoint=_same(s3.endpoint), region=_same(s3.region))


@lru_cache(maxsize=1024)
def _same(value: T) -> T:
    """What many claims say alike is kept once: each comes with a copy of its own."""
    return value


def as_user_of_volumes(pod: Pod) -> Pod:
    """For the caches of users' pods, of which a leader's holds thousands: what decides on mounts in them, and where their
    containers see these. Of a pod without a dynamic volume that is next to nothing."""
    meta = msgspec.structs.replace(pod.metadata, annotations={}, owner_references=())
    status = PodStatus(phase=pod.status.phase)
    ours = tuple(v for v in pod.spec.volumes if v.csi is not None and v.csi.driver == names.DRIVER)
    if not ours:
        return Pod(metadata=msgspec.structs.replace(meta, labels={}), spec=PodSpec(node_name=pod.spec.node_name), status=status)
    common = msgspec.structs.replace(pod.spec, volumes=ours, node_name="")
    spec = msgspec.structs.replace(_shared_spec(msgspec.json.encode(common)), node_name=pod.spec.node_name)
    return Pod(metadata=meta, spec=spec, status=status)


@lru_cache(maxsize=1024)
def _shared_spec(text: bytes) -> PodSpec:
    """Pods of one template have equal specs, but for the node: one object serves them all."""
    return msgspec.json.decode(text, type=PodSpec)


@dataclass(frozen=True, slots=True)
class NodeView:
    """`pods` holds all of this node's pods, `mount_pods` this node's mount pods, `nodes` the node itself.

    Of the pods it sees what `as_user_of_volumes` leaves. Of the claims' entries (`status.pods`) it sees at least this node's own.
    """

    node: str
    state_dir: str
    namespace: str
    pods: Informer[Pod]
    mount_pods: Informer[Pod]
    claims: Informer[DynamicVolumeClaim]
    classes: Informer[StorageProviderClass]
    nodes: Informer[Node]
    mounts: NodeMounts
    overdue: OverduePods = field(init=False)
    matches: Matches = field(init=False)
    turns: Turns = field(default_factory=Turns)
    """Of the workloads: whoever makes or takes down something of one holds its turn."""

    def __post_init__(self) -> None:
        # Before any controller registers: who is told of a change finds the matches as they are after it.
        overdue = OverduePods(self.pods, kubelet_works=self._is_ready)
        object.__setattr__(self, "overdue", overdue)
        matches = Matches(self.pods, self.claims, self.classes, has_had_its_time=overdue.includes)
        object.__setattr__(self, "matches", matches)

    def pods_of(self, uuid: str) -> tuple[Pod, ...]:
        return self.pods.store.by_index(BY_WORKLOAD, uuid)

    def mount_pod(self, uuid: str) -> Pod | None:
        """The one whose name follows from `uuid`. Others that carry its label, someone's hand made."""
        return self.mount_pods.store.get(f"{self.namespace}/{mount_pod_name(uuid)}")

    def workload(self, uuid: str) -> Workload | None:
        """Who `uuid` is: from a pod of it, else from its mount pod; None if neither is known."""
        for pod in self.pods_of(uuid):
            return next(w for w in workloads(pod) if w.uuid == uuid)
        mount_pod = self.mount_pod(uuid)
        return served_workload(mount_pod, node=self.node) if mount_pod is not None else None

    def workloads_of_claim(self, claim: DynamicVolumeClaim) -> set[str]:
        """The uuids of the workloads on this node that a claim is about, also when it is on its way out."""
        return {w.uuid for pod in selected(self.pods.store, claim) for w in workloads(pod)}

    def attachments_of(self, uuid: str) -> tuple[Attachment, ...]:
        """What the mount pod of one workload is to serve. Refused ones are nobody's."""
        return tuple(a for a in self._attached(uuid) if a.claim.spec.provider != names.PVC)

    def held_attachments_of(self, uuid: str) -> tuple[Attachment, ...]:
        """What this process itself is to bring to one workload."""
        return tuple(a for a in self._attached(uuid) if a.claim.spec.provider == names.PVC)

    def _attached(self, uuid: str) -> Iterator[Attachment]:
        whose = self.workload(uuid)
        found = (a for pod in self.pods_of(uuid) for a in self.matches.of(pod).values())
        return (a for a in found if a.volume and workload(a.pod, a.volume) == whose)

    def is_to_be_prepared(self, uuid: str) -> bool:
        """Whether a mount pod is to be there though no claim needs one yet. Not for a node that is being emptied."""
        pods = [pod for pod in self.pods_of(uuid) if not pod.finished]
        workload = self.workload(uuid)
        if workload is None or not pods or self.draining():
            return False
        provider_class = self.classes.store.get(workload.provider_class)
        return provider_class is not None and not provider_class.metadata.deleting and provider_class.spec.prepares_mount_pods

    def workloads_of_class(self, provider_class: StorageProviderClass) -> set[str]:
        """The uuids of those on this node that use it."""
        name = provider_class.metadata.name
        return {w.uuid for pod in self.pods.store.by_index(BY_CLASS, name) for w in workloads(pod) if w.provider_class == name}

    def class_map(self) -> dict[str, StorageProviderClass]:
        return {c.metadata.name: c for c in self.classes.store.values()}

    def is_mounted(self, wanted: WantedMount, *, root: PurePosixPath) -> bool:
        """Whether exactly this mount, not another, is in the mount table of this node, be it under the name that an older mount pod
        gives it."""
        return self.mounts.source_at(root / wanted.path) in (wanted.source, wanted.claims_source)

    def claims_at(self, path: PurePosixPath, source: str) -> set[str]:
        """The uids of the claims whose mount this may be, or have been: of the one that it names, else of those that belong at that
        path, or of which the mount pod has been told or says that they are there."""
        uuid = self.mounts.uuid_of(path)
        if not source.startswith(SHARED_SOURCE) or uuid is None:
            return {claim_uid_of(source)} - {""}
        _, _, below = str(path).partition(f"/{uuid}/")
        attached = (a for pod in self.pods_of(uuid) for a in self.matches.of(pod).values() if below.startswith(pod.metadata.uid))
        words: tuple[WantedMount | MountReport, ...] = (*told(self.mount_pod(uuid)), *reported(self.mount_pod(uuid)))
        return {a.claim.metadata.uid for a in attached if a.path == below} | {w.claim_uid for w in words if w.path == below}

    def own_node(self) -> Node | None:
        return self.nodes.store.get(self.node)

    def _is_ready(self) -> bool:
        node = self.own_node()
        return node is not None and node.ready

    def draining(self) -> bool:
        node = self.own_node()
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
    """Informer index of mount pods: the claims of which they have been told, or report anything."""
    return {mount.claim_uid for mount in told(mount_pod)} | {report.claim_uid for report in reported(mount_pod)}


def claim_uid_of(source: str) -> str:
    """The inverse of `WantedMount.source`, as far as the claim's uid; empty for what is not ours, or may be several claims'."""
    if source.startswith(SHARED_SOURCE) or not source.startswith(SOURCE_PREFIX):
        return ""
    return source.removeprefix(SOURCE_PREFIX).rpartition("-")[0]


def told(mount_pod: Pod | None) -> tuple[WantedMount, ...]:
    """What a mount pod has been told to mount; nothing if the annotation is malformed, so that it is written anew."""
    return _told(mount_pod.metadata.annotations.get(names.WANTED_ANNOTATION, "")) if mount_pod else ()


def reported(mount_pod: Pod | None) -> tuple[MountReport, ...]:
    """What a mount pod says; nothing if the annotation is malformed."""
    return _reported(mount_pod.metadata.annotations.get(names.REPORT_ANNOTATION, "")) if mount_pod else ()


# The texts are asked about once for each claim in them; a node has room for about a hundred mount pods.
@lru_cache(maxsize=256)
def _told(text: str) -> tuple[WantedMount, ...]:
    try:
        return tuple(decode_wanted(text))
    except MalformedAnnotation:
        return ()


@lru_cache(maxsize=256)
def _reported(text: str) -> tuple[MountReport, ...]:
    try:
        return tuple(decode_reports(text))
    except MalformedAnnotation:
        return ()
