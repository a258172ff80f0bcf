"""The holder controller: keeps a volume mounted on this node for as long as a pod here is to see it.

Its keys are holders: a namespace, and the uuid of a `Holding`. A holder is an ordinary pod that mentions a PersistentVolumeClaim;
all that it takes to bring the volume to the node (binding, provisioning, attaching, staging, mounting) is Kubernetes' own work
for it. It shows the volume nowhere (`showing`), and lets a holder go only when nothing shows it any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from dynvol.api.core import Event, PersistentVolumeClaim, Pod
from dynvol.api.identity import Holding
from dynvol.api.mounts import Phase
from dynvol.api.resources import EVENTS, PODS, VOLUME_CLAIMS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import AlreadyExists, Forbidden, Invalid, NotFound
from dynvol.mount.held import Volume
from dynvol.observe import logs
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result
from dynvol.runtime.expectations import Expectations
from dynvol.runtime.store import Change

from ..matching import claim_decides, class_decides, pod_decides
from ..status import Standing, container_runs
from ..view import Instruments
from .holderspec import holder_pod
from .volumes import HeldVolumes, index_holder

log = logs.get(__name__)

LOOK: Final = 3.0
"""Seconds between looks at what keeps a holder from its volume: events and PersistentVolumeClaims are not watched."""
PROBLEM_RETRY: Final = 10.0
IN_USE_RETRY: Final = 1.0
"""Seconds until a holder whose volume is still shown somewhere is tried again; mostly the mount table tells before."""
LAST_GRACE: Final = 1
"""Seconds of grace for a holder that is let go and cannot be told so. It does nothing that needs any; none at all would mean that
kubelet is not asked."""
_NAMES: Final = 8
"""How many names are tried for a holder where others have taken them."""
_ATTACHED: Final = "SuccessfulAttachVolume"
_MEANINGS: Final = {
    "FailedAttachVolume": "VolumeNotAttached",
    "FailedMount": "VolumeNotMounted",
    "FailedMapVolume": "VolumeNotMounted",
    "FailedCreatePodSandBox": "HolderFailed",
    "Failed": "HolderFailed",
}
"""A warning's reason → ours. The others, of which every cluster has its own, hide none of these."""
_WAITS: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


