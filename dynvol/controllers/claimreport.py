"""What this node says of claims: one entry of `status.pods` for each of its pods that a claim reaches or still occupies.

Its keys are claims. Entries are applied under a field manager of this node, so that nodes never overwrite one another and none
needs to know of the others. An entry stands *before* anything is mounted and goes *after* everything is unmounted: so long as
it is there, the leader keeps the claim.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, Protocol

import msgspec

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim, PodMount
from dynvol.api.core import Pod
from dynvol.api.identity import Workload, label_value, uuid_of_mount_pod
from dynvol.api.meta import now, seconds_since
from dynvol.api.mounts import SOURCE_PREFIX, UNFLUSHED, MountReport, Phase, WantedMount, overlap
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import CLAIMS, NODES, PODS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import ApiError, NotFound
from dynvol.kube.events import EventRecorder, ObjectReference
from dynvol.observe import logs
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result
from dynvol.runtime.expectations import Expectations
from dynvol.runtime.store import Change

from .desired import Attachment, EarlierMounts, wanted_mount, workload
from .held.volumes import HeldVolumes
from .leftovers import Leftovers, look
from .matching import BY_NAMESPACE, claim_decides, class_decides, pod_decides, reaching, selected
from .namesakes import Superseded, expect_same
from .room import Load, memory_limit
from .status import Problem, Serving, Standing, is_ordinary_step, leftover, node_entries, pod_mount, same_entries, stamped, standing
from .turns import Turns
from .view import BY_CLAIM_UID, BY_CLASS, BY_UID, Instruments, NodeView, reported, told

log = logs.get(__name__)

RELEASED_AFTER: Final = 600.0
"""Seconds for which a deleted claim waits for data that cannot be uploaded."""
LOOK_AGAIN: Final = 10.0
"""Seconds between looks at what has not been uploaded yet."""
LEISURE: Final = 1.0
"""Seconds for which an entry need not say how far a mount is on its way, in or out: mostly it has come or gone by then."""
REMAINS_CHECK: Final = 1.0
"""Seconds between looks at what a mount pod that is no more has left mounted."""
_TOO_MANY_PODS: Final = (
    "the status of this claim cannot hold all the pods that it reaches (about 3000), and those that are not in it get no mount; "
    "give each part of them a claim of its own, by narrower selectors"
)
"""etcd stores objects of up to 1.5 MiB, and answers with "request is too large" beyond."""
_OVERDUE: Final = (
    "the pod should have ended more than a minute ago; its dynamic volumes are taken from it, "
    "so that programs which wait in one of them can end"
)
_WARNINGS: Final = frozenset({Phase.FAILED.value, Phase.CONFLICT.value})


class MountMetrics(Protocol):
    def mounted(self, *, seconds: float) -> None:
        """A mount that was wanted is there, after so long."""

    def client_restarted(self, times: int = 1) -> None:
        """A mount pod says that it started FUSE clients again."""


class ClaimReporter:
    """`announce`, `troubled`, `solved`, `lacking` and `overdue` are for the external volume controller; the rest goes by itself."""

    def __init__(
        self,
        view: NodeView,
        *,
        client: KubeClient,
        recorder: EventRecorder,
        instruments: Instruments,
        metrics: MountMetrics,
        held: HeldVolumes,
    ) -> None:
        self._view = view
        self._held = held
        self._client = client
        self._recorder = recorder
        self._manager: Final = f"dynvol-node-{label_value(view.node)}"
        self._metrics = metrics
        self._problems: dict[str, Problem] = {}
        self._lacking: dict[str, Mapping[str, Problem]] = {}
        """workload → the Secrets that its claims name and that cannot be had, by name."""
        self._wanted_since: dict[tuple[str, str], float] = {}
        """(claim uid, pod uid) → since when, on the loop's clock, a mount has been missing; for the metric."""
        self._said: dict[str, tuple[PodMount, ...]] = {}
        """Claim's uid → what was last applied, until the cache shows it."""
        self._under_way_since: dict[str, float] = {}
        """Claim's uid → since when, on the loop's clock, that is all there is to say anew of it."""
        self._unseen = Expectations(view.claims)
        self._turns = Turns()
        """Claim's uid → held while its entries are worked out and written, so that older ones never land on newer ones."""
        self.controller: Final[Controller] = instruments.controller("claim-report", self.reconcile, workers=4)
        self.controller.watch(view.claims, lambda claim: [claim.metadata.key], when=self._is_news)
        self.controller.watch_changes(view.claims, self._rivals)
        self.controller.watch(view.pods, self._claims_that_reach, when=pod_decides)
        self.controller.watch(view.classes, self._claims_beside_users, when=class_decides)
        self.controller.watch_changes(view.mount_pods, self._claims_spoken_of)
        self.controller.watch(held.holders, held.claims_of_holder)
        held.on_news(self.controller.enqueue)
        view.mount_pods.add_handler(self._count_restarts)
        view.mounts.on_change(self._mounts_changed)

    def phases(self) -> Counter[str]:
        """How many of this node's mounts are in which phase, as it has said itself."""
        claims = self._view.claims.store.values()
        return Counter(entry.phase for claim in claims for entry in node_entries(claim.status, self._view.node))

    async def run(self) -> None:
        await self.controller.run()

    # --- Who is concerned

    def _is_news(self, change: Change[DynamicVolumeClaim]) -> bool:
        """What other nodes and the leader say of a claim is none."""
        old, new = (node_entries(c.status, self._view.node) if c else None for c in (change.old, change.new))
        return claim_decides(change) or old != new

    def _rivals(self, change: Change[DynamicVolumeClaim]) -> Iterable[str]:
        """The claims with which this one contends, or contended, for a path in a pod of this node."""
        if not claim_decides(change):
            return set()
        states = [state for state in (change.old, change.new) if state is not None]
        pods = {pod.metadata.key: pod for state in states for pod in selected(self._view.pods.store, state)}
        beside = (a.claim for pod in pods.values() for a in self._view.matches.of(pod).values())
        return {c.metadata.key for c in beside if any(overlap(s.spec.mountpoint, c.spec.mountpoint) for s in states)}

    def _claims_that_reach(self, pod: Pod) -> Iterable[str]:
        return (c.metadata.key for c in reaching(self._view.claims.store, pod)) if pod.spec.volumes else ()

    def _claims_beside_users(self, provider_class: StorageProviderClass) -> Iterable[str]:
        users = self._view.pods.store.by_index(BY_CLASS, provider_class.metadata.name)
        return {key for pod in users for key in self._claims_that_reach(pod)}

    def _claims_spoken_of(self, change: Change[Pod]) -> Iterable[str]:
        """Those of which a mount pod has been told or reports something new; all, if it came, went or changed its state itself."""
        old, new = _words(change.old), _words(change.new)
        uids = old.keys() | new.keys()
        if change.old is not None and change.new is not None and _state(change.old) == _state(change.new):
            uids = {uid for uid in uids if old.get(uid) != new.get(uid)}
        if change.new is not None and told(change.old) != told(change.new):
            uids = uids | self._untold(change.new)
        return (key for uid in uids for key in self._claims_by_uid(uid))

    def _untold(self, mount_pod: Pod) -> set[str]:
        """Who waits for room, or for a path; whether there is any has just changed."""
        attached = self._view.attachments_of(mount_pod.metadata.labels.get(names.MOUNT_POD_LABEL, ""))
        return {a.claim.metadata.uid for a in attached} - {w.claim_uid for w in told(mount_pod)}

    def _claims_by_uid(self, uid: str) -> Iterable[str]:
        return [c.metadata.key for c in self._view.claims.store.by_index(BY_UID, uid)]

    def _mounts_changed(self, changed: frozenset[tuple[PurePosixPath, str]]) -> None:
        for uid in {uid for path, source in changed for uid in self._view.claims_at(path, source)}:
            for key in self._claims_by_uid(uid):
                self.controller.enqueue(key)
        # A volume that Kubernetes mounted has a source of its own, which says nothing of claims.
        for path in (path for path, source in changed if not source.startswith(SOURCE_PREFIX)):
            for key in self._held.claims_about(path):
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

    def lacking(self, uuid: str, problems: Mapping[str, Problem]) -> None:
        """What keeps which Secrets from the claims of a workload that name them; they will say so."""
        if self._lacking.get(uuid, {}) == problems:
            return
        self._lacking = {**self._lacking, uuid: problems} if problems else {u: p for u, p in self._lacking.items() if u != uuid}
        self._enqueue_workload(uuid)

    def _enqueue_workload(self, uuid: str) -> None:
        for attachment in self._view.attachments_of(uuid):
            self.controller.enqueue(attachment.claim.metadata.key)

    async def announce(self, claim: DynamicVolumeClaim, *, pod_uid: str) -> None:
        """Makes sure that the claim has an entry for this pod. Raises Superseded if it went or is going."""
        async with self._turn(claim) as current:
            if any(entry.uid == pod_uid for entry in self._shown(current)):
                return
            written = await self._publish(current, *await self._worked_out(current))
        if written is not None and written.metadata.deleting:
            raise Superseded(f"claim {claim.metadata.key} is being deleted")

    # --- Reconcile

    async def reconcile(self, key: str) -> Result:
        claim = self._view.claims.store.get(key)
        if claim is None:
            self._forget_the_gone()
            return DONE
        with contextlib.suppress(Superseded):
            async with self._turn(claim) as current:
                had, entries = await self._worked_out(current)
                if (patience := self._patience(current, had, entries)) > 0.0:
                    return RequeueAfter(patience)
                await self._publish(current, had, entries)
                # No event tells that time has passed, or that a file has arrived.
                if any(entry.reason == UNFLUSHED for entry in self._shown(current)):
                    return RequeueAfter(LOOK_AGAIN)
                # Nor whose a mount was that went, and that several claims may have shared.
                if self._remains(current, {entry.uid: entry for entry in self._shown(current)}):
                    return RequeueAfter(REMAINS_CHECK)
        return DONE

    def _forget_the_gone(self) -> None:
        spoken_of = self._said.keys() | self._under_way_since.keys() | {uid for uid, _ in self._wanted_since}
        gone = {uid for uid in spoken_of if not self._view.claims.store.by_index(BY_UID, uid)}
        self._said = {uid: said for uid, said in self._said.items() if uid not in gone}
        self._under_way_since = {uid: since for uid, since in self._under_way_since.items() if uid not in gone}
        self._wanted_since = {pair: since for pair, since in self._wanted_since.items() if pair[0] not in gone}

    @contextlib.asynccontextmanager
    async def _turn(self, claim: DynamicVolumeClaim) -> AsyncIterator[DynamicVolumeClaim]:
        """The claim as it is by the time that nobody else writes its entries. Raises Superseded if it went meanwhile."""
        meta = claim.metadata
        async with self._turns.of(meta.uid):
            current = self._view.claims.store.get(meta.key)
            if current is None or current.metadata.uid != meta.uid:
                raise Superseded(f"claim {meta.key} went")
            yield current

    def _shown(self, claim: DynamicVolumeClaim) -> tuple[PodMount, ...]:
        """This node's entries as the claim has them now: what we wrote last, while the cache does not show it."""
        uid = claim.metadata.uid
        if uid in self._said and self._unseen.unmet(uid) > 0.0:
            return self._said[uid]
        self._said.pop(uid, None)
        return node_entries(claim.status, self._view.node)

    async def _worked_out(self, claim: DynamicVolumeClaim) -> tuple[dict[str, PodMount], tuple[PodMount, ...]]:
        """This node's entries as the claim has them, by pod, and as they should be."""
        had = {entry.uid: entry for entry in self._shown(claim)}
        return had, await self._with_leftovers(claim, self.entries(claim, had=had), had=had)

    def _patience(self, claim: DynamicVolumeClaim, had: Mapping[str, PodMount], entries: Sequence[PodMount]) -> float:
        """Seconds for which nothing need be written, since all that is new of the entries is how far mounts are on their way."""
        uid, at = claim.metadata.uid, asyncio.get_running_loop().time()
        news = [(had.get(entry.uid), entry) for entry in entries if entry != had.get(entry.uid)]
        if not news or len(had) > len(entries) or not all(old is not None and is_ordinary_step(old, new) for old, new in news):
            self._under_way_since.pop(uid, None)
            return 0.0
        return self._under_way_since.setdefault(uid, at) + LEISURE - at

    async def _publish(
        self, claim: DynamicVolumeClaim, had: Mapping[str, PodMount], entries: tuple[PodMount, ...]
    ) -> DynamicVolumeClaim | None:
        """Applies this node's entries if they differ from what the claim shows; tells the user of changes by events.

        None where there is nothing to apply. Raises Superseded if the claim is gone, or another one by now.
        """
        if same_entries(entries, had.values()):
            return None
        written = await self._apply(claim, entries)
        self._said[claim.metadata.uid] = entries
        self._unseen.wrote(claim.metadata.uid, written)
        self._tell_changes(claim, had=had, entries=entries)
        return written

    async def _apply(self, claim: DynamicVolumeClaim, entries: Iterable[PodMount]) -> DynamicVolumeClaim:
        meta = claim.metadata
        try:
            written = await self._client.apply(
                CLAIMS, meta.name, _body(entries), field_manager=self._manager, namespace=meta.namespace, subresource="status"
            )
        except NotFound as gone:
            raise Superseded(f"claim {meta.key} went") from gone
        except ApiError as error:
            if "too large" in error.message:
                self._recorder.warning(ObjectReference.of(CLAIMS, meta), "TooManyPods", _TOO_MANY_PODS)
            raise
        expect_same(meta, written.metadata)
        return written

    # --- What is true

    def entries(self, claim: DynamicVolumeClaim, *, had: Mapping[str, PodMount]) -> tuple[PodMount, ...]:
        """This node's entries for `claim`, as things stand: the pods that it reaches, and those that it has yet to leave."""
        at = now()
        found = {a.pod.metadata.uid: self._entry(a, had=had, at=at) for a in self._attachments(claim)}
        for pod_uid, (mount_pod, report) in self._occupied(claim, had).items():
            if pod_uid not in found:
                old = had.get(pod_uid) or PodMount(uid=pod_uid, pod="", node=self._view.node, mount_pod=mount_pod)
                found[pod_uid] = leftover(old, report, at=at)
        for pod_uid in had.keys() - found.keys():
            if self._held.is_left(claim.metadata.namespace, had[pod_uid]):
                found[pod_uid] = leftover(had[pod_uid], None, at=at)
        return tuple(found[uid] for uid in sorted(found))

    def _attachments(self, claim: DynamicVolumeClaim) -> Iterable[Attachment]:
        pods = self._view.pods.store.by_index(BY_NAMESPACE, claim.metadata.namespace)
        found = (self._view.matches.of(pod).get(claim.metadata.uid) for pod in pods)
        return (attachment for attachment in found if attachment is not None)

    def _entry(self, attachment: Attachment, *, had: Mapping[str, PodMount], at: str) -> PodMount:
        old = had.get(attachment.pod.metadata.uid)
        if attachment.volume is None:
            return pod_mount(attachment, Standing(Phase.FAILED), mount_pod="", had=old, at=at)
        if attachment.claim.spec.provider == names.PVC:
            wanted = self._held.binding(attachment)
            stands = self._held.standing(wanted)
            return pod_mount(attachment, stands, mount_pod=self._held.holder_name(wanted), had=old, at=at)
        served = workload(attachment.pod, attachment.volume)
        return pod_mount(attachment, self._standing(attachment, served), mount_pod=served.mount_pod, had=old, at=at)

    def _standing(self, attachment: Attachment, served: Workload) -> Standing:
        provider_class = self._view.classes.store.get(served.provider_class)
        if provider_class is None:
            return Standing(
                Phase.FAILED, "ClassNotFound", f"StorageProviderClass {served.provider_class} does not exist; create it"
            )
        mount_pod = self._view.mount_pod(served.uuid)
        wanted = wanted_mount(attachment, provider_class)
        is_told = wanted in told(mount_pod)
        if not is_told and (why := self._shortage(wanted, mount_pod, provider_class)):
            return Standing(Phase.FAILED, "TooManyMounts", why)
        reports = {r.path: r for r in reported(mount_pod)}
        problem = self._problems.get(served.uuid) or self._lacking.get(served.uuid, {}).get(wanted.credentials)
        serving = Serving(served.mount_pod, mount_pod, reports, problem)
        waits = not is_told and EarlierMounts(reports.values()).in_the_way(wanted)
        root = served.root(self._view.state_dir)
        return standing(wanted, serving, told=is_told, waits=waits, in_table=lambda w: self._view.is_mounted(w, root=root))

    def _shortage(self, wanted: WantedMount, mount_pod: Pod | None, provider_class: StorageProviderClass) -> str:
        others = (mount for mount in told(mount_pod) if mount.key != wanted.key)
        return Load.of(others, limit=memory_limit(mount_pod, provider_class)).shortage(wanted)

    def _occupied(self, claim: DynamicVolumeClaim, had: Mapping[str, PodMount]) -> dict[str, tuple[str, MountReport | None]]:
        """Where something of the claim is mounted on this node, is said to be, or may be at any moment since a mount pod has been
        told: pod uid → the mount pod, as far as known, and what it reports."""
        claim_uid = claim.metadata.uid
        occupied: dict[str, tuple[str, MountReport | None]] = {}
        for pod_uid in self._view.mounts.pods_of_claim(claim_uid) | self._remains(claim, had):
            occupied[pod_uid] = ("", None)
        for mount_pod in self._view.mount_pods.store.by_index(BY_CLAIM_UID, claim_uid):
            name = mount_pod.metadata.name
            occupied |= {w.pod_uid: (name, None) for w in told(mount_pod) if w.claim_uid == claim_uid}
            occupied |= {r.pod_uid: (name, r) for r in reported(mount_pod) if r.claim_uid == claim_uid}
        return occupied

    def _remains(self, claim: DynamicVolumeClaim, had: Mapping[str, PodMount]) -> set[str]:
        """The pods in which a mount pod that is no more has left something at the claim's mountpoint that names no claim. One that
        is there says itself what is whose."""
        gone = {uid: entry.mount_pod for uid, entry in had.items() if entry.mount_pod and not self._exists(entry.mount_pod)}
        paths = {uid: f"{uid}{claim.spec.mountpoint}" for uid in gone}
        return {uid for uid, path in paths.items() if path in self._view.mounts.nameless(uuid_of_mount_pod(gone[uid]))}

    def _exists(self, mount_pod: str) -> bool:
        return self._view.mount_pod(uuid_of_mount_pod(mount_pod)) is not None

    async def _with_leftovers(
        self, claim: DynamicVolumeClaim, entries: Sequence[PodMount], *, had: Mapping[str, PodMount]
    ) -> tuple[PodMount, ...]:
        """`entries` as what lies on the disk corrects them.

        An entry stays while there is data of its pair that has not been uploaded, also when no mount pod is left to say so. But not
        for ever: a claim that was deleted `RELEASED_AFTER` seconds ago is let go. Its data stays, and is uploaded when it can be.
        """
        present = {entry.uid: entry for entry in entries}
        doubtful = [e for uid, e in had.items() if uid not in present] + [e for e in entries if e.reason == UNFLUSHED]
        for entry in doubtful:
            found = await self._left_of(claim.metadata.uid, entry)
            if found is not None and _is_overdue(claim):
                present.pop(entry.uid, None)
                self._let_go(claim, entry, found)
            elif found is not None and entry.uid not in present:
                present[entry.uid] = _kept(entry, found, self._problems.get(found.directory.name))
        return tuple(present[uid] for uid in sorted(present))

    async def _left_of(self, claim_uid: str, entry: PodMount) -> Leftovers | None:
        """What is on the disk of one pair that is not mounted any more."""
        if not entry.mount_pod or entry.uid in self._view.mounts.pods_of_claim(claim_uid):
            return None
        uuid = uuid_of_mount_pod(entry.mount_pod)
        found = await look(self._view, uuid)
        # A client that goes on for other claims uploads what this one wrote too.
        others = {mount.source for mount in told(self._view.mount_pod(uuid)) if mount.client}
        return found if found is not None and found.of(claim_uid=claim_uid, pod_uid=entry.uid, unless=others) else None

    # --- What is told

    def overdue(self, pod: Pod) -> None:
        """Tells that a pod's mounts are being taken away before it is gone."""
        log.warning("a pod does not end; its mounts are let go", pod=pod.metadata.key)
        self._recorder.warning(ObjectReference.of(PODS, pod.metadata), "PodOverdue", _OVERDUE)

    def left_behind(self, left: Leftovers, what_now: str) -> None:
        """Tells whoever looks after the node, where the claim and the workload may be no more."""
        node = self._view.own_node()
        if node is not None:
            message = f"{left.sentence(self._view.node)}; {what_now}"
            self._recorder.warning(ObjectReference.of(NODES, node.metadata), UNFLUSHED, message)

    def _let_go(self, claim: DynamicVolumeClaim, entry: PodMount, left: Leftovers) -> None:
        what_now = f"claim {claim.metadata.key} goes without them, and they are uploaded when that is possible"
        self._event(claim, entry, UNFLUSHED, f"{left.sentence(self._view.node)}; {what_now}", warning=True)
        self.left_behind(left, what_now)

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
        place = f"{entry.path} in pod {entry.pod}"
        if entry.phase == Phase.MOUNTED and not entry.reason:
            self._event(claim, entry, "Mounted", f"mounted at {place}", warning=False)
        elif entry.phase in _WARNINGS or entry.phase == Phase.MOUNTED or entry.reason == UNFLUSHED:
            self._event(claim, entry, entry.reason or entry.phase, f"{place}: {entry.message}", warning=True)
        elif entry.phase == Phase.UNMOUNTING:
            self._event(claim, entry, "Unmounting", f"{place}: {entry.message}", warning=False)
        elif old is not None and old.phase == Phase.MOUNTED:
            if old.observed_generation != entry.observed_generation:
                self._event(claim, entry, "Remounting", f"{place}: the claim was changed", warning=False)
            else:
                self._event(claim, entry, "MountLost", f"{place}: {entry.message}; it is being restored", warning=True)

    def _event(self, claim: DynamicVolumeClaim, entry: PodMount, reason: str, message: str, *, warning: bool) -> None:
        tell = self._recorder.warning if warning else self._recorder.normal
        tell(ObjectReference.of(CLAIMS, claim.metadata), reason, message)
        pod = self._view.pods.store.get(f"{claim.metadata.namespace}/{entry.pod}")
        if pod is not None and pod.metadata.uid == entry.uid:
            tell(ObjectReference.of(PODS, pod.metadata), reason, f"{claim.metadata.name}: {message}")

    def _count_restarts(self, change: Change[Pod]) -> None:
        before, after = (sum(r.restarts for r in reported(pod)) for pod in (change.old, change.new))
        if change.old is not None and after > before:
            self._metrics.client_restarted(after - before)


