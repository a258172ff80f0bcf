"""What claims and classes say of themselves: pure functions from what is known to what is written.

A node speaks for the pods that it runs (`pod_mount`); the leader sums up (`claim_status`, `class_status`). A mount counts as
mounted only if this node's own mount table shows the right source at its path, its mount pod runs, and says nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dynvol.api import names
from dynvol.api.claim import ClaimStatus, DynamicVolumeClaim, PodMount
from dynvol.api.core import Pod, Secret
from dynvol.api.meta import Condition, with_transition_times
from dynvol.api.mounts import UNFLUSHED, MountReport, Phase, WantedMount
from dynvol.api.providerclass import ClassStatus, StorageProviderClass
from dynvol.mount import providers
from dynvol.mount.providers import pins
from dynvol.mount.providers.contract import Provider

from .desired import Attachment, path_in_container

_HARMLESS_WAITS: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
_ORDINARY_STEPS: Final = frozenset({"", "MountPodCreating", "MountPodStarting", "HolderStarting", "Requested", "NotInMountTable"})
"""Reasons of mounts on their way that a claim's condition does not tell: they are gone before anyone reads them."""
_NAMED_IN_MESSAGES: Final = 3
"""How many pods a condition's message names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a workload cannot be served at all. `message` is one sentence for the user."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Serving:
    """What this node knows of the mount pod of one workload. `reports` are by path below the mounter's root."""

    name: str
    pod: Pod | None = None
    reports: Mapping[str, MountReport] = field(default_factory=dict)
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    phase: Phase
    reason: str = ""
    message: str = ""


def standing(
    wanted: WantedMount, serving: Serving, *, told: bool, waits: bool, in_table: Callable[[WantedMount], bool]
) -> Standing:
    """How one wanted mount stands. `told`: its mount pod knows of it; `waits`: an earlier mount at its path has yet to go.

    A mounter shows nothing before it works, and says so a moment later; if it stops working, it says that at once. So what shows
    and is not spoken of is mounted.
    """
    report = serving.reports.get(wanted.path)
    current = report if report and (report.claim_uid, report.spec_hash) == (wanted.claim_uid, wanted.spec_hash) else None
    running = serving.pod is not None and container_runs(serving.pod)
    if current and current.phase == Phase.MOUNTED and running and in_table(wanted):
        return Standing(Phase.MOUNTED, current.reason, current.message)
    if report is None and told and running and in_table(wanted):
        return Standing(Phase.MOUNTED)
    if serving.problem is not None:
        return Standing(Phase.FAILED, serving.problem.reason, serving.problem.message)
    if (trouble := mount_pod_trouble(serving)) is not None:
        return trouble
    if waits:
        return Standing(Phase.PENDING, "PathInUse", "waiting for the earlier mount at this path to be flushed and unmounted")
    if current is None:
        return Standing(Phase.MOUNTING, "Requested", f"mount pod {serving.name} has been told")
    if current.phase == Phase.MOUNTED:
        return Standing(Phase.MOUNTING, "NotInMountTable", "the mount pod reports it mounted; this node does not see it yet")
    return Standing(current.phase, current.reason, current.message)


def mount_pod_trouble(serving: Serving) -> Standing | None:
    """What keeps the mount pod itself from working, in words; None if nothing does."""
    pod = serving.pod
    if pod is None:
        return Standing(Phase.PENDING, "MountPodCreating", f"mount pod {serving.name} is being created")
    if pod.metadata.deleting:
        return Standing(Phase.PENDING, "MountPodReplaced", f"mount pod {serving.name} was deleted and is being replaced")
    if pod.finished:
        why = pod.status.message or pod.status.reason or f"phase {pod.status.phase}"
        return Standing(Phase.PENDING, "MountPodReplaced", f"mount pod {serving.name} ended ({why}) and is being replaced")
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return Standing(Phase.PENDING, "MountPodUnschedulable", f"mount pod {serving.name}: {condition.message}")
    return _container_trouble(pod)


