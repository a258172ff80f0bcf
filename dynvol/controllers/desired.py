"""Which claim belongs in which pod: the decision from which everything else follows.

Pure: it sees objects, not the node. It does not say whether a mount exists, only whether one should. The same input gives the same
answer on every node and after every restart, whatever the order in which the objects came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim, age_order, digest
from dynvol.api.core import Pod
from dynvol.api.identity import Workload
from dynvol.api.mounts import MountReport, Phase, WantedMount
from dynvol.api.providerclass import StorageProviderClass
from dynvol.mount.providers import pins

from .room import Load

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DynamicVolume:
    """A CSI volume of our driver in a pod's spec, whoever wrote it there."""

    name: str
    provider_class: str
    policy: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pair of claim and pod gets no mount. `message` is one sentence for the user."""

    phase: Phase
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A claim that reaches a pod: through `volume`, unless `refusal` says why not."""

    claim: DynamicVolumeClaim
    pod: Pod
    volume: DynamicVolume | None
    refusal: Refusal | None = None

    @property
    def path(self) -> str:
        """The mountpoint below the mounter's root."""
        return f"{self.pod.metadata.uid}{self.claim.spec.mountpoint}"


def dynamic_volumes(pod: Pod) -> tuple[DynamicVolume, ...]:
    """The dynamic volumes of `pod`, in the order of its spec."""
    return tuple(
        DynamicVolume(
            volume.name,
            volume.csi.volume_attributes.get(names.CLASS_ATTRIBUTE, ""),
            volume.csi.volume_attributes.get(names.POLICY_ATTRIBUTE, names.INDEPENDENT),
        )
        for volume in pod.spec.volumes
        if volume.csi is not None and volume.csi.driver == names.DRIVER
    )


def workload(pod: Pod, volume: DynamicVolume) -> Workload:
    """Whose mount pod serves `volume` of `pod`. The pod must be bound to a node."""
    return Workload.of(
        node=pod.spec.node_name,
        namespace=pod.metadata.namespace,
        provider_class=volume.provider_class,
        policy=volume.policy,
        pod_uid=pod.metadata.uid,
    )


def workloads(pod: Pod) -> tuple[Workload, ...]:
    return tuple(workload(pod, volume) for volume in dynamic_volumes(pod))


def attachments(
    pod: Pod, claims: Iterable[DynamicVolumeClaim], classes: Mapping[str, StorageProviderClass]
) -> tuple[Attachment, ...]:
    """The claims that reach `pod`, oldest first; refused ones too, so that someone tells the user.

    A pod that has finished uses nothing. A terminating one does, until it is gone: its programs may still write.
    """
    volumes = dynamic_volumes(pod)
    if not volumes or pod.finished:
        return ()
    reaching = sorted((c for c in claims if reaches(c, pod)), key=age_order)
    routed = [a for claim in reaching if (a := _route(claim, pod, volumes, classes)) is not None]
    return _without_overlaps(routed)


def reaches(claim: DynamicVolumeClaim, pod: Pod) -> bool:
    """Same namespace, matching labels, and the claim is not on its way out."""
    meta = claim.metadata
    return meta.namespace == pod.metadata.namespace and not meta.deleting and claim.spec.selector.matches(pod.metadata.labels)


