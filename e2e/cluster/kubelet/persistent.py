"""PersistentVolumes on a node: what a pod's claim is bound to, mounted as kubelet's plugins hostPath and local mount it.

    hostPath   nothing is mounted: the containers get the path itself
    local      bound to <pod>/volumes/kubernetes.io~local-volume/<volume>

The first of a pod's fsGroup is done for local volumes, as kubelet does it; it never is for hostPath.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from e2e.cluster import mounts
from e2e.cluster.api import ApiClient, ApiError, Object, path

PLUGIN = "kubernetes.io~local-volume"


class Unusable(Exception):
    """Why a claim's volume cannot be mounted now, in kubelet's words."""


async def volume_of(api: ApiClient, pod: Object, claim_name: str) -> Object:
    """The PersistentVolume of a pod's claim. Raises Unusable."""
    namespace = pod["metadata"]["namespace"]
    try:
        claim = await api.get(path("v1", "persistentvolumeclaims", namespace=namespace, name=claim_name))
        name = claim["spec"].get("volumeName", "")
        if "deletionTimestamp" in claim["metadata"]:
            raise Unusable(f'PVC "{claim_name}" is being deleted')
        if not name or (claim.get("status") or {}).get("phase") != "Bound":
            raise Unusable(f"PVC {namespace}/{claim_name} is not bound")
        volume: Object = await api.get(path("v1", "persistentvolumes", name=name))
    except ApiError as error:
        raise Unusable(f"failed to fetch PVC {namespace}/{claim_name}: {error}") from error
    if (volume["spec"].get("claimRef") or {}).get("uid") != claim["metadata"]["uid"]:
        raise Unusable(f"PV {name} is bound to another claim than {namespace}/{claim_name}")
    if volume["spec"].get("volumeMode") == "Block":
        raise Unusable(f"volume {name} has volumeMode Block, but is specified in volumeMounts")
    return volume


def mount_local(volume: Object, folder: Path, *, group: int | None) -> Path:
    """Idempotent. Raises Unusable where the path is not there."""
    source = Path(volume["spec"]["local"]["path"])
    if not source.is_dir():
        raise Unusable(f'path "{source}" does not exist')
    if not mounts.is_mounted(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        mounts.bind(source, folder, recursive=False)
        if group is not None:
            _give_to(folder, group)
    return folder


def _give_to(folder: Path, group: int) -> None:
    """Directories get the set-group-ID bit, so that what is made in them is the group's too. Links are left alone."""
    for where, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            target = os.path.join(where, name)
            found = os.lstat(target)
            if name in folders or stat.S_ISLNK(found.st_mode):
                continue
            os.chown(target, -1, group)
            more = stat.S_ISGID | 0o770 if stat.S_ISDIR(found.st_mode) else 0o660
            os.chmod(target, stat.S_IMODE(found.st_mode) | more)