def _container_trouble(pod: Pod) -> Standing | None:
    for status in pod.status.container_statuses:
        waiting, ended = status.state.waiting, status.last_state.terminated or status.state.terminated
        if waiting and waiting.reason not in _HARMLESS_WAITS:
            last = f"; it last ended with {ended.reason or 'code'} {ended.exit_code}" if ended else ""
            message = f"mount pod {pod.metadata.name} is waiting: {waiting.reason} {waiting.message}".rstrip() + last
            return Standing(Phase.FAILED, "OOMKilled" if ended and ended.reason == "OOMKilled" else waiting.reason, message)
    if not container_runs(pod):
        return Standing(Phase.PENDING, "MountPodStarting", f"mount pod {pod.metadata.name} is starting")
    return None


def backs_off(pod: Pod) -> bool:
    """Whether kubelet waits before it starts a container again that ended several times."""
    return any(s.state.waiting is not None and s.state.waiting.reason == "CrashLoopBackOff" for s in pod.status.container_statuses)


def container_runs(pod: Pod) -> bool:
    return any(status.state.running is not None for status in pod.status.container_statuses)


def pod_mount(attachment: Attachment, stands: Standing, *, mount_pod: str, had: PodMount | None, at: str) -> PodMount:
    """The entry of `status.pods` for one pair of claim and pod."""
    if attachment.refusal is not None:
        refusal = attachment.refusal
        stands = Standing(refusal.phase, refusal.reason, refusal.message)
    entry = PodMount(
        uid=attachment.pod.metadata.uid,
        pod=attachment.pod.metadata.name,
        node=attachment.pod.spec.node_name,
        mount_pod=mount_pod,
        path=path_in_container(attachment),
        phase=stands.phase.value,
        reason=stands.reason,
        message=stands.message,
        observed_generation=attachment.claim.metadata.generation,
    )
    return stamped(entry, had=had, at=at)


def leftover(had: PodMount, report: MountReport | None, *, at: str) -> PodMount:
    """The entry of a pair that is no more, while its mount still is."""
    message = report.message if report and report.message else "no longer wanted; being flushed and unmounted"
    reason = report.reason if report else ""
    return stamped(msgspec.structs.replace(had, phase=Phase.UNMOUNTING.value, reason=reason, message=message), had=had, at=at)


def stamped(entry: PodMount, *, had: PodMount | None, at: str) -> PodMount:
    same = had is not None and had.phase == entry.phase and had.last_transition_time
    return msgspec.structs.replace(entry, last_transition_time=had.last_transition_time if had and same else at)


def claim_status(
    claim: DynamicVolumeClaim, *, pods: Sequence[Pod], leaving: frozenset[str], classes: Mapping[str, StorageProviderClass], at: str
) -> ClaimStatus:
    """The totals and conditions of a claim.

    `pods` are those it reaches according to the leader's own view, whether or not their node has spoken yet; `leaving` are the uids
    of terminating pods, which count no longer. What nodes said of an older generation does not make the claim ready.
    """
    entries = [e for e in claim.status.pods if e.uid not in leaving and e.phase != Phase.UNMOUNTING]
    desired = {e.uid for e in entries} | {p.metadata.uid for p in pods}
    mounted = [e for e in entries if e.phase == Phase.MOUNTED]
    failed = [e for e in entries if e.phase in (Phase.FAILED, Phase.CONFLICT)]
    generation = claim.metadata.generation
    current = [e for e in mounted if e.observed_generation == generation]
    accepted = _accepted(claim, classes, failed)
    waiting = [e for e in entries if e.phase in (Phase.PENDING, Phase.MOUNTING) and e.reason not in _ORDINARY_STEPS]
    ready = _ready(claim, desired=len(desired), current=len(current), failed=failed, waiting=waiting)
    conditions = [
        Condition(type=t, status=s, reason=r, message=m, observed_generation=generation) for t, s, r, m in (accepted, ready)
    ]
    return ClaimStatus(
        observed_generation=generation,
        provider=claim.spec.provider,
        desired=len(desired),
        mounted=len(mounted),
        failed=len(failed),
        summary=f"{len(mounted)}/{len(desired)}",
        conditions=with_transition_times(conditions, had=claim.status.conditions, at=at),
    )


_Verdict = tuple[str, str, str, str]