def _route(
    claim: DynamicVolumeClaim, pod: Pod, volumes: Sequence[DynamicVolume], classes: Mapping[str, StorageProviderClass]
) -> Attachment | None:
    """The volume of `pod` that carries `claim`; None if the pod has none for it and so is left alone."""
    named = claim.spec.storage_provider_class
    # Volumes of one class and policy are views of one directory: what is mounted for the first shows in all of them.
    distinct = {(v.provider_class, v.policy): v for v in reversed(volumes)}.values()
    candidates = [v for v in reversed(distinct) if not named or v.provider_class == named]
    fitting = [v for v in candidates if (c := classes.get(v.provider_class)) and c.spec.provider == claim.spec.provider]
    missing = [v for v in candidates if v.provider_class not in classes]
    match fitting, missing:
        case [volume], _:
            return _permitted(Attachment(claim, pod, volume), classes[volume.provider_class])
        case [], [volume, *_]:
            return _refused(claim, pod, "ClassNotFound", f"StorageProviderClass {volume.provider_class} does not exist; create it")
        case [], []:
            return None
        case _:
            choices = ", ".join(v.provider_class for v in fitting)
            return _refused(
                claim,
                pod,
                "AmbiguousClass",
                f"the pod has several volumes of provider {claim.spec.provider} ({choices}); name one in spec.storageProviderClass",
            )


def _permitted(attachment: Attachment, provider_class: StorageProviderClass) -> Attachment:
    """What a class has come to forbid is unmounted like what is no longer claimed."""
    claim = attachment.claim
    if why := pins.refusal(provider_class.spec, claim.spec, namespace=claim.metadata.namespace):
        message = f"StorageProviderClass {provider_class.metadata.name} {why}"
        return _refused(claim, attachment.pod, names.NOT_ALLOWED, message)
    return attachment


def _refused(claim: DynamicVolumeClaim, pod: Pod, reason: str, message: str, *, phase: Phase = Phase.FAILED) -> Attachment:
    return Attachment(claim, pod, None, Refusal(phase, reason, message))


def _without_overlaps(routed: Sequence[Attachment]) -> tuple[Attachment, ...]:
    """Of mounts at equal or nested paths in one volume the oldest stays; one that lost stands in no one's way."""
    taken: dict[str, _Tree[Attachment]] = {}
    decided: list[Attachment] = []
    for attachment in routed:
        if attachment.volume is None:
            decided.append(attachment)
            continue
        tree = taken.setdefault(attachment.volume.name, _Tree())
        mountpoint = attachment.claim.spec.mountpoint
        rivals = tree.overlapping(mountpoint)
        if rivals:
            decided.append(_outranked(attachment, min(rivals, key=lambda a: age_order(a.claim))))
        else:
            tree.add(mountpoint, attachment)
            decided.append(attachment)
    return tuple(decided)


def _outranked(attachment: Attachment, winner: Attachment) -> Attachment:
    message = (
        f"mountpoint {attachment.claim.spec.mountpoint} overlaps {winner.claim.spec.mountpoint} of the older claim "
        f"{winner.claim.metadata.name}; choose another mountpoint or delete that claim"
    )
    return _refused(attachment.claim, attachment.pod, "MountpointConflict", message, phase=Phase.CONFLICT)


class _Tree(Generic[T]):
    """Things at paths. Whether one overlaps others costs as much as its path is deep, however many there are."""

    def __init__(self) -> None:
        self._at_or_below: dict[str, list[T]] = {}
        self._at: dict[str, list[T]] = {}

    def add(self, path: str, thing: T) -> None:
        self._at.setdefault(path, []).append(thing)
        for place in _lineage(path):
            self._at_or_below.setdefault(place, []).append(thing)

    def overlapping(self, path: str) -> list[T]:
        """What is at `path`, below it, or above it."""
        above = (thing for place in _lineage(path) if place != path for thing in self._at.get(place, ()))
        return [*self._at_or_below.get(path, ()), *above]


