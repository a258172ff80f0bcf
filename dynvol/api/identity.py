"""Names that are worked out, never remembered: who serves a workload, and where its directories are.

Each follows from what the API and kubelet say, so a process that starts with nothing finds what another one made.
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from . import names

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, names.GROUP)
_HOLDER: Final = "dynvol-holder-"


@dataclass(frozen=True, slots=True)
class Workload:
    """What one mount pod serves: the dynamic volumes of one class in one pod, or (shared) in all pods of a namespace on a node."""

    node: str
    namespace: str
    provider_class: str
    policy: str
    pod_uid: str
    """Empty when the policy is shared."""

    @classmethod
    def of(cls, *, node: str, namespace: str, provider_class: str, policy: str, pod_uid: str) -> Workload:
        """The workload that a pod's volume belongs to: under `shared`, the pod's uid plays no part."""
        shared = policy == names.SHARED
        return cls(node, namespace, provider_class, names.SHARED if shared else names.INDEPENDENT, "" if shared else pod_uid)

    @property
    def uuid(self) -> str:
        return _uuid("\x1f".join((self.node, self.namespace, self.provider_class, self.policy, self.pod_uid)))

    @property
    def mount_pod(self) -> str:
        """The mount pod's name in the driver's namespace; its Secret copy has the same."""
        return mount_pod_name(self.uuid)

    @property
    def annotation(self) -> str:
        return "/".join((self.namespace, self.provider_class, self.policy, self.pod_uid))

    def root(self, state_dir: str | PurePosixPath) -> PurePosixPath:
        """The mount pod's `/xvols` as the node sees it."""
        return PurePosixPath(state_dir, "xvols", self.provider_class, self.uuid)

    def cache(self, state_dir: str | PurePosixPath) -> PurePosixPath:
        """What its clients have yet to upload, as the node sees it. It outlives the mount pod, and the workload too."""
        return PurePosixPath(state_dir, "cache", self.provider_class, self.uuid)

    def directory(self, state_dir: str | PurePosixPath, *, pod_uid: str) -> PurePosixPath:
        """The workload pod's own directory below the root."""
        return self.root(state_dir) / pod_uid

    @classmethod
    def from_annotation(cls, text: str, *, node: str) -> Workload:
        """The inverse of `annotation`. Raises ValueError."""
        namespace, provider_class, policy, pod_uid = text.split("/")
        return cls.of(node=node, namespace=namespace, provider_class=provider_class, policy=policy, pod_uid=pod_uid)


@dataclass(frozen=True, slots=True)
class Holding:
    """A PersistentVolumeClaim that holder pods keep mounted on one node, for whichever pods of its namespace want it there.

    Pods whose files belong to different groups have a holder each, since it is by the pod's `fsGroup` that kubelet gives the files
    of a volume to a group.
    """

    node: str
    namespace: str
    volume_claim: str
    group: int | None

    @property
    def uuid(self) -> str:
        group = "" if self.group is None else str(self.group)
        return str(uuid.uuid5(_NAMESPACE, "\x1f".join(("holder", self.node, self.namespace, self.volume_claim, group))))

    def pod_name(self, number: int) -> str:
        """Of the holder pods that follow one another, and for a while are there together, each has a number."""
        return f"{_HOLDER}{self.uuid}-{number}"


@functools.lru_cache(maxsize=512)
def _uuid(text: str) -> str:
    """Asked for several times in each call of kubelet's and each reconciliation."""
    return str(uuid.uuid5(_NAMESPACE, text))


def uuid_of_holder(name: str) -> str:
    """The inverse of `Holding.pod_name`; empty for what is no holder's name."""
    return name.removeprefix(_HOLDER).rpartition("-")[0] if name.startswith(_HOLDER) else ""


def mount_pod_name(uuid: str) -> str:
    return f"dynvol-mount-{uuid}"


def uuid_of_mount_pod(name: str) -> str:
    """The inverse of `mount_pod_name`."""
    return name.removeprefix("dynvol-mount-")


def label_value(name: str) -> str:
    """`name` if it fits a label's value (63 characters), else a prefix and a digest of it."""
    if len(name) <= 63:
        return name
    return f"{name[:46].rstrip('-_.')}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
