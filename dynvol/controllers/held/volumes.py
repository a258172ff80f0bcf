"""What this node knows of PersistentVolumeClaims that claims bring to its pods: who wants what, who holds it, what shows it.

It answers from caches and the mount table. What it remembers beside them, why something failed, is worked out again after a
restart. Two controllers work on it: `holders` has the volumes mounted, `showing` shows them in pods. `claimreport` asks it how
things stand.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, TypeVar

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim, PodMount
from dynvol.api.core import Pod
from dynvol.api.identity import Holding, uuid_of_holder
from dynvol.api.mounts import Phase
from dynvol.mount.held import Showing, Volume
from dynvol.mount.mountinfo import Mount
from dynvol.observe import logs
from dynvol.runtime.informer import Informer

from ..desired import Attachment, workload
from ..matching import BY_NAMESPACE
from ..status import Standing, container_runs
from ..view import BY_ENTRY, NodeView
from .holderspec import holding_of
from .nodevolumes import NodeVolumes

log = logs.get(__name__)

K = TypeVar("K")

BY_HOLDER: Final = "holder"


def index_holder(pod: Pod) -> Iterable[str]:
    """Informer index of holder pods: namespace and uuid of what they hold. The namespace, since anyone may write a label."""
    return [f"{pod.metadata.namespace}/{pod.metadata.labels.get(names.HOLDER_LABEL, '')}"]


@dataclass(frozen=True, slots=True)
class Binding:
    """A volume, or a directory in it, that is to be shown in a pod: an attachment of provider pvc, where and whence."""

    attachment: Attachment
    holding: Holding
    directory: PurePosixPath
    """The pod's own, on the node."""

    @property
    def key(self) -> str:
        """Of the holder: namespace and uuid."""
        return f"{self.holding.namespace}/{self.holding.uuid}"

    @property
    def uuid(self) -> str:
        """Of the workload."""
        return self.directory.parent.name

    @property
    def claim(self) -> DynamicVolumeClaim:
        return self.attachment.claim

    @property
    def path(self) -> PurePosixPath:
        return self.directory / self.mountpoint

    @property
    def mountpoint(self) -> str:
        return self.claim.spec.mountpoint.removeprefix("/")

    @property
    def sub_path(self) -> str:
        return self.claim.spec.parameters.get("subPath", "")

    @property
    def showing(self) -> Showing:
        return Showing(str(self.directory), self.mountpoint, self.sub_path, self.claim.spec.read_only)

    def is_shown_by(self, mount: Mount, volume: Volume) -> bool:
        return volume.shows(mount, sub_path=self.sub_path, read_only=self.claim.spec.read_only)