def _is_overdue(claim: DynamicVolumeClaim) -> bool:
    deleted = claim.metadata.deletion_timestamp
    return deleted is not None and seconds_since(deleted) > RELEASED_AFTER


def _kept(entry: PodMount, left: Leftovers, problem: Problem | None) -> PodMount:
    """The entry of a pair of which nothing but files on the disk is left."""
    why = f"; {problem.message}" if problem else "; a new mount pod is to upload them"
    message = f"{left.sentence(entry.node)}{why}"
    return stamped(
        msgspec.structs.replace(entry, phase=Phase.UNMOUNTING.value, reason=UNFLUSHED, message=message), had=entry, at=now()
    )


def _words(mount_pod: Pod | None) -> dict[str, list[WantedMount | MountReport]]:
    """What was said to and by a mount pod, by claim."""
    words: dict[str, list[WantedMount | MountReport]] = {}
    said: tuple[WantedMount | MountReport, ...] = (*told(mount_pod), *reported(mount_pod))
    for word in said:
        words.setdefault(word.claim_uid, []).append(word)
    return words


def _state(mount_pod: Pod) -> tuple[object, ...]:
    """Of the mount pod itself: what decides how all of its mounts stand."""
    return mount_pod.metadata.uid, mount_pod.metadata.deleting, mount_pod.status


def _body(entries: Iterable[PodMount]) -> dict[str, Any]:
    return {"status": {"pods": msgspec.to_builtins(list(entries))}}
