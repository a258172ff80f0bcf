"""The external volume controller: brings claims to the pods of this node.

Its keys are workloads (the uuid of a mount pod's root). For each it sees to a mount pod that has been told what to mount, and
replaces one that died. What has become of each pair of claim and pod is written by `claimreport`. It unmounts nothing that
lives, and releases nothing: a workload without mounts is the mount pod controller's.

It needs no leader. Without an API server what is mounted stays mounted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Pod, Secret
from dynvol.api.identity import Workload
from dynvol.api.mounts import WantedMount, encode
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import CLAIMS, CLASSES, PODS, SECRETS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from dynvol.observe import logs
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result

from .claimreport import ClaimReporter
from .credentials import Credentials
from .desired import wanted_mounts, workloads
from .finalizers import Superseded, add_finalizer
from .mountpodspec import Installation, credentials_digest, mount_pod, secret_copy
from .status import Problem
from .view import BY_CLASS, BY_NAMESPACE, Instruments, NodeView, index_mount_pod, reported

log = logs.get(__name__)

CREDENTIALS_CHECK: Final = 30.0
"""Seconds between looks at a class's Secret, so that a changed key reaches the mount pods; Secrets are not watched."""
COPY_CHECK: Final = 300.0
"""Seconds after which a Secret copy is written again though nothing changed, lest someone else has changed or removed it."""
PROBLEM_RETRY: Final = 10.0
"""Seconds until a workload that cannot be served for a reason outside (no Secret, say) is looked at again."""
PUBLISH_RETRY: Final = 5.0
"""Seconds until a pod that kubelet has not published yet is looked at again, should the mount table's change be missed."""


