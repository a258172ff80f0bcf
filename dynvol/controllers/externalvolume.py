"""The external volume controller: brings claims to the pods of this node.

Its keys are workloads (the uuid of a mount pod's root). For each it sees to a mount pod that has been told what to mount, and
replaces one that died. What has become of each pair of claim and pod is written by `claimreport`. It unmounts nothing that
lives, and releases nothing: a workload without mounts is the mount pod controller's.

It needs no leader. Without an API server what is mounted stays mounted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from dynvol.api import names
from dynvol.api.core import Node, Pod
from dynvol.api.identity import Workload, mount_pod_name
from dynvol.api.meta import seconds_since
from dynvol.api.mounts import WantedMount, encode
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import CLAIMS, CLASSES, NAMESPACES, PODS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound, TooManyRequests
from dynvol.observe import logs
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result
from dynvol.runtime.expectations import Expectations
from dynvol.runtime.store import Change

from .claimreport import ClaimReporter
from .copies import SecretCopies
from .credentials import Credentials, OwnSecrets
from .desired import wanted_mounts, workloads
from .finalizers import add_finalizer
from .leftovers import Leftovers, look
from .matching import claim_decides, class_or_credentials_decide, pod_decides
from .mountpodspec import CREDENTIALS_DIGEST, Installation, credentials_digest, mount_pod
from .namesakes import Superseded, is_of_namesake
from .remains import clear_remains, is_gone
from .room import memory_limit
from .status import Problem, backs_off
from .view import Instruments, NodeView, index_mount_pod, reported, told

log = logs.get(__name__)

CREDENTIALS_CHECK: Final = 30.0
"""Seconds between looks at a Secret that the leader does not look at for all, so that a changed key reaches the mount pods."""
PROBLEM_RETRY: Final = 10.0
"""Seconds until a workload that cannot be served for a reason outside (no Secret, say) is looked at again."""
PUBLISH_RETRY: Final = 5.0
"""Seconds until a pod that kubelet has not published yet is looked at again, should the mount table's change be missed."""
LEFTOVER_CHECK: Final = 300.0
"""Seconds between looks for data on the disk that no mount pod is uploading."""
CRASH_PATIENCE: Final = 60.0
"""Seconds that a mount pod is left to kubelet's restarts: one that crashes again and again is made anew once a minute at most."""
CACHE_RETRY: Final = 5.0
"""Seconds until a mount pod that exists, though the cache does not show it, is looked for again, should its event be missed."""


