"""Which claims reach which pods of this node, worked out once and kept until something that decides on it changes.

With two hundred claims in a pod, and a hundred pods, working it out anew for each question would cost seconds for each report
that a mount pod writes. What claims and pods say of their state decides nothing here, and is most of what changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Pod
from dynvol.api.providerclass import StorageProviderClass
from dynvol.runtime.informer import Informer
from dynvol.runtime.store import Change, View

from .desired import Attachment, attachments, reaches

BY_NAMESPACE: Final = "namespace"
BY_LABEL: Final = "label"
_NONE: Final[Mapping[str, Attachment]] = MappingProxyType({})


def pod_decides(change: Change[Pod]) -> bool:
    """Whether a change of a pod can change what is mounted in it. What its containers do cannot."""
    return _differ(change, lambda pod: (pod.metadata.labels, pod.metadata.deleting, pod.spec, pod.finished))


def claim_decides(change: Change[DynamicVolumeClaim]) -> bool:
    """Whether a change of a claim can change what is mounted where. Its status cannot."""
    return _differ(change, lambda claim: (claim.metadata.deleting, claim.metadata.finalizers, claim.spec))


def class_decides(change: Change[StorageProviderClass]) -> bool:
    """Whether a change of a class can change what is mounted where. Its status cannot."""
    return _differ(change, lambda provider_class: (provider_class.metadata.deleting, provider_class.spec))


def class_or_credentials_decide(change: Change[StorageProviderClass]) -> bool:
    """The same, or whether the leader saw its Secret change."""
    return class_decides(change) or _differ(change, lambda provider_class: provider_class.credentials_digest)


def _differ(change: Change[Any], decisive: Any) -> bool:
    return change.old is None or change.new is None or decisive(change.old) != decisive(change.new)


def index_by_label(claim: DynamicVolumeClaim) -> Iterable[str]:
    """Informer index of claims: a label without which a pod is not selected. Those that insist on none are found by namespace.

    Of several labels it is the one with the longest value, which tends to be the one that fewest claims ask for.
    """
    namespace, wanted = claim.metadata.namespace, claim.spec.selector.match_labels
    return [_place(namespace, *max(wanted.items(), key=lambda label: (len(label[1]), label)))] if wanted else [namespace]


def _place(namespace: str, key: str, value: str) -> str:
    return f"{namespace}/{key}={value}"


def reaching(claims: View[DynamicVolumeClaim], pod: Pod) -> Iterator[DynamicVolumeClaim]:
    """The claims that reach `pod`. It costs as much as there are claims on its labels, however many there are in the namespace."""
    namespace = pod.metadata.namespace
    places = (namespace, *(_place(namespace, *label) for label in pod.metadata.labels.items()))
    return (claim for place in places for claim in claims.by_index(BY_LABEL, place) if reaches(claim, pod))


def selected(pods: View[Pod], claim: DynamicVolumeClaim) -> Iterator[Pod]:
    """The pods that a claim is about, also when it is on its way out."""
    found = pods.by_index(BY_NAMESPACE, claim.metadata.namespace)
    return (pod for pod in found if claim.spec.selector.matches(pod.metadata.labels))


class Matches:
    """`desired.attachments` of the pods in a cache, remembered. An answer is as old as the caches are, and no older."""

    def __init__(
        self,
        pods: Informer[Pod],
        claims: Informer[DynamicVolumeClaim],
        classes: Informer[StorageProviderClass],
        *,
        has_had_its_time: Callable[[Pod], bool],
    ) -> None:
        self._has_had_its_time = has_had_its_time
        self._pods = pods
        self._claims = claims
        self._classes = classes
        # Namespace → pod's key → claim's uid → attachment, oldest claim first.
        self._known: dict[str, dict[str, Mapping[str, Attachment]]] = {}
        pods.add_handler(self._pod_changed)
        claims.add_handler(self._claim_changed)
        classes.add_handler(self._class_changed)

    def of(self, pod: Pod) -> Mapping[str, Attachment]:
        """By the claims' uids, the oldest claim first. `pod` is the cache's. Nothing for one that has had its time (`overdue`)."""
        if not pod.spec.volumes or self._has_had_its_time(pod):
            return _NONE
        known = self._known.setdefault(pod.metadata.namespace, {})
        found = known.get(pod.metadata.key)
        if found is None:
            found = known[pod.metadata.key] = {a.claim.metadata.uid: a for a in self._work_out(pod)}
        return found

    def _work_out(self, pod: Pod) -> tuple[Attachment, ...]:
        return attachments(pod, reaching(self._claims.store, pod), {c.metadata.name: c for c in self._classes.store.values()})

    def _pod_changed(self, change: Change[Pod]) -> None:
        if pod_decides(change):
            namespace = change.key.partition("/")[0]
            known = self._known.get(namespace, {})
            known.pop(change.key, None)
            if not known:
                self._known.pop(namespace, None)

    def _claim_changed(self, change: Change[DynamicVolumeClaim]) -> None:
        if not claim_decides(change):
            return
        known = self._known.get(change.key.partition("/")[0], {})
        for claim in filter(None, (change.old, change.new)):
            for pod in selected(self._pods.store, claim):
                known.pop(pod.metadata.key, None)

    def _class_changed(self, change: Change[StorageProviderClass]) -> None:
        if class_decides(change):
            self._known.clear()
