"""From a request to what is meant by it, or to the reason why it cannot be served. Pure.

Everything that becomes part of a path is checked here: nothing that a pod's author writes can climb out of a directory, and no call
can reach a path that is not one of kubelet's targets.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from dynvol.api import names
from dynvol.api.identity import Workload

from .errors import InvalidRequest, NotPublished
from .proto.csi import v1 as csi

EPHEMERAL: Final = "csi.storage.k8s.io/ephemeral"
POD_NAME: Final = "csi.storage.k8s.io/pod.name"
POD_NAMESPACE: Final = "csi.storage.k8s.io/pod.namespace"
POD_UID: Final = "csi.storage.k8s.io/pod.uid"
"""What kubelet adds to `volume_context` when the CSIDriver object has `podInfoOnMount: true` (pkg/volume/csi/csi_mounter.go)."""

_LABEL: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN: Final = rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*"
_NAMESPACE: Final = re.compile(_LABEL)
_NAME: Final = re.compile(_SUBDOMAIN)
_UID: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?")
"""Mostly UUIDs; a static pod's uid is a hash."""

_ID_LIMIT: Final = 128
"""Bytes of a string in CSI, unless said otherwise (spec.md, Size Limits)."""
_PATH_LIMIT: Final = 4095
"""PATH_MAX without its NUL."""
_NAME_LIMIT: Final = 255
"""NAME_MAX."""


@dataclass(frozen=True, slots=True)
class Node:
    """What this node's processes are told at start, and every path follows from."""

    name: str
    kubelet_dir: PurePosixPath
    state_dir: PurePosixPath


@dataclass(frozen=True, slots=True)
class Target:
    """One of kubelet's target paths of this driver's kind, and the pod it belongs to."""

    path: PurePosixPath
    pod_uid: str


@dataclass(frozen=True, slots=True)
class Publication:
    """One volume of one pod: what shows where. Equal publications are the same wish."""

    volume: str
    target: Target
    workload: Workload
    pod: str
    """namespace/name, for messages."""
    root: PurePosixPath
    directory: PurePosixPath


def publication(request: csi.NodePublishVolumeRequest, *, node: Node) -> Publication:
    """Raises InvalidRequest. Whether the pod asked for read-only does not matter: the volume's root always is (design §3)."""
    volume = volume_id(request.volume_id)
    context = request.volume_context
    _check_presence(request)
    _check_capability(request.volume_capability)
    if context.get(EPHEMERAL) != "true":
        raise InvalidRequest(
            f"{names.DRIVER} serves inline volumes of pods only: write it under spec.volumes[].csi of the pod, not as a "
            f"PersistentVolume (and see that the CSIDriver object has podInfoOnMount: true and volumeLifecycleModes: [Ephemeral])"
        )
    pod_uid = _attribute(context, POD_UID, _UID, "the uid of a pod")
    namespace = _attribute(context, POD_NAMESPACE, _NAMESPACE, "the name of a namespace")
    pod = _attribute(context, POD_NAME, _NAME, "the name of a pod")
    provider_class = _attribute(context, names.CLASS_ATTRIBUTE, _NAME, "the name of a StorageProviderClass")
    workload = Workload.of(
        node=node.name, namespace=namespace, provider_class=provider_class, policy=_policy(context), pod_uid=pod_uid
    )
    where = target(request.target_path, node=node)
    if where.pod_uid != pod_uid:
        raise InvalidRequest(f"target_path {request.target_path} belongs to pod {where.pod_uid}, volume_context to pod {pod_uid}")
    root, directory = workload.root(node.state_dir), workload.directory(node.state_dir, pod_uid=pod_uid)
    return Publication(volume, where, workload, f"{namespace}/{pod}", root, directory)


def unpublication(request: csi.NodeUnpublishVolumeRequest, *, node: Node) -> tuple[str, Target]:
    """The volume and where it is to be taken away. Raises InvalidRequest."""
    return volume_id(request.volume_id), target(request.target_path, node=node)


def inspection(request: csi.NodeGetVolumeStatsRequest, *, node: Node) -> tuple[str, Target]:
    """The volume and where to look. Raises InvalidRequest; NotPublished for a path where none of ours can be."""
    volume = volume_id(request.volume_id)
    if not request.volume_path:
        raise InvalidRequest("volume_path is missing")
    try:
        return volume, target(request.volume_path, node=node, field="volume_path")
    except InvalidRequest as error:
        raise NotPublished(str(error)) from error


def volume_id(text: str) -> str:
    """Raises InvalidRequest."""
    if not text:
        raise InvalidRequest("volume_id is missing")
    if len(text.encode()) > _ID_LIMIT:
        raise InvalidRequest(f"volume_id is longer than {_ID_LIMIT} bytes")
    return text


def target(text: str, *, node: Node, field: str = "target_path") -> Target:
    """`<kubelet>/pods/<pod uid>/volumes/kubernetes.io~csi/<…>`, and nothing else. Raises InvalidRequest."""
    if not text:
        raise InvalidRequest(f"{field} is missing")
    path = PurePosixPath(text)
    if "\0" in text or path.root != "/" or text != posixpath.normpath(text):
        raise InvalidRequest(f"{field} {text[:200]!r} is not an absolute, normal path")
    if len(text.encode()) > _PATH_LIMIT or any(len(part.encode()) > _NAME_LIMIT for part in path.parts):
        raise InvalidRequest(f"{field} {text[:200]!r}… is longer than a path or a name in it may be")
    if path.is_relative_to(node.kubelet_dir):
        match path.relative_to(node.kubelet_dir).parts:
            case ("pods", pod_uid, "volumes", "kubernetes.io~csi", _, *_) if _UID.fullmatch(pod_uid):
                return Target(path, pod_uid)
    raise InvalidRequest(
        f"{field} {text[:200]} is not below {node.kubelet_dir}/pods/<pod uid>/volumes/kubernetes.io~csi: "
        f"if kubelet's root directory is another one, say so with --kubelet-dir"
    )


def _check_presence(request: csi.NodePublishVolumeRequest) -> None:
    if not request.target_path:
        raise InvalidRequest("target_path is missing")
    if request.volume_capability is None:
        raise InvalidRequest("volume_capability is missing")


def _check_capability(capability: csi.VolumeCapability | None) -> None:
    """A mount, in whatever access mode: how many may use the storage behind it is not this volume's affair."""
    if capability is None or capability.mount is None:
        raise InvalidRequest("volume_capability must be a mount: dynamic volumes are directories, not block devices")
    if flags := capability.mount.mount_flags:
        raise InvalidRequest(f"mount flags ({', '.join(flags)}) are not supported: options belong to the StorageProviderClass")


def _attribute(context: Mapping[str, str], key: str, pattern: re.Pattern[str], what: str) -> str:
    value = context.get(key, "")
    if pattern.fullmatch(value):
        return value
    if value:
        raise InvalidRequest(f"{key} in volume_context must be {what}, not {value[:253]!r}")
    if key == names.CLASS_ATTRIBUTE:
        raise InvalidRequest(f"{key} is missing: name a StorageProviderClass in volumeAttributes of the pod's volume")
    raise InvalidRequest(f"{key} is missing from volume_context: the CSIDriver object must have podInfoOnMount: true")


def _policy(context: Mapping[str, str]) -> str:
    policy = context.get(names.POLICY_ATTRIBUTE) or names.INDEPENDENT
    if policy not in (names.INDEPENDENT, names.SHARED):
        raise InvalidRequest(f"{names.POLICY_ATTRIBUTE} must be {names.INDEPENDENT} or {names.SHARED}, not {policy[:63]!r}")
    return policy