def _accepted(claim: DynamicVolumeClaim, classes: Mapping[str, StorageProviderClass], failed: Sequence[PodMount]) -> _Verdict:
    """Whether the claim as written can work at all."""
    name, provider = claim.spec.storage_provider_class, claim.spec.provider
    if not provider:
        return ("Accepted", "False", "NoProvider", "no provider configuration is given; add s3Config or another")
    if name and name not in classes:
        return ("Accepted", "False", "ClassNotFound", f"StorageProviderClass {name} does not exist; create it or name another")
    if name and classes[name].spec.provider != provider:
        theirs = classes[name].spec.provider
        return ("Accepted", "False", "ProviderMismatch", f"the claim wants provider {provider}, class {name} is for {theirs}")
    if name and (why := pins.refusal(classes[name].spec, claim.spec, namespace=claim.metadata.namespace)):
        return ("Accepted", "False", names.NOT_ALLOWED, f"StorageProviderClass {name} {why}")
    if refused := [e for e in failed if e.reason == names.NOT_ALLOWED]:
        return ("Accepted", "False", names.NOT_ALLOWED, _told(refused))
    if conflicts := [e for e in failed if e.phase == Phase.CONFLICT]:
        return ("Accepted", "False", "MountpointConflict", _told(conflicts))
    return ("Accepted", "True", "Accepted", "")


def _ready(
    claim: DynamicVolumeClaim, *, desired: int, current: int, failed: Sequence[PodMount], waiting: Sequence[PodMount]
) -> _Verdict:
    """`waiting` are mounts that are on their way, but not in the ordinary one."""
    if claim.metadata.deleting:
        pods = ", ".join(e.pod for e in claim.status.pods[:_NAMED_IN_MESSAGES])
        kept = [e for e in claim.status.pods if e.reason == UNFLUSHED]
        why = f"; {_told(kept)}" if kept else ""
        return ("Ready", "False", "Terminating", f"waiting until these pods have lost the mount: {pods}{why}" if pods else "")
    if not desired:
        return ("Ready", "False", "NoMatchingPods", "no pod with a dynamic volume of this provider matches the selector")
    if failed:
        (reason, _), *_ = Counter(e.reason for e in failed).most_common(1)
        return ("Ready", "False", reason or "Failed", _told(failed))
    if current < desired:
        why = f"; {_told(waiting)}" if waiting else ""
        return ("Ready", "False", "Progressing", f"{current} of {desired} pods have the mount as specified{why}")
    return ("Ready", "True", "Mounted", f"{current} of {desired} pods have the mount")


def _told(entries: Sequence[PodMount]) -> str:
    """The distinct troubles of `entries`, each with one pod that has it."""
    by_message = {e.message: e for e in entries}
    told = [f"pod {e.pod}: {e.message}" for e in list(by_message.values())[:_NAMED_IN_MESSAGES]]
    more = len(entries) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def node_entries(status: ClaimStatus, node: str) -> tuple[PodMount, ...]:
    """What `node` has said in a claim's status, as far as the cache knows."""
    return tuple(entry for entry in status.pods if entry.node == node)


def is_ordinary_step(old: PodMount, new: PodMount) -> bool:
    """Whether all that has changed is how far a mount is, in the ordinary way, on its way in or out."""
    if old.observed_generation != new.observed_generation or new.reason not in _ORDINARY_STEPS:
        return False
    if new.phase == Phase.UNMOUNTING:
        return old.phase != Phase.UNMOUNTING
    on_its_way = (Phase.PENDING, Phase.MOUNTING)
    return old.phase in on_its_way and new.phase in on_its_way and old.reason in _ORDINARY_STEPS


def same_entries(one: Iterable[PodMount], other: Iterable[PodMount]) -> bool:
    return {e.uid: e for e in one} == {e.uid: e for e in other}


