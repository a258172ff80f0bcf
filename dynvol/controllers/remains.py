"""Clearing what a mount pod that is gone left mounted.

It ends FUSE connections, so it must never meet a mount pod that lives. The cache is no witness: it may lag behind our own creation
of a mount pod, whose first mounts then look like somebody's remains. Before anything is cleared, or a root taken away, the API
server itself is asked.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from dynvol.api.resources import PODS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import NotFound

from .view import NodeView


async def clear_remains(view: NodeView, root: PurePosixPath, *, mount_pod: str, client: KubeClient) -> bool:
    """Unmounts what is left below `root`. False where the mount pod exists after all: nothing is done, its event is on its way."""
    if not view.mounts.below(root):
        return True
    if not await is_gone(view, mount_pod, client=client):
        return False
    await view.mounts.clear_dead(root)
    return True


async def is_gone(view: NodeView, mount_pod: str, *, client: KubeClient) -> bool:
    """Whether the API server itself knows no mount pod of that name."""
    try:
        await client.get(PODS, mount_pod, namespace=view.namespace)
    except NotFound:
        return True
    return False
