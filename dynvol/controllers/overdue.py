"""Pods that were deleted, should have ended long ago, and do not: most likely their programs wait in a mount.

Linux lets no signal end a program before its request to a FUSE client has failed. Kubelet waits for the program, and the pod's
mounts would wait for the pod. So a pod that is overdue is taken to use its mounts no more: they are let go as those of a deleted
claim are, which ends clients that hang, and with them the waiting.

A pod whose kubelet does not work is none: its programs may have been told nothing yet. Time counts from when this process first saw
the deletion, on its own clock: clocks that disagree take no mount from a program that is still ending in its grace period.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from dynvol.api.core import Pod
from dynvol.runtime.informer import Informer
from dynvol.runtime.store import Change

OVERDUE: Final = 60.0
"""Seconds beyond its grace period. Longer than it takes a cluster to call a node whose kubelet is silent not ready (50 s,
kube-controller-manager's --node-monitor-grace-period)."""
LOOK_AGAIN: Final = 10.0
"""Seconds between looks at a pod that is late while its kubelet does not work."""
_GRACE: Final = 30
"""Seconds, where the API does not say."""


class OverduePods:
    """What is decided stands until the pod is gone. `kubelet_works` is asked when a pod is late."""

    def __init__(self, pods: Informer[Pod], *, kubelet_works: Callable[[], bool]) -> None:
        self._kubelet_works = kubelet_works
        self._deleted_at: dict[str, float] = {}
        """Uid → when its deletion was first seen, on the loop's clock."""
        self._overdue: set[str] = set()
        pods.add_handler(self._forget)

    def includes(self, pod: Pod) -> bool:
        return pod.metadata.uid in self._overdue

    def find(self, pods: Iterable[Pod]) -> tuple[Pod, ...]:
        """Those among `pods` that are overdue from now on."""
        found = tuple(pod for pod in pods if (left := self._left(pod)) is not None and left <= 0.0 and self._kubelet_works())
        self._overdue |= {pod.metadata.uid for pod in found}
        return found

    def patience(self, pods: Iterable[Pod]) -> float | None:
        """Seconds until `find` may find another one; None if it will not."""
        return min((left if left > 0.0 else LOOK_AGAIN for pod in pods if (left := self._left(pod)) is not None), default=None)

    def _left(self, pod: Pod) -> float | None:
        """Seconds until it is late; None if it may stay, or has been found overdue."""
        meta = pod.metadata
        if not meta.deleting or pod.finished or not pod.spec.volumes or self.includes(pod):
            return None
        now = asyncio.get_running_loop().time()
        grace = _GRACE if meta.deletion_grace_period_seconds is None else meta.deletion_grace_period_seconds
        return self._deleted_at.setdefault(meta.uid, now) + grace + OVERDUE - now

    def _forget(self, change: Change[Pod]) -> None:
        if change.old is not None and (change.new is None or change.new.metadata.uid != change.old.metadata.uid):
            uid = change.old.metadata.uid
            self._deleted_at.pop(uid, None)
            self._overdue.discard(uid)