def class_status(
    provider_class: StorageProviderClass,
    *,
    pods: Sequence[Pod],
    mount_pods: int,
    problems: Sequence[str],
    warnings: Sequence[str],
    credentials: Problem | None,
    digest: str,
    at: str,
) -> ClassStatus:
    """Users and conditions of a class. `problems` make it unusable; `warnings` only slow or fragile. `digest` is that of its
    Secret (`mountpodspec.credentials_digest`)."""
    generation = provider_class.metadata.generation
    verdicts: list[_Verdict] = [
        ("Accepted", "False", "Invalid", "; ".join(problems)) if problems else ("Accepted", "True", "Accepted", ""),
        ("CredentialsAvailable", "False", credentials.reason, credentials.message)
        if credentials
        else ("CredentialsAvailable", "True", "Found", "")
        if any(provider_class.spec.secret)
        else ("CredentialsAvailable", "True", "NotNeeded", _NO_SECRET),
        ("ResourcesAdequate", "False", "TooSmall", "; ".join(warnings))
        if warnings
        else ("ResourcesAdequate", "True", "Adequate", ""),
    ]
    usable = not problems and credentials is None
    blocking = "; ".join((*problems, *([credentials.message] if credentials else [])))
    verdicts.append(("Ready", "True", "Usable", "") if usable else ("Ready", "False", "Unusable", blocking))
    if provider_class.metadata.deleting:
        verdicts.append(("Terminating", "True", "InUse", in_use(pods, mount_pods)))
    conditions = [Condition(type=t, status=s, reason=r, message=m, observed_generation=generation) for t, s, r, m in verdicts]
    return ClassStatus(
        observed_generation=generation,
        pods=len(pods),
        mount_pods=mount_pods,
        credentials_digest="" if credentials else digest,
        conditions=with_transition_times(conditions, had=provider_class.status.conditions, at=at),
    )


_NO_SECRET: Final = (
    "the class names no Secret: storage is used without credentials, unless a claim names a Secret that the class allows"
)


def in_use(pods: Sequence[Pod], mount_pods: int) -> str:
    """Why a class that is being deleted stays, in words."""
    named = ", ".join(p.metadata.key for p in pods[:_NAMED_IN_MESSAGES])
    more = f" and {len(pods) - _NAMED_IN_MESSAGES} more" if len(pods) > _NAMED_IN_MESSAGES else ""
    users = [f"{len(pods)} pods ({named}{more})"] if pods else []
    users += [f"{mount_pods} mount pods"] if mount_pods else []
    return f"still used by {' and '.join(users)}; it goes when they have gone" if users else "no user left"


def missing_credentials(provider_class: StorageProviderClass, data: Mapping[str, bytes] | None) -> Problem | None:
    """What is wrong with the Secret that a class names; `data` is None if there is no such Secret."""
    namespace, name = provider_class.spec.secret
    provider = providers.provider(provider_class.spec.provider)
    if not name and not namespace and provider is not None and provider.serves_anyone:
        return None
    if not name or not namespace:
        keys = f"{names.SECRET_NAME_PARAMETER} and {names.SECRET_NAMESPACE_PARAMETER}"
        return Problem("SecretNotNamed", f"class {provider_class.metadata.name} names no Secret; set {keys}")
    return _lacking(provider, data, where=f"Secret {namespace}/{name} of class {provider_class.metadata.name}")


def missing_in_own_secret(provider_class: StorageProviderClass, secret: Secret | None, *, place: str) -> Problem | None:
    """What is wrong with the Secret at `place` (namespace/name) that a claim names. One that opens the cluster's own API has no
    business with storage, and a claim is not to be the way in which a token leaves a namespace."""
    provider = providers.provider(provider_class.spec.provider)
    where = f"Secret {place}, which the claim names,"
    if secret is not None and secret.type in _TOKENS:
        return Problem(
            "SecretRefused", f"{where} holds a token for the cluster itself ({secret.type}); name one that is for the storage"
        )
    return _lacking(provider, secret.data if secret is not None else None, where=where)


_TOKENS: Final = frozenset({"kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"})


def _lacking(provider: Provider | None, data: Mapping[str, bytes] | None, *, where: str) -> Problem | None:
    needed = provider.secret_keys if provider else ()
    if data is None:
        hint = f" with the keys {' and '.join(needed)}" if needed else ""
        return Problem("SecretNotFound", f"{where} does not exist; create it{hint}")
    if missing := [key for key in needed if not data.get(key)]:
        return Problem("SecretKeyMissing", f"{where} lacks {' and '.join(missing)}")
    return None