@dataclass(frozen=True, slots=True)
class HeldVolumes:
    """`holders` are the pods that say they are this node's holders; those that are, `pods_of` has."""

    view: NodeView
    holders: Informer[Pod]
    volumes: NodeVolumes
    leaving: set[str] = field(default_factory=set)
    """The uids of holders of which nothing new may be shown, since they are about to be let go."""
    _troubles: dict[str, Standing] = field(default_factory=dict)
    """Holder's key → why there is none that holds."""
    _failures: dict[PurePosixPath, Standing] = field(default_factory=dict)
    """Place → why a volume that is held cannot be shown there."""
    _listeners: list[Callable[[str], None]] = field(default_factory=list)

    @property
    def _base(self) -> PurePosixPath:
        return PurePosixPath(self.view.state_dir, "xvols")

    # --- What is wanted

    def bindings_of(self, uuid: str) -> tuple[Binding, ...]:
        """Those of one workload."""
        return tuple(self.binding(a) for a in self.view.held_attachments_of(uuid))

    def bindings_in(self, namespace: str) -> Iterable[Binding]:
        """Those of all pods of a namespace on this node."""
        for pod in self.view.pods.store.by_index(BY_NAMESPACE, namespace):
            for attachment in self.view.matches.of(pod).values():
                if attachment.volume is not None and attachment.claim.spec.provider == names.PVC:
                    yield self.binding(attachment)

    def binding(self, attachment: Attachment) -> Binding:
        """Of an attachment of provider pvc that was not refused. Files belong to the group that the claim names, else the pod."""
        claim, pod = attachment.claim, attachment.pod
        assert attachment.volume is not None
        group = claim.spec.gid if claim.spec.gid is not None else pod.spec.security_context.fs_group
        name = claim.spec.parameters.get("claimName", "")
        holding = Holding(pod.spec.node_name, pod.metadata.namespace, name, group)
        served = workload(pod, attachment.volume)
        return Binding(attachment, holding, served.directory(self.view.state_dir, pod_uid=pod.metadata.uid))

    def wanted(self, key: str) -> tuple[Binding, ...]:
        """What one holder is needed for."""
        return tuple(b for b in self.bindings_in(key.partition("/")[0]) if b.key == key)

    # --- Who holds

    def is_holder(self, pod: Pod) -> bool:
        return holding_of(pod, node=self.view.node) is not None

    def pods_of(self, key: str) -> tuple[Pod, ...]:
        """Those that are there, oldest first; one that has ended, too."""
        found = (p for p in self.holders.store.by_index(BY_HOLDER, key) if self.is_holder(p))
        return tuple(sorted(found, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name)))

    def holding(self, wanted: Holding) -> tuple[Pod, ...]:
        """Those that have not ended; one that is being deleted still holds. Those that stay come first."""
        pods = self.pods_of(f"{wanted.namespace}/{wanted.uuid}")
        return tuple(sorted((p for p in pods if not p.finished), key=lambda p: p.metadata.deleting))

    def volume(self, holder: Pod) -> Volume | None:
        """What it holds, as soon as kubelet has it mounted, and whether or not its container is being started again."""
        return None if holder.finished else self.volumes.of_holder(holder.metadata.uid)

    def sources(self, wanted: Binding) -> tuple[tuple[Pod, Volume], ...]:
        """Where what is wanted can be had from."""
        found = ((pod, self.volume(pod)) for pod in self.holding(wanted.holding))
        return tuple((pod, volume) for pod, volume in found if volume is not None)

    # --- What is shown

    def shows(self, mount: Mount, wanted: Binding) -> bool:
        """Whether a mount is what is wanted, held by a pod that is there. It must not outlive the last one: Kubernetes may then
        take the volume's disk away, and give it to another node."""
        return any(wanted.is_shown_by(mount, volume) for _, volume in self.sources(wanted))

    def is_shown(self, wanted: Binding) -> bool:
        mount = self.volumes.places(wanted.directory.parent).get(wanted.path)
        return mount is not None and self.shows(mount, wanted)

    def standing(self, wanted: Binding) -> Standing:
        """How one pair of claim and pod stands."""
        if self.is_shown(wanted):
            return Standing(Phase.MOUNTED)
        if (failure := self._failures.get(wanted.path)) is not None:
            return failure
        if (trouble := self._troubles.get(wanted.key)) is not None:
            return trouble
        name = self.holder_name(wanted)
        if not any(container_runs(pod) for pod in self.holding(wanted.holding)):
            return Standing(Phase.PENDING, "HolderStarting", f"holder pod {name} is starting")
        return Standing(Phase.MOUNTING, "Requested", f"holder pod {name} holds the volume")

    def holder_name(self, wanted: Binding) -> str:
        """The pod that holds, or is to."""
        return next((pod.metadata.name for pod in self.holding(wanted.holding)), wanted.holding.pod_name(0))

    # --- What is wrong, and who hears of it

    def on_news(self, handler: Callable[[str], None]) -> None:
        """`handler` hears the keys of claims of which something else is true than before."""
        self._listeners.append(handler)

    def troubled(self, key: str, why: Standing | None) -> None:
        """Says what keeps a holder from holding; None: nothing does."""
        if self._troubles.get(key) != why:
            _set(self._troubles, key, why)
            self._tell(binding.claim.metadata.key for binding in self.wanted(key))
            if why is not None:
                log.warning("a volume cannot be held", holder=key, reason=why.reason, message=why.message)

    def failed(self, wanted: Binding, why: Standing | None) -> None:
        """Says why what is held cannot be shown; None: it can."""
        if self._failures.get(wanted.path) != why:
            _set(self._failures, wanted.path, why)
            self._tell((wanted.claim.metadata.key,))
            if why is not None:
                log.warning("a volume cannot be shown", path=str(wanted.path), reason=why.reason, message=why.message)

    def forget_failures(self, root: PurePosixPath, *, but: Container[PurePosixPath]) -> None:
        for path in [p for p in self._failures if p.is_relative_to(root) and p not in but]:
            del self._failures[path]

    def _tell(self, claims: Iterable[str]) -> None:
        for claim in set(claims):
            for listener in self._listeners:
                listener(claim)

    # --- What is left

    def is_left(self, namespace: str, entry: PodMount) -> bool:
        """Whether something is still to go of a pair that is no more: its mount, or the holder that nobody else needs. With a
        claim's last entry its volume is free for another node."""
        uuid = uuid_of_holder(entry.mount_pod)
        if not uuid:
            return False
        key = f"{namespace}/{uuid}"
        return self._shows_stale(namespace, entry.uid) or (bool(self.pods_of(key)) and not self.wanted(key))

    def _shows_stale(self, namespace: str, pod_uid: str) -> bool:
        """Whether anything is mounted in a pod that is not wanted there. Whose it is, no mount says."""
        wanted = {b.path: b for b in self.bindings_in(namespace) if b.attachment.pod.metadata.uid == pod_uid}
        return any(
            path not in wanted or not self.shows(mount, wanted[path])
            for path, mount in self.volumes.of_pod(pod_uid).items()
            if self.is_ours(path)
        )

    def is_ours(self, path: PurePosixPath) -> bool:
        """Whether what is mounted at a place of a workload is this process's doing, and not a mount pod's."""
        provider_class = self.view.classes.store.get(path.relative_to(self._base).parts[0])
        return provider_class is None or provider_class.spec.provider == names.PVC

    def claims_about(self, path: PurePosixPath) -> Iterable[str]:
        """The keys of the claims whose status speaks of the pod in whose directory a path is."""
        _class, _uuid, pod_uid, *_ = (*path.relative_to(self._base).parts, "", "", "")
        return [claim.metadata.key for claim in self.view.claims.store.by_index(BY_ENTRY, pod_uid)]

    def claims_of_holder(self, holder: Pod) -> Iterable[str]:
        """The keys of the claims that have, had or want something of a holder."""
        for key in index_holder(holder):
            yield from (claim.metadata.key for claim in self.view.claims.store.by_index(BY_ENTRY, key))
            yield from (wanted.claim.metadata.key for wanted in self.wanted(key))


def _set(known: dict[K, Standing], key: K, why: Standing | None) -> None:
    if why is None:
        known.pop(key, None)
    else:
        known[key] = why