class HolderController:
    """`run` works until cancelled."""

    def __init__(self, held: HeldVolumes, *, client: KubeClient, image: str, instruments: Instruments) -> None:
        self._held = held
        self._client = client
        self._image = image
        self._unseen: Final = Expectations(held.holders)
        self._let_go_of: set[str] = set()
        """The uids of holders that have been told to end; saves requests, no more."""
        self._gone: dict[str, Pod] = {}
        """uid → a holder whose object went first, by force, and untold: kubelet gives its process the grace period all the same."""
        self.controller: Final[Controller] = instruments.controller("holder", self.reconcile, workers=2)
        view = held.view
        self.controller.watch(view.pods, lambda pod: self._keys_in(pod.metadata.namespace), when=pod_decides)
        self.controller.watch(view.claims, lambda claim: self._keys_in(claim.metadata.namespace), when=claim_decides)
        self.controller.watch(view.classes, lambda _: self._all_keys(), when=class_decides)
        self.controller.watch(held.holders, index_holder)
        held.holders.add_handler(self._forget)
        view.mounts.on_change(self._mounts_changed)

    async def run(self) -> None:
        await self.controller.run()

    def _forget(self, change: Change[Pod]) -> None:
        gone, now = change.old, change.new
        if gone is None or (now is not None and now.metadata.uid == gone.metadata.uid):
            return
        uid = gone.metadata.uid
        if uid not in self._let_go_of and self._held.is_holder(gone):
            self._gone[uid] = gone
        self._let_go_of.discard(uid)
        self._held.leaving.discard(uid)

    def _mounts_changed(self, changed: frozenset[tuple[PurePosixPath, str]]) -> None:
        """Something of a volume may have been taken away from a pod: a holder is free to go, then."""
        if any(self._held.is_ours(path) for path, _ in changed):
            for holder in self._held.holders.store.values():
                for key in index_holder(holder):
                    self.controller.enqueue(key)

    def _keys_in(self, namespace: str) -> Iterable[str]:
        there = {
            key for pod in self._held.holders.store.values() if pod.metadata.namespace == namespace for key in index_holder(pod)
        }
        return there | {binding.key for binding in self._held.bindings_in(namespace)}

    def _all_keys(self) -> Iterable[str]:
        pods = self._held.view.pods.store.values()
        return {key for namespace in {pod.metadata.namespace for pod in pods} for key in self._keys_in(namespace)}

    async def reconcile(self, key: str) -> Result:
        """1. What nobody wants is let go. 2. Where nobody holds what is wanted, or whoever does is being deleted, one that stays is
        made; on a node that is being drained, the one that is there stays as long as its grace period allows. 3. When that holds,
        those before it are let go: the pods keep what they see, if it is the same."""
        pods = self._held.pods_of(key)
        wanted = self._held.wanted(key)
        if not wanted:
            self._held.troubled(key, None)
            return await self._let_go(key, pods)
        holding = wanted[0].holding
        found = self._held.holding(holding)
        staying = [pod for pod in found if not pod.metadata.deleting]
        await self._remove_ended(pods)
        if not staying and not (found and self._held.view.draining()):
            return await self._make(key, holding)
        holds = next((pod for pod in staying if self._held.volume(pod) is not None), None)
        if holds is None:
            await self._explain(key, holding, staying)
            return RequeueAfter(LOOK)
        self._held.troubled(key, None)
        return await self._let_go(key, [pod for pod in found if pod is not holds])

    # --- Make one

    async def _make(self, key: str, holding: Holding) -> Result:
        if unmet := self._unseen.unmet(key):
            return RequeueAfter(unmet)
        if (problem := await self._unusable(holding)) is not None:
            self._held.troubled(key, problem)
            return RequeueAfter(PROBLEM_RETRY)
        try:
            made = await self._create(holding)
        except (Forbidden, Invalid) as error:
            self._held.troubled(key, Standing(Phase.FAILED, "HolderRefused", f"the holder pod cannot be created: {error}"))
            return RequeueAfter(PROBLEM_RETRY)
        self._unseen.wrote(key, made)
        self._held.troubled(key, None)
        log.info("holder made", holder=made.metadata.key, volume_claim=holding.volume_claim)
        return RequeueAfter(LOOK)

    async def _create(self, holding: Holding) -> Pod:
        """Under the first name that nobody has. Raises AlreadyExists where others have them all."""
        for number in range(_NAMES):
            manifest = holder_pod(holding, number=number, image=self._image, node=self._held.view.own_node())
            try:
                return await self._client.create(PODS, manifest, namespace=holding.namespace)
            except AlreadyExists as taken:
                last = taken
        raise last

    async def _unusable(self, holding: Holding) -> Standing | None:
        """Why a PersistentVolumeClaim can never be shown in a pod that runs, so that no holder need try."""
        where = f"PersistentVolumeClaim {holding.namespace}/{holding.volume_claim}"
        try:
            found = await self._client.get(VOLUME_CLAIMS, holding.volume_claim, namespace=holding.namespace)
        except NotFound:
            return Standing(Phase.FAILED, "VolumeClaimNotFound", f"{where} does not exist; create it")
        return verdict(found, where)

    # --- Why it does not hold yet

    async def _explain(self, key: str, holding: Holding, staying: Sequence[Pod]) -> None:
        for pod in staying[:1]:
            self._held.troubled(key, await self._what_keeps(pod, holding))

    async def _what_keeps(self, pod: Pod, holding: Holding) -> Standing | None:
        """In Kubernetes' own words: the scheduler's, kubelet's of the container, then those of whoever attaches and mounts."""
        name = pod.metadata.name
        for condition in pod.status.conditions:
            if condition.type == "PodScheduled" and condition.status == "False":
                reason = "HolderUnschedulable" if await self._is_bound(holding) else "VolumeClaimNotBound"
                return Standing(Phase.PENDING, reason, f"holder pod {name}: {condition.message}")
        if container_runs(pod):
            return None
        for status in pod.status.container_statuses:
            waiting = status.state.waiting
            if waiting is not None and waiting.reason not in _WAITS:
                return Standing(
                    Phase.FAILED, waiting.reason, f"holder pod {name} is waiting: {waiting.reason} {waiting.message}".rstrip()
                )
        chosen = f"involvedObject.uid={pod.metadata.uid}"
        said = await self._client.list(EVENTS, namespace=pod.metadata.namespace, field_selector=chosen)
        return meaning(said, name)

    async def _is_bound(self, holding: Holding) -> bool:
        try:
            found = await self._client.get(VOLUME_CLAIMS, holding.volume_claim, namespace=holding.namespace)
        except NotFound:
            return False
        return found.status.phase == "Bound"

    # --- Let them go

    async def _remove_ended(self, pods: Iterable[Pod]) -> None:
        """One that was evicted holds nothing any more, and its object would stay."""
        for pod in pods:
            if pod.finished and not pod.metadata.deleting:
                await self._delete(pod, grace=None)

    async def _let_go(self, key: str, pods: Iterable[Pod]) -> Result:
        """One after the other: of two that hold the same, each would do for the other."""
        for pod in pods:
            if pod.metadata.uid not in self._let_go_of and not await self._end(pod):
                return RequeueAfter(IN_USE_RETRY)
        for uid, pod in [(uid, pod) for uid, pod in self._gone.items() if key in index_holder(pod)]:
            if not await self._is_free(pod):
                return RequeueAfter(IN_USE_RETRY)
            await self._dismiss(pod)
            del self._gone[uid]
        return DONE

    async def _end(self, pod: Pod) -> bool:
        """False while something shows what it holds. From the question on, nothing new is shown from it."""
        uid = pod.metadata.uid
        self._held.leaving.add(uid)
        try:
            if not await self._is_free(pod):
                return False
            log.info("letting a holder go", holder=pod.metadata.key)
            # Told before, it would end, and be started again as long as kubelet does not know that it is deleted.
            await self._delete(pod, grace=LAST_GRACE)
            self._let_go_of.add(uid)
            await self._dismiss(pod)
            return True
        finally:
            if uid not in self._let_go_of:
                self._held.leaving.discard(uid)

    async def _is_free(self, pod: Pod) -> bool:
        volume = self._held.volume(pod)
        if volume is None:
            return True
        return await self._held.volumes.settle(pod.metadata.uid, volume, others=self._volumes_beside(pod))

    async def _dismiss(self, pod: Pod) -> None:
        try:
            await self._held.volumes.dismiss(pod.metadata.uid)
        except OSError as error:
            log.warning("a holder stays for its grace period", holder=pod.metadata.key, error=str(error))

    def _volumes_beside(self, pod: Pod) -> Sequence[Volume]:
        """Of the holders that stay, whatever they hold: what they stand for as well does not need this one."""
        held = self._held
        there = [p for p in held.holders.store.values() if p is not pod and p.metadata.uid not in held.leaving]
        staying = [p for p in there if not (p.metadata.deleting or p.finished) and any(held.wanted(key) for key in index_holder(p))]
        return [volume for p in staying if (volume := held.volume(p)) is not None]

    async def _delete(self, pod: Pod, *, grace: int | None) -> None:
        meta = pod.metadata
        with contextlib.suppress(NotFound):
            await self._client.delete(PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_seconds=grace)


