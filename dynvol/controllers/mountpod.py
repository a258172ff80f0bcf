"""The mount pod controller: takes down what is no longer used on this node.

Its keys are workloads, as the external volume controller's are; that one tells a mount pod to unmount, this one lets it go
once it has. It also finds what nobody speaks of any more: directories whose pod vanished while this process was down, mount pods
without a workload. It never takes down what the mount table shows to be in use.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Pod
from dynvol.api.identity import mount_pod_name
from dynvol.api.resources import PODS, SECRETS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import NotFound
from dynvol.observe import logs
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result

from .desired import workloads
from .leftovers import look
from .matching import claim_decides, class_decides, pod_decides
from .remains import clear_remains, is_gone
from .status import container_runs
from .view import Instruments, NodeView, index_mount_pod, reported, told

log = logs.get(__name__)

SWEEP_INTERVAL: Final = 300.0
"""Seconds between looks for what events did not tell of."""
IN_THE_WAY_RETRY: Final = 5.0
"""Seconds until directories that were still in use are tried again: kubelet unpublishes after the pod's containers have ended."""

UPLOAD_CHECK: Final = 5.0
"""Seconds between looks at the disk for whether a mount pod that has nothing else to do has uploaded all."""


class MountPodController:
    """`run` works until cancelled; it begins with a sweep."""

    def __init__(self, view: NodeView, *, client: KubeClient, instruments: Instruments) -> None:
        self._view = view
        self._client = client
        self._reasons: dict[str, list[str]] = {}
        """uuid → what was in the way when last looked, so that it is logged once."""
        self.controller: Final[Controller] = instruments.controller("mount-pod", self.reconcile, workers=2)
        self.controller.watch(view.pods, lambda pod: [w.uuid for w in workloads(pod)], when=pod_decides)
        self.controller.watch(view.mount_pods, index_mount_pod)
        self.controller.watch(view.claims, self._idle_workloads, when=claim_decides)
        # Until the classes have come too, a workload seems to need nothing.
        self.controller.watch(view.classes, view.workloads_of_class, when=class_decides)
        view.mounts.on_change(self._mounts_changed)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.controller.run(), name="mount-pod-controller")
            tasks.create_task(self._sweep_for_ever(), name="mount-pod-sweep")

    def _idle_workloads(self, claim: DynamicVolumeClaim) -> Iterable[str]:
        """Those that a claim may have been the last to need. Where a mount pod has been told anything, its own changes tell."""
        return (u for u in self._view.workloads_of_claim(claim) if not told(self._view.mount_pod(u)))

    def _mounts_changed(self, changed: frozenset[tuple[PurePosixPath, str]]) -> None:
        for uuid in {self._view.mounts.uuid_of(path) for path, _ in changed}:
            if uuid is not None:
                self.controller.enqueue(uuid)

    async def _sweep_for_ever(self) -> None:
        while True:
            for uuid in {*await self._view.mounts.roots(), *await self._view.mounts.caches()}:
                self.controller.enqueue(uuid)
            await asyncio.sleep(SWEEP_INTERVAL)

    async def reconcile(self, uuid: str) -> Result:
        """Lets go of what one workload no longer needs.

        1. A mount pod with nothing wanted, reported, mounted or left to upload is deleted; its Secret copy goes with it.
        2. With no mount pod, what a dead one left mounted is cleared; if pods still want it, or something is left to upload,
        whoever makes the successor does that.
        3. Directories of pods that are gone are removed, the root and the caches with the last of them.
        """
        async with self._view.turns.of(uuid):
            return await self._take_down(uuid)

    async def _take_down(self, uuid: str) -> Result:
        root = (await self._view.mounts.roots()).get(uuid)
        mount_pod = self._view.mount_pod(uuid)
        if mount_pod is not None:
            uploading = False
            if self._is_idle(uuid, mount_pod, root):
                # It may have died with something that its next life is to upload, or was made for nothing but that.
                uploading = await look(self._view, uuid) is not None
                if not uploading:
                    await self._let_go(mount_pod)
            result = await self._release(uuid, root) if root and self._view.pods_of(uuid) else DONE
            return RequeueAfter(UPLOAD_CHECK) if uploading else result
        cache = (await self._view.mounts.caches()).get(uuid)
        if root is None and cache is None:
            self._reasons.pop(uuid, None)
            return DONE
        if cache is not None and await self._view.mounts.leftovers(cache):
            return DONE
        needed = bool(self._view.attachments_of(uuid))
        gone = mount_pod_name(uuid)
        if root and not needed and not await clear_remains(self._view, root, mount_pod=gone, client=self._client):
            return RequeueAfter(IN_THE_WAY_RETRY)
        return await self._release(uuid, root, cache)

    def _is_idle(self, uuid: str, mount_pod: Pod, root: PurePosixPath | None) -> bool:
        if mount_pod.metadata.deleting or told(mount_pod) or self._view.attachments_of(uuid):
            return False
        if self._view.is_to_be_prepared(uuid):
            return False
        mounted = self._view.mounts.below(root) if root else {}
        # While it is at work, its report or the mount table will tell. One that does not run never will.
        return not (container_runs(mount_pod) and (reported(mount_pod) or mounted))

    async def _let_go(self, mount_pod: Pod) -> None:
        meta = mount_pod.metadata
        log.info("releasing a mount pod without mounts", mount_pod=meta.name)
        with contextlib.suppress(NotFound):
            # The version makes this a conflict when the pod has just been told of a new mount.
            await self._client.delete(
                PODS, meta.name, namespace=meta.namespace, uid=meta.uid, resource_version=meta.resource_version
            )

    async def _release(self, uuid: str, root: PurePosixPath | None, cache: PurePosixPath | None = None) -> Result:
        """Removes what belongs to pods that are gone. Kubelet may publish meanwhile: what it has published is in the way."""
        pods = self._view.pods_of(uuid)
        if not pods and uuid not in self._reasons:
            if not await is_gone(self._view, mount_pod_name(uuid), client=self._client):
                return RequeueAfter(IN_THE_WAY_RETRY)
            await self._forget_secret(uuid)
        in_the_way = await self._view.mounts.release(root, keep=frozenset(p.metadata.uid for p in pods)) if root else []
        if cache and not pods:
            in_the_way = [*in_the_way, *await self._view.mounts.release_cache(cache)]
        if not in_the_way:
            self._reasons.pop(uuid, None)
            return DONE
        if self._reasons.get(uuid) != in_the_way:
            log.info("directories stay for now", workload=uuid, in_the_way=in_the_way)
            self._reasons[uuid] = in_the_way
        return RequeueAfter(IN_THE_WAY_RETRY)

    async def _forget_secret(self, uuid: str) -> None:
        """The copy that a mount pod never came to own, because this process ended in between."""
        with contextlib.suppress(NotFound):
            await self._client.delete(SECRETS, mount_pod_name(uuid), namespace=self._view.namespace)
