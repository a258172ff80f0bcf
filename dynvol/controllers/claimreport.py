"""What this node says of claims: one entry of `status.pods` for each of its pods that a claim reaches or still occupies.

Its keys are claims. Entries are applied under a field manager of this node, so that nodes never overwrite one another and none
needs to know of the others. An entry stands *before* anything is mounted and goes *after* everything is unmounted: so long as
it is there, the leader keeps the claim.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Protocol

import msgspec

from dynvol.api.claim import DynamicVolumeClaim, PodMount
from dynvol.api.core import Pod
from dynvol.api.identity import Workload, label_value
from dynvol.api.meta import now
from dynvol.api.mounts import MountReport, Phase
from dynvol.api.resources import CLAIMS, PODS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import Conflict, NotFound
from dynvol.kube.events import EventRecorder, ObjectReference
from dynvol.runtime.controller import DONE, Controller, Result
from dynvol.runtime.store import Change

from .desired import Attachment, fits, in_the_way, reaches, wanted_mount, workload
from .finalizers import Superseded
from .status import Problem, Serving, Standing, leftover, node_entries, pod_mount, same_entries, standing
from .view import BY_CLAIM_UID, BY_NAMESPACE, BY_UID, Instruments, NodeView, claim_uid_of, reported, told


@dataclass(frozen=True, slots=True)
class _Said:
    upon: str
    """The resource version that the cache had when this was written."""
    entries: tuple[PodMount, ...]


_WARNINGS: Final = frozenset({Phase.FAILED.value, Phase.CONFLICT.value})


class MountMetrics(Protocol):
    def mounted(self, *, seconds: float) -> None:
        """A mount that was wanted is there, after so long."""

    def client_restarted(self, times: int = 1) -> None:
        """A mount pod says that it started FUSE clients again."""


class ClaimReporter:
    """`announce` and `troubled` are for the external volume controller; the rest goes by itself."""

    def __init__(
        self, view: NodeView, *, client: KubeClient, recorder: EventRecorder, instruments: Instruments, metrics: MountMetrics
    ) -> None:
        self._view = view
        self._client = client
        self._recorder = recorder
        self._manager: Final = f"dynvol-node-{label_value(view.node)}"
        self._metrics = metrics
        self._problems: dict[str, Problem] = {}
        self._wanted_since: dict[tuple[str, str], float] = {}
        """(claim uid, pod uid) → since when, on the loop's clock, a mount has been missing; for the metric."""
        self._said: dict[str, _Said] = {}
        """claim uid → what was last applied; saves writes while the cache lags, nothing depends on it."""
        self.controller: Final[Controller] = instruments.controller("claim-report", self.reconcile, workers=4)
        self.controller.watch(view.claims, lambda claim: [claim.metadata.key])
        self.controller.watch(view.pods, self._claims_in_namespace)
        self.controller.watch(view.mount_pods, self._claims_of_mount_pod)
        view.mount_pods.add_handler(self._count_restarts)
        view.mounts.on_change(self._mounts_changed)

    def phases(self) -> Counter[str]:
        """How many of this node's mounts are in which phase, as it has said itself."""
        claims = self._view.claims.store.values()
        return Counter(entry.phase for claim in claims for entry in node_entries(claim.status, self._view.node))

    def _count_restarts(self, change: Change[Pod]) -> None:
        before, after = (sum(r.restarts for r in reported(pod)) for pod in (change.old, change.new))
        if change.old is not None and after > before:
            self._metrics.client_restarted(after - before)

    async def run(self) -> None:
        await self.controller.run()

    # --- Who is concerned

    def _claims_in_namespace(self, pod: Pod) -> Iterable[str]:
        return [c.metadata.key for c in self._view.claims.store.by_index(BY_NAMESPACE, pod.metadata.namespace)]

    def _claims_of_mount_pod(self, mount_pod: Pod) -> Iterable[str]:
        keys = {w.claim for w in told(mount_pod)}
        return keys | {key for r in reported(mount_pod) for key in self._claims_by_uid(r.claim_uid)}

    def _claims_by_uid(self, uid: str) -> Iterable[str]:
        return [c.metadata.key for c in self._view.claims.store.by_index(BY_UID, uid)]

    def _mounts_changed(self, changed: frozenset[tuple[PurePosixPath, str]]) -> None:
        for _, source in changed:
            for key in self._claims_by_uid(claim_uid_of(source)):
                self.controller.enqueue(key)

    # --- What the external volume controller tells

    def troubled(self, uuid: str, problem: Problem) -> bool:
        """A workload cannot be served; its claims will say so. Whether that is news."""
        if self._problems.get(uuid) == problem:
            return False
        self._problems[uuid] = problem
        self._enqueue_workload(uuid)
        return True

    def solved(self, uuid: str) -> None:
        if self._problems.pop(uuid, None) is not None:
            self._enqueue_workload(uuid)

    def _enqueue_workload(self, uuid: str) -> None:
        for attachment in self._view.attachments_of(uuid):
            self.controller.enqueue(attachment.claim.metadata.key)

    async def announce(self, claim: DynamicVolumeClaim, *, pod_uid: str) -> None:
        """Makes sure that the claim has an entry for this pod. Raises Superseded if it went or is going."""
        if any(entry.uid == pod_uid for entry in self._shown(claim)):
            return
        try:
            written = await self._publish(claim)
        except (NotFound, Conflict) as error:
            raise Superseded(f"claim {claim.metadata.key} went or was made anew") from error
        if written is not None and written.metadata.deleting:
            raise Superseded(f"claim {claim.metadata.key} is being deleted")

    # --- Reconcile

    async def reconcile(self, key: str) -> Result:
        claim = self._view.claims.store.get(key)
        if claim is None:
            self._said = {uid: said for uid, said in self._said.items() if self._claims_by_uid(uid)}
            return DONE
        with contextlib.suppress(NotFound, Conflict):  # Gone, or made anew: its events bring the key back.
            await self._publish(claim)
        return DONE

    def _shown(self, claim: DynamicVolumeClaim) -> tuple[PodMount, ...]:
        """This node's entries as the claim has them now: what we wrote last, while the cache has not moved since."""
        said = self._said.get(claim.metadata.uid)
        if said is not None and said.upon == claim.metadata.resource_version:
            return said.entries
        return node_entries(claim.status, self._view.node)

    async def _publish(self, claim: DynamicVolumeClaim) -> DynamicVolumeClaim | None:
        """Applies this node's entries if they differ from what the claim shows; tells the user of changes by events."""
        had = self._shown(claim)
        entries = self.entries(claim, had={e.uid: e for e in had})
        if same_entries(entries, had):
            return None
        written = await self._client.apply(
            CLAIMS,
            claim.metadata.name,
            _body(claim, entries),
            field_manager=self._manager,
            namespace=claim.metadata.namespace,
            subresource="status",
        )
        self._said[claim.metadata.uid] = _Said(claim.metadata.resource_version, entries)
        self._tell_changes(claim, had={e.uid: e for e in had}, entries=entries)
        return written

    # --- What is true

    def entries(self, claim: DynamicVolumeClaim, *, had: Mapping[str, PodMount]) -> tuple[PodMount, ...]:
        """This node's entries for `claim`, as things stand: the pods that it reaches, and those that it has yet to leave."""
        at = now()
        found = {a.pod.metadata.uid: self._entry(a, had=had, at=at) for a in self._attachments(claim)}
        for pod_uid, report in self._occupied(claim.metadata.uid).items():
            if pod_uid not in found:
                old = had.get(pod_uid) or PodMount(uid=pod_uid, pod="", node=self._view.node)
                found[pod_uid] = leftover(old, report, at=at)
        return tuple(found[uid] for uid in sorted(found))

    def _attachments(self, claim: DynamicVolumeClaim) -> Iterable[Attachment]:
        pods = self._view.pods.store.by_index(BY_NAMESPACE, claim.metadata.namespace)
        uid = claim.metadata.uid
        return (a for pod in pods if reaches(claim, pod) for a in self._view.attachments(pod) if a.claim.metadata.uid == uid)

    def _entry(self, attachment: Attachment, *, had: Mapping[str, PodMount], at: str) -> PodMount:
        old = had.get(attachment.pod.metadata.uid)
        if attachment.volume is None:
            return pod_mount(attachment, Standing(Phase.FAILED), mount_pod="", had=old, at=at)
        served = workload(attachment.pod, attachment.volume)
        return pod_mount(attachment, self._standing(attachment, served), mount_pod=served.mount_pod, had=old, at=at)

    def _standing(self, attachment: Attachment, served: Workload) -> Standing:
        mount_pod = self._view.mount_pod(served)
        reports = reported(mount_pod)
        serving = Serving(served.mount_pod, mount_pod, {r.path: r for r in reports}, self._problems.get(served.uuid))
        provider_class = self._view.class_map().get(served.provider_class)
        if provider_class is None:
            return Standing(
                Phase.FAILED, "ClassNotFound", f"StorageProviderClass {served.provider_class} does not exist; create it"
            )
        wanted = wanted_mount(attachment, provider_class)
        if not fits(wanted, told(mount_pod)):
            return Standing(
                Phase.FAILED, "TooManyMounts", "this pod's mount pod cannot be told of more mounts; use fewer claims for one pod"
            )
        root = served.root(self._view.state_dir)
        return standing(wanted, serving, waits=in_the_way(wanted, reports), in_table=lambda w: self._view.is_mounted(w, root=root))

    def _occupied(self, claim_uid: str) -> dict[str, MountReport | None]:
        """Where something of the claim is mounted on this node, or is said to be: pod uid → what its mount pod reports."""
        occupied: dict[str, MountReport | None] = dict.fromkeys(self._view.mounts.pods_of_claim(claim_uid))
        for mount_pod in self._view.mount_pods.store.by_index(BY_CLAIM_UID, claim_uid):
            occupied |= {r.pod_uid: r for r in reported(mount_pod) if r.claim_uid == claim_uid}
        return occupied

    # --- What is told

    def _tell_changes(self, claim: DynamicVolumeClaim, *, had: Mapping[str, PodMount], entries: Iterable[PodMount]) -> None:
        present = {e.uid: e for e in entries}
        self._clock(claim.metadata.uid, present, had=had)
        for uid, entry in present.items():
            old = had.get(uid)
            if old is None or (old.phase, old.reason) != (entry.phase, entry.reason):
                self._tell(claim, old, entry)
        for uid, old in had.items():
            if uid not in present:
                self._event(claim, old, "Unmounted", f"{old.path} is gone from pod {old.pod}", warning=False)

    def _clock(self, claim_uid: str, present: Mapping[str, PodMount], *, had: Mapping[str, PodMount]) -> None:
        """Measures how long each mount was missing, from when this process first said so."""
        at = asyncio.get_running_loop().time()
        for uid, entry in present.items():
            if entry.phase != Phase.MOUNTED:
                self._wanted_since.setdefault((claim_uid, uid), at)
            elif (since := self._wanted_since.pop((claim_uid, uid), None)) is not None:
                self._metrics.mounted(seconds=at - since)
        for uid in had.keys() - present.keys():
            self._wanted_since.pop((claim_uid, uid), None)

    def _tell(self, claim: DynamicVolumeClaim, old: PodMount | None, entry: PodMount) -> None:
        if entry.phase == Phase.MOUNTED:
            self._event(claim, entry, "Mounted", f"mounted at {entry.path} in pod {entry.pod}", warning=False)
        elif entry.phase in _WARNINGS:
            self._event(
                claim, entry, entry.reason or entry.phase, f"{entry.path} in pod {entry.pod}: {entry.message}", warning=True
            )
        elif entry.phase == Phase.UNMOUNTING:
            self._event(claim, entry, "Unmounting", f"{entry.path} in pod {entry.pod}: {entry.message}", warning=False)
        elif old is not None and old.phase == Phase.MOUNTED:
            self._event(
                claim, entry, "MountLost", f"{entry.path} in pod {entry.pod}: {entry.message}; it is being restored", warning=True
            )

    def _event(self, claim: DynamicVolumeClaim, entry: PodMount, reason: str, message: str, *, warning: bool) -> None:
        tell = self._recorder.warning if warning else self._recorder.normal
        tell(ObjectReference.of(CLAIMS, claim.metadata), reason, message)
        pod = self._view.pods.store.get(f"{claim.metadata.namespace}/{entry.pod}")
        if pod is not None and pod.metadata.uid == entry.uid:
            tell(ObjectReference.of(PODS, pod.metadata), reason, f"{claim.metadata.name}: {message}")


def _body(claim: DynamicVolumeClaim, entries: Iterable[PodMount]) -> dict[str, Any]:
    # The uid makes the apply fail, rather than land on a namesake, when the claim has been made anew.
    meta = {"name": claim.metadata.name, "namespace": claim.metadata.namespace, "uid": claim.metadata.uid}
    status = {"pods": msgspec.to_builtins(list(entries))}
    return {"apiVersion": CLAIMS.api_version, "kind": CLAIMS.kind, "metadata": meta, "status": status}