@dataclass(frozen=True, slots=True)
class _Announced:
    """The mounts that may be told, and why the first of the others may not."""

    mounts: tuple[WantedMount, ...]
    failure: ApiError | None

    def then(self, result: Result) -> Result:
        """`result`, unless there is something to try again. Raises `failure`."""
        if self.failure is not None:
            raise self.failure
        return result


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
        self._copies: Final = SecretCopies(client, namespace=installation.namespace)
        self._unseen: Final = Expectations(view.mount_pods)
        """The mount pods that were made and are not in the cache yet, by workload."""
        self._told: dict[str, tuple[str, Mapping[str, str]]] = {}
        """Mount pod → the version of it that was last told something, and what: as long as the cache shows this version, it has
        yet to show what we said."""
        self.controller: Final[Controller] = instruments.controller("external-volume", self.reconcile, workers=4)
        self.controller.watch(view.pods, lambda pod: [w.uuid for w in workloads(pod)], when=pod_decides)
        self.controller.watch(view.mount_pods, index_mount_pod)
        self.controller.watch(view.claims, view.workloads_of_claim, when=claim_decides)
        self.controller.watch(view.classes, view.workloads_of_class, when=class_or_credentials_decide)
        self.controller.watch(view.nodes, self._workloads_that_waited, when=_cordon_changed)
        view.mounts.on_change(self._mounts_changed)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.controller.run(), name="external-volume-controller")
            tasks.create_task(self._look_for_leftovers(), name="leftovers")

    async def _look_for_leftovers(self) -> None:
        """No event tells of what lies on the disk when this process begins, or of whose workload is gone."""
        while True:
            for uuid in await self._view.mounts.caches():
                self.controller.enqueue(uuid)
            await asyncio.sleep(LEFTOVER_CHECK)

    def _workloads_that_waited(self, _: Node) -> Iterable[str]:
        """Once the node is back: a mount pod that served on during a drain is to make way, one that is to be prepared to come."""
        deleting = {uuid for p in self._view.mount_pods.store.values() if p.metadata.deleting for uuid in index_mount_pod(p)}
        prepared = (c for c in self._view.classes.store.values() if c.spec.prepares_mount_pods)
        return deleting.union(*(self._view.workloads_of_class(c) for c in prepared))

    def _mounts_changed(self, changed: frozenset[tuple[PurePosixPath, str]]) -> None:
        """A root that has just been published may have claims waiting; a mount that went, a path that is free now."""
        for uuid in {self._view.mounts.uuid_of(path) for path, _ in changed}:
            if uuid is not None:
                self.controller.enqueue(uuid)

    async def reconcile(self, uuid: str) -> Result:
        """Brings one workload's mount pod to what the claims say.

        1. Decide what is wanted, as far as the Secrets for it can be had; a pod that should have ended long ago wants nothing.
        2. Where there is no mount pod, make one if need be. 3. One that has ended, or that is to make way for a successor, is seen
        off; its end brings the key back. 4. Tell any other, one that is being deleted too: it goes when nothing is wanted of it any
        more.
        """
        async with self._view.turns.of(uuid):
            pods = self._view.pods_of(uuid)
            for pod in self._view.overdue.find(pods):
                self._reporter.overdue(pod)
            return _within(self._view.overdue.patience(pods), await self._bring(uuid))

    async def _bring(self, uuid: str) -> Result:
        existing = self._view.mount_pod(uuid)
        left = await look(self._view, uuid) if existing is None else None
        workload = self._view.workload(uuid) or (left.workload(self._view.node) if left else None)
        if workload is None:
            self._forget(uuid)
            return DONE
        wanted = self._wanted(workload, existing)
        own = await self._own_secrets(workload, wanted, existing=existing, left=left)
        wanted = own.usable(wanted, before=told(existing))
        result = await self._bring_about(workload, wanted, own, existing=existing, left=left)
        return _within(PROBLEM_RETRY if own.problems else None, result)

    async def _bring_about(
        self, workload: Workload, wanted: Sequence[WantedMount], own: OwnSecrets, *, existing: Pod | None, left: Leftovers | None
    ) -> Result:
        if existing is None:
            needed = wanted or left or self._view.is_to_be_prepared(workload.uuid)
            return await self._provide(workload, wanted, own, left) if needed else await self._need_not(workload)
        if existing.finished or await self._is_to_make_way(existing, needed=bool(wanted)):
            await self._see_off(existing)
            return DONE
        if (patience := _patience(existing)) is not None and patience <= 0.0:
            await self._see_off(existing)
            return DONE
        return _within(patience, await self._serve(workload, existing, wanted, own))

    async def _own_secrets(
        self, workload: Workload, wanted: Sequence[WantedMount], *, existing: Pod | None, left: Leftovers | None
    ) -> OwnSecrets:
        """Those of the claims that are wanted, and of those whose data is on its way: it takes the same Secret to upload it."""
        current = {(mount.key, mount.spec_hash) for mount in wanted}
        if any((r.key, r.spec_hash) not in current for r in reported(existing)):
            left = await look(self._view, workload.uuid)
        mounts = [*wanted, *(leftover.mount for leftover in (left.waiting if left else ()))]
        provider_class = self._view.classes.store.get(workload.provider_class)
        own = await self._credentials.own(
            (mount.credentials for mount in mounts), namespace=workload.namespace, provider_class=provider_class
        )
        self._reporter.lacking(workload.uuid, own.problems)
        return own

    def _forget(self, uuid: str) -> None:
        self._reporter.solved(uuid)
        self._reporter.lacking(uuid, {})
        self._copies.forget(uuid)
        self._told.pop(mount_pod_name(uuid), None)
        self._unseen.forget(uuid)

    def _wanted(self, workload: Workload, existing: Pod | None) -> tuple[WantedMount, ...]:
        limit = memory_limit(existing, self._view.classes.store.get(workload.provider_class))
        mine = self._view.attachments_of(workload.uuid)
        return wanted_mounts(mine, self._view.class_map(), reported(existing), memory_limit=limit)

    async def _is_to_make_way(self, existing: Pod, *, needed: bool) -> bool:
        """Whether a mount pod that is being deleted while its workload stays should leave at once, for a successor to follow. Not
        while the node is being drained, or dynvol removed: then it serves as long as its grace period allows."""
        meta = existing.metadata
        if not meta.deleting or names.RELEASE_ANNOTATION in meta.annotations:
            return meta.deleting
        return needed and not self._view.draining() and await self._may_have_successors()

    async def _may_have_successors(self) -> bool:
        """Nothing can be made any more in a namespace that is going."""
        namespace = await self._client.get(NAMESPACES, self._installation.namespace)
        return not namespace.metadata.deleting

    async def _see_off(self, existing: Pod) -> None:
        meta = existing.metadata
        if not meta.deleting:
            why = "CrashLoopBackOff" if backs_off(existing) else existing.status.reason or existing.status.phase
            log.info("replacing a mount pod that ended", mount_pod=meta.name, why=why)
            await _delete_pod(self._client, existing)
        elif names.RELEASE_ANNOTATION not in meta.annotations and not existing.finished:
            log.info("a mount pod was deleted while in use; its successor follows", mount_pod=meta.name)
            await self._annotate(existing, {names.RELEASE_ANNOTATION: "successor follows"})

    async def _announced(self, wanted: Sequence[WantedMount], *, before: Sequence[WantedMount]) -> _Announced:
        """Sees to it that each claim holds our finalizer and has an entry for the pod: deleting it waits for us from now on.

        Claims that are gone or going are left out; their events bring the key back. One that cannot be written to must not keep
        the others waiting: its mount stays what it was `before`, and it is tried again.
        """
        told_before = {mount.key: mount for mount in before}
        kept: list[WantedMount] = []
        failure: ApiError | None = None
        for mount in wanted:
            try:
                await self._announce(mount)
                kept.append(mount)
            except Superseded as why:
                log.info("claim cannot be announced", claim=mount.claim, why=str(why))
            except TooManyRequests:
                raise
            except ApiError as error:
                failure = failure or error
                kept += [told_before[mount.key]] if mount.key in told_before else []
        return _Announced(tuple(kept), failure)

    async def _announce(self, mount: WantedMount) -> None:
        claim = self._view.claims.store.get(mount.claim)
        if claim is None or claim.metadata.uid != mount.claim_uid:
            raise Superseded(f"claim {mount.claim} went")
        announcing = self._reporter.announce(claim, pod_uid=mount.pod_uid)
        if names.CLAIM_FINALIZER in claim.metadata.finalizers:
            await announcing
            return
        # Neither write is tied to the claim's version, and nothing is told to the mount pod before both are through.
        held = add_finalizer(self._client, CLAIMS, claim, names.CLAIM_FINALIZER)
        if refused := next(filter(None, await asyncio.gather(held, announcing, return_exceptions=True)), None):
            raise refused

    # --- A mount pod where there is none

    async def _need_not(self, workload: Workload) -> Result:
        """Nobody needs a mount pod. The Secret copy of one that never came to be, because a process ended or a write failed in
        between, has no owner with which it would go."""
        uuid = workload.uuid
        self._reporter.solved(uuid)
        if self._copies.is_absent(uuid):
            return DONE
        if self._unseen.unmet(uuid) or not await is_gone(self._view, workload.mount_pod, client=self._client):
            return RequeueAfter(CACHE_RETRY)
        await self._copies.remove(workload)
        return DONE

    async def _provide(self, workload: Workload, wanted: Sequence[WantedMount], own: OwnSecrets, left: Leftovers | None) -> Result:
        """1. The claims are announced, before anything of them exists. 2. Kubelet must have published the volume: the root is a
        mount then. Where there is nothing but what is `left` to be uploaded, and no pod, it is made. 3. What a dead predecessor
        left mounted is cleared. 4. The mount pod is made."""
        provider_class = self._view.classes.store.get(workload.provider_class)
        announced = await self._announced(wanted, before=())
        if provider_class is None and left:
            return announced.then(self._cannot(workload, _class_is_gone(workload), left))
        if provider_class is None or not (announced.mounts or left or self._view.is_to_be_prepared(workload.uuid)):
            return announced.then(DONE)
        root = workload.root(self._installation.state_dir)
        if not self._view.mounts.is_root(root):
            if self._view.pods_of(workload.uuid):
                return announced.then(RequeueAfter(PUBLISH_RETRY))
            await self._view.mounts.make_root(root)
        # Before anything else is done for a mount pod that we may have made already.
        if unmet := self._unseen.unmet(workload.uuid):
            return RequeueAfter(unmet)
        if not await clear_remains(self._view, root, mount_pod=workload.mount_pod, client=self._client):
            return RequeueAfter(CACHE_RETRY)
        try:
            return announced.then(await self._create(workload, provider_class, announced.mounts, own, left))
        except Superseded:
            # The class is gone or going; its event brings the key back, unless no pod uses it.
            return self._cannot(workload, _class_is_gone(workload), left) if left else DONE

    async def _create(
        self,
        workload: Workload,
        provider_class: StorageProviderClass,
        wanted: Sequence[WantedMount],
        own: OwnSecrets,
        left: Leftovers | None,
    ) -> Result:
        """1. The class is held, its Secret and its claims' own are copied. 2. The mount pod comes into being, told already. 3. The
        copy becomes its own, so that it goes with it. Raises Superseded if the class went."""
        await add_finalizer(self._client, CLASSES, provider_class, names.CLASS_FINALIZER)
        found = await self._credentials.of(provider_class)
        if found.problem is not None:
            return self._cannot(workload, found.problem, left)
        manifest = mount_pod(
            workload,
            provider_class=provider_class,
            wanted=wanted,
            installation=self._installation,
            node=self._view.own_node(),
            credentials=credentials_digest(found.secret, own.found),
        )
        try:
            await self._copies.write(workload, provider_class, original=found.secret, own=own, owner=None)
            created = await self._client.create(PODS, manifest, namespace=self._installation.namespace)
        except AlreadyExists:
            return RequeueAfter(CACHE_RETRY)
        except (Forbidden, Invalid) as error:
            return self._cannot(workload, Problem("MountPodRefused", f"the mount pod cannot be created: {error}"), left)
        self._unseen.wrote(workload.uuid, created)
        log.info("mount pod created", mount_pod=workload.mount_pod, mounts=len(wanted), files_left=left.files if left else 0)
        if left:
            self._reporter.left_behind(left, "a new mount pod uploads them")
        await self._copies.write(workload, provider_class, original=found.secret, own=own, owner=created)
        self._reporter.solved(workload.uuid)
        return RequeueAfter(CREDENTIALS_CHECK)

    def _cannot(self, workload: Workload, problem: Problem, left: Leftovers | None = None) -> Result:
        if self._reporter.troubled(workload.uuid, problem):
            log.warning("workload cannot be served", workload=workload.annotation, reason=problem.reason, message=problem.message)
            if left:
                self._reporter.left_behind(left, f"they cannot be uploaded: {problem.message}")
        return RequeueAfter(PROBLEM_RETRY)

    # --- A mount pod that there is

    async def _serve(self, workload: Workload, existing: Pod, wanted: Sequence[WantedMount], own: OwnSecrets) -> Result:
        announced = await self._announced(wanted, before=told(existing))
        await self._tell(existing, announced.mounts, overdue=self._overdue(workload))
        # One that has nothing to serve may still be uploading.
        if not (announced.mounts or reported(existing)):
            return announced.then(DONE)
        return announced.then(await self._refresh_credentials(workload, existing, own))

    def _overdue(self, workload: Workload) -> str:
        """An independent mount pod serves nobody else, and lets go of its mounts in any case."""
        pods = () if workload.pod_uid else self._view.pods_of(workload.uuid)
        return ",".join(sorted(pod.metadata.uid for pod in pods if self._view.overdue.includes(pod)))

    async def _tell(self, existing: Pod, wanted: Sequence[WantedMount], *, overdue: str) -> None:
        meta, text = existing.metadata, {names.WANTED_ANNOTATION: encode(wanted), names.OVERDUE_ANNOTATION: overdue}
        news = {key: value for key, value in text.items() if meta.annotations.get(key, "") != value}
        if not news or self._told.get(meta.name) == (meta.resource_version, text):
            return
        log.info("telling the mount pod", mount_pod=meta.name, mounts=len(wanted), overdue=overdue)
        await self._annotate(existing, news)
        self._told[meta.name] = meta.resource_version, text

    async def _annotate(self, pod: Pod, annotations: Mapping[str, str]) -> None:
        """Sets annotations of exactly this pod, not of a namesake that came after it."""
        body = {"metadata": {"uid": pod.metadata.uid, "annotations": annotations}}
        try:
            await self._client.merge_patch(PODS, pod.metadata.name, body, namespace=pod.metadata.namespace)
        except NotFound:
            log.debug("mount pod went meanwhile", mount_pod=pod.metadata.name)
        except Invalid as error:
            if not is_of_namesake(error):
                raise

    async def _refresh_credentials(self, workload: Workload, existing: Pod, own: OwnSecrets) -> Result:
        """Brings a changed key to the copy, and says so on the mount pod: when that changes, kubelet brings its volumes up to date
        at once rather than within a minute or two.

        A class's Secret that is gone changes nothing: mounts go on with what they have. When a claim's own is gone, clients that
        run go on too, but its keys leave the copy: whoever deletes a Secret wants it to be nowhere any more."""
        provider_class = self._view.classes.store.get(workload.provider_class)
        if provider_class is None:
            return DONE
        if self._copies.serves(workload, existing, provider_class, own):
            self._reporter.solved(workload.uuid)
            return DONE
        found = await self._credentials.of(provider_class)
        if found.problem is not None:
            return self._cannot(workload, found.problem)
        self._reporter.solved(workload.uuid)
        digest = await self._copies.write(workload, provider_class, original=found.secret, own=own, owner=existing)
        if existing.metadata.annotations.get(CREDENTIALS_DIGEST) != digest:
            await self._annotate(existing, {CREDENTIALS_DIGEST: digest})
        return RequeueAfter(CREDENTIALS_CHECK)


def _class_is_gone(workload: Workload) -> Problem:
    return Problem("ClassNotFound", f"StorageProviderClass {workload.provider_class} does not exist; create it")


def _patience(existing: Pod) -> float | None:
    """Seconds until a mount pod that kubelet restarts ever more slowly is to be replaced by one that starts at once; None if it is
    no such one. Kubelet's pauses reach five minutes, and last though the cause has gone."""
    if not backs_off(existing) or existing.metadata.deleting:
        return None
    return max(0.0, CRASH_PATIENCE - seconds_since(existing.metadata.creation_timestamp))


def _within(seconds: float | None, result: Result) -> Result:
    """`result`, and at the latest after so long another look."""
    if seconds is None:
        return result
    return RequeueAfter(min(seconds, result.seconds) if isinstance(result, RequeueAfter) else seconds)


def _cordon_changed(change: Change[Node]) -> bool:
    return change.old is None or change.new is None or change.old.spec != change.new.spec


async def _delete_pod(client: KubeClient, pod: Pod) -> None:
    try:
        await client.delete(PODS, pod.metadata.name, namespace=pod.metadata.namespace, uid=pod.metadata.uid)
    except NotFound:
        log.debug("mount pod went meanwhile", mount_pod=pod.metadata.name)