def verdict(found: PersistentVolumeClaim, where: str) -> Standing | None:
    """Why a claim can have no holder, whoever tries; None if it can."""
    if found.metadata.deleting:
        return Standing(Phase.FAILED, "VolumeClaimTerminating", f"{where} is being deleted, and takes no more users")
    if found.spec.volume_mode == "Block":
        return Standing(Phase.FAILED, "VolumeIsBlockDevice", f"{where} is a block device (volumeMode Block), not a file system")
    if "ReadWriteOncePod" in found.spec.access_modes:
        message = f"{where} is for one pod alone (ReadWriteOncePod), which cannot be one that runs already; use ReadWriteOnce"
        return Standing(Phase.FAILED, "VolumeIsForOnePod", message)
    if found.status.phase == "Lost":
        return Standing(Phase.FAILED, "VolumeClaimLost", f"{where} has lost its volume")
    return None


def meaning(said: Iterable[Event], name: str) -> Standing | None:
    """What the events about the holder of that name say of its volume; None if nothing keeps it."""
    event = _decisive(said)
    if event is None:
        return None
    elsewhere = event.reason == "FailedAttachVolume" and "Multi-Attach" in event.message
    reason = "VolumeAttachedElsewhere" if elsewhere else _MEANINGS[event.reason]
    return Standing(Phase.FAILED, reason, f"holder pod {name}: {event.message}")


def _decisive(said: Iterable[Event]) -> Event | None:
    """The last that means anything, but that a volume is not attached stays true until it is: that another node has it, Kubernetes
    says once, whatever is said after."""
    ordered = sorted((event for event in said if event.reason in _MEANINGS or event.reason == _ATTACHED), key=_when)
    attaching = [event for event in ordered if event.reason in ("FailedAttachVolume", _ATTACHED)]
    if attaching and attaching[-1].reason != _ATTACHED:
        return attaching[-1]
    others = [event for event in ordered if event not in attaching]
    return others[-1] if others else None


def _when(event: Event) -> str:
    last = event.series.last_observed_time if event.series else None
    return last or event.last_timestamp or event.event_time or event.metadata.creation_timestamp