def _lineage(path: str) -> Iterator[str]:
    """`path` and everything above it, the root left out."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def wanted_mount(attachment: Attachment, provider_class: StorageProviderClass) -> WantedMount:
    """What a mount pod is told of an attachment that was not refused.

    Where pods share a mount pod, mounts that differ in nothing but claim, pod and path have one client.
    """
    claim, pod = attachment.claim, attachment.pod
    parameters = _owner(claim, pod) | claim.spec.parameters_in(provider_class.spec)
    shared = attachment.volume is not None and attachment.volume.policy == names.SHARED
    own_secret = (claim.spec.secret,) if claim.spec.secret else ()
    identity = (claim.spec.provider, "" if shared else attachment.path, claim.spec.read_only, parameters, *own_secret)
    # Long enough that nobody finds another mount with the same name, to put it in the place of a neighbour's.
    client = digest(identity, digits=32) if shared else ""
    return WantedMount(
        claim=claim.metadata.key,
        claim_uid=claim.metadata.uid,
        pod_uid=pod.metadata.uid,
        path=attachment.path,
        provider=claim.spec.provider,
        spec_hash=digest(identity),
        read_only=claim.spec.read_only,
        credentials=claim.spec.secret,
        parameters=parameters,
        client=client,
    )


def _owner(claim: DynamicVolumeClaim, pod: Pod) -> dict[str, str]:
    """Owner and mode of what is mounted where the claim does not say: what the pod runs as.

    A group that comes from `fsGroup` alone may write, since that is what fsGroup promises; the owner may be any image's user.
    """
    context = pod.spec.security_context
    gid = context.fs_group if context.fs_group is not None else context.run_as_group
    given = {"uid": _runs_as_user(pod), "gid": gid}
    by_fs_group = claim.spec.gid is None and context.fs_group is not None
    return {k: str(v) for k, v in given.items() if v is not None} | ({"umask": "0002"} if by_fs_group else {})


def _runs_as_user(pod: Pod) -> int | None:
    """The pod's user, or the one that all containers which see a dynamic volume agree on."""
    if pod.spec.security_context.run_as_user is not None:
        return pod.spec.security_context.run_as_user
    volumes = {v.name for v in dynamic_volumes(pod)}
    users = {c.security_context.run_as_user for c in pod.spec.containers if any(m.name in volumes for m in c.volume_mounts)}
    return users.pop() if len(users) == 1 else None


def wanted_mounts(
    mine: Iterable[Attachment],
    classes: Mapping[str, StorageProviderClass],
    reports: Iterable[MountReport],
    *,
    memory_limit: int | None = None,
) -> tuple[WantedMount, ...]:
    """What one mount pod is told: everything that is attached, but for what must wait and what it has no room for. The oldest
    claims come first."""
    earlier = EarlierMounts(reports)
    load = Load(memory_limit)
    told: list[WantedMount] = []
    for attachment in sorted(mine, key=lambda a: (age_order(a.claim), a.pod.metadata.uid)):
        if attachment.volume is None or attachment.volume.provider_class not in classes:
            continue
        mount = wanted_mount(attachment, classes[attachment.volume.provider_class])
        if not load.shortage(mount) and not earlier.in_the_way(mount):
            told.append(mount)
            load.add(mount)
    return tuple(told)


class EarlierMounts:
    """The mounts that a mount pod reports, as obstacles to others."""

    def __init__(self, reports: Iterable[MountReport]) -> None:
        self._tree: _Tree[str] = _Tree()
        for report in reports:
            self._tree.add(report.path, report.claim_uid)

    def in_the_way(self, wanted: WantedMount) -> bool:
        """Whether a mount of another claim is still at, above or below this path.

        That one must be flushed and gone first: a mount over or below it would hide data that is on its way out.
        """
        return any(uid != wanted.claim_uid for uid in self._tree.overlapping(wanted.path))


def path_in_container(attachment: Attachment) -> str:
    """Where the first container that mounts a dynamic volume sees the mountpoint; the bare mountpoint if none does."""
    volumes = {attachment.volume.name} if attachment.volume else {v.name for v in dynamic_volumes(attachment.pod)}
    spec = attachment.pod.spec
    mounts = (m for c in (*spec.containers, *spec.init_containers) for m in c.volume_mounts if m.name in volumes)
    root = next((m.mount_path for m in mounts), "")
    return root.rstrip("/") + attachment.claim.spec.mountpoint