class ExternalVolumeController:
    """Wires itself to the informers of `view`; `run` works until cancelled."""

    def __init__(
        self, view: NodeView, *, client: KubeClient, installation: Installation, reporter: ClaimReporter, instruments: Instruments
    ) -> None:
        self._view = view
        self._client = client
        self._installation = installation
        self._reporter = reporter
        self._credentials: Final = Credentials(client)
        self._copied: dict[str, tuple[tuple[str, str], float]] = {}
        """workload → digest of the original and owner of the Secret copy last written, and when; saves writes, no more."""
        self.controller: Final[Controller] = instruments.controller("external-volume", self.reconcile, workers=4)
        self.controller.watch(view.pods, lambda pod: [w.uuid for w in workloads(pod)])
        self.controller.watch(view.mount_pods, index_mount_pod)
        self.controller.watch(view.claims, self._workloads_in_namespace)
        self.controller.watch(view.classes, self._workloads_of_class)
        view.mounts.on_change(self._mounts_changed)

    async def run(self) -> None:
        await self.controller.run()

    def _workloads_in_namespace(self, claim: DynamicVolumeClaim) -> Iterable[str]:
        pods = self._view.pods.store.by_index(BY_NAMESPACE, claim.metadata.namespace)
        return {w.uuid for pod in pods for w in workloads(pod)}

    def _workloads_of_class(self, provider_class: StorageProviderClass) -> Iterable[str]:
        name = provider_class.metadata.name
        pods = self._view.pods.store.by_index(BY_CLASS, name)
        return {w.uuid for pod in pods for w in workloads(pod) if w.provider_class == name}

    def _mounts_changed(self, changed: frozenset[tuple[PurePosixPath, str]]) -> None:
        """A root that has just been published may have claims waiting; a mount that went, a path that is free now."""
        for uuid in {self._view.mounts.uuid_of(path) for path, _ in changed}:
            if uuid is not None:
                self.controller.enqueue(uuid)

    async def reconcile(self, uuid: str) -> Result:
        """Brings one workload's mount pod to what the claims say.

        1. Decide what is wanted.
        2. A mount pod that is going or has ended is seen off; its deletion brings the key back.
        3. Nothing wanted and nothing there: done.
        4. Announce every claim (finalizer, status entry) before anything of it exists.
        5. Create what is missing, or tell what has changed.
        """
        workload = self._view.workload(uuid)
        if workload is None:
            self._reporter.solved(uuid)
            self._copied.pop(uuid, None)
            return DONE
        existing = self._view.mount_pod(workload)
        wanted = self._wanted(workload)
        if existing is not None and (existing.metadata.deleting or existing.finished):
            return await self._see_off(existing, needed=bool(wanted))
        if existing is None and not wanted:
            self._reporter.solved(uuid)
            return DONE
        announced = await self._announced(workload, wanted)
        if existing is None:
            return await self._create(workload, announced)
        await self._tell(existing, announced)
        return await self._refresh_credentials(workload) if announced else DONE

    def _wanted(self, workload: Workload) -> tuple[WantedMount, ...]:
        mine = self._view.attachments_of(workload.uuid)
        return wanted_mounts(mine, self._view.class_map(), reported(self._view.mount_pod(workload)))

    async def _see_off(self, existing: Pod, *, needed: bool) -> Result:
        """A mount pod that ended is deleted. One that is being deleted while its workload stays need not wait for the workload
        to leave, unless the node is being drained: then it serves as long as its grace period allows."""
        meta = existing.metadata
        if existing.finished and not meta.deleting:
            log.info("replacing a mount pod that ended", mount_pod=meta.name, why=existing.status.reason or existing.status.phase)
            await _delete_pod(self._client, existing)
        elif meta.deleting and needed and names.RELEASE_ANNOTATION not in meta.annotations and not self._view.draining():
            log.info("a mount pod was deleted while in use; its successor follows", mount_pod=meta.name)
            await self._annotate(existing, names.RELEASE_ANNOTATION, "successor follows")
        return DONE

    async def _announced(self, workload: Workload, wanted: Sequence[WantedMount]) -> tuple[WantedMount, ...]:
        """Those of `wanted` whose claim holds our finalizer and has an entry for the pod: deleting it waits for us from now on."""
        kept: list[WantedMount] = []
        for mount in wanted:
            claim = self._view.claims.store.get(mount.claim)
            if claim is None or claim.metadata.uid != mount.claim_uid:
                continue
            try:
                await add_finalizer(self._client, CLAIMS, claim, names.CLAIM_FINALIZER)
                await self._reporter.announce(claim, pod_uid=mount.pod_uid)
            except Superseded as why:
                log.info("claim cannot be announced", claim=mount.claim, why=str(why))
                self.controller.enqueue(workload.uuid, after=0.1)
                continue
            kept.append(mount)
        return tuple(kept)

    async def _create(self, workload: Workload, wanted: Sequence[WantedMount]) -> Result:
        """A mount pod where there is none.

        1. Kubelet must have published the volume: the root is a mount then.
        2. What a dead predecessor left mounted is cleared.
        3. The class is held, its Secret copied.
        4. The mount pod comes into being, told already; then the Secret copy becomes its own, so that it goes with it.
        """
        root = workload.root(self._installation.state_dir)
        provider_class = self._view.classes.store.get(workload.provider_class)
        if not wanted or provider_class is None:
            return DONE
        if not self._view.mounts.is_root(root):
            return RequeueAfter(PUBLISH_RETRY)
        await self._view.mounts.clear_dead(root)
        try:
            await add_finalizer(self._client, CLASSES, provider_class, names.CLASS_FINALIZER)
        except Superseded:
            return RequeueAfter(1.0)
        found = await self._credentials.of(provider_class)
        if found.secret is None:
            return self._cannot(workload, found.problem)
        await self._apply_secret(workload, original=found.secret, owner=None)
        manifest = mount_pod(workload, provider_class=provider_class, wanted=wanted, installation=self._installation)
        try:
            created = await self._client.create(PODS, manifest, namespace=self._installation.namespace)
        except AlreadyExists:
            return RequeueAfter(1.0)  # The cache lags behind; the informer will tell.
        except (Forbidden, Invalid) as error:
            return self._cannot(workload, Problem("MountPodRefused", f"the mount pod cannot be created: {error}"))
        log.info("mount pod created", mount_pod=workload.mount_pod, mounts=len(wanted))
        await self._apply_secret(workload, original=found.secret, owner=created)
        self._solved(workload)
        return RequeueAfter(CREDENTIALS_CHECK)

    def _cannot(self, workload: Workload, problem: Problem | None) -> Result:
        if problem is not None and self._reporter.troubled(workload.uuid, problem):
            log.warning("workload cannot be served", workload=workload.annotation, reason=problem.reason, message=problem.message)
        return RequeueAfter(PROBLEM_RETRY)

    def _solved(self, workload: Workload) -> None:
        self._reporter.solved(workload.uuid)

    async def _tell(self, existing: Pod, wanted: Sequence[WantedMount]) -> None:
        text = encode(wanted)
        if existing.metadata.annotations.get(names.WANTED_ANNOTATION, "") != text:
            log.info("telling the mount pod", mount_pod=existing.metadata.name, mounts=len(wanted))
            await self._annotate(existing, names.WANTED_ANNOTATION, text)

    async def _annotate(self, pod: Pod, key: str, value: str) -> None:
        """Sets one annotation of exactly this pod, not of a namesake that came after it."""
        body = {"metadata": {"uid": pod.metadata.uid, "annotations": {key: value}}}
        try:
            await self._client.merge_patch(PODS, pod.metadata.name, body, namespace=pod.metadata.namespace)
        except (NotFound, Conflict):
            log.debug("mount pod went meanwhile", mount_pod=pod.metadata.name)

    async def _refresh_credentials(self, workload: Workload) -> Result:
        """Brings a changed key to the copy; kubelet brings it into the mount pod."""
        provider_class = self._view.classes.store.get(workload.provider_class)
        owner = self._view.mount_pod(workload)
        if provider_class is None or owner is None:
            return DONE
        found = await self._credentials.of(provider_class)
        if found.secret is None:
            return self._cannot(workload, found.problem)
        self._solved(workload)
        await self._apply_secret(workload, original=found.secret, owner=owner)
        return RequeueAfter(CREDENTIALS_CHECK)

    async def _apply_secret(self, workload: Workload, *, original: Secret, owner: Pod | None) -> None:
        """Writes the copy, unless this very one was written not long ago."""
        content = (credentials_digest(original), owner.metadata.uid if owner else "")
        now = asyncio.get_running_loop().time()
        written, at = self._copied.get(workload.uuid, (None, 0.0))
        if written == content and now - at < COPY_CHECK:
            return
        manifest = secret_copy(workload, original=original, namespace=self._installation.namespace, owner=owner)
        await self._client.apply(
            SECRETS, workload.mount_pod, manifest, field_manager="dynvol-node", namespace=self._installation.namespace
        )
        self._copied[workload.uuid] = content, now


async def _delete_pod(client: KubeClient, pod: Pod) -> None:
    try:
        await client.delete(PODS, pod.metadata.name, namespace=pod.metadata.namespace, uid=pod.metadata.uid)
    except (NotFound, Conflict):
        log.debug("mount pod went meanwhile", mount_pod=pod.metadata.name)
