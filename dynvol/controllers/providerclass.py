"""The storage provider class controller, the leader's: is a class usable, who uses it, may it go?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.identity import label_value
from dynvol.api.meta import now
from dynvol.api.providerclass import ClassSpec, ClassStatus, StorageProviderClass
from dynvol.api.resources import CLASSES
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import NotFound
from dynvol.kube.events import EventRecorder, ObjectReference
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result
from dynvol.runtime.store import Change

from .claimstatus import FIELD_MANAGER, LeaderView
from .credentials import Credentials
from .desired import dynamic_volumes
from .finalizers import add_finalizer, remove_finalizer
from .matching import pod_decides
from .mountpodspec import credentials_digest
from .namesakes import Superseded, expect_same
from .status import class_status
from .view import BY_CLASS, Instruments

CREDENTIALS_CHECK: Final = 30.0
"""Seconds between looks at a class's Secret, which is not watched. The node processes follow what its status says of it."""


REMOVAL_CHECK: Final = 2.0
"""Seconds between looks at whether a class that is deleted while pods use it goes with all of dynvol."""


class Assessment(Protocol):
    """What is wrong with a class as it is written."""

    @property
    def problems(self) -> Sequence[str]:
        """They make it unusable."""

    @property
    def warnings(self) -> Sequence[str]:
        """They make it slow or fragile."""


class ProviderClassController:
    """`assess` judges provider and parameters. It is pure, and the same judge as at admission. `is_removal` says whether a class
    that is deleted goes with all of dynvol."""

    def __init__(
        self,
        view: LeaderView,
        *,
        client: KubeClient,
        recorder: EventRecorder,
        assess: Callable[[ClassSpec], Assessment],
        is_removal: Callable[[], Awaitable[bool]],
        instruments: Instruments,
    ) -> None:
        self._view = view
        self._client = client
        self._recorder = recorder
        self._assess = assess
        self._is_removal = is_removal
        self._credentials: Final = Credentials(client)
        self.controller: Final[Controller] = instruments.controller("storage-provider-class", self.reconcile, workers=2)
        self.controller.watch(view.classes, lambda c: [c.metadata.name])
        self.controller.watch(view.pods, _classes_of_pod, when=pod_decides)
        self.controller.watch(view.mount_pods, self._classes_of_mount_pod, when=_came_or_went)

    async def run(self) -> None:
        await self.controller.run()

    def _classes_of_mount_pod(self, mount_pod: Pod) -> Iterable[str]:
        label = mount_pod.metadata.labels.get(names.CLASS_ANNOTATION, "")
        return [c.metadata.name for c in self._view.classes.store.values() if label_value(c.metadata.name) == label]

    async def reconcile(self, name: str) -> Result:
        """1. Hold the class while it is used, and only then: an idle one can go while none of us is there. 2. Say how it stands and
        who uses it."""
        provider_class = self._view.classes.store.get(name)
        if provider_class is None:
            return DONE
        pods = self._view.pods.store.by_index(BY_CLASS, name)
        label = label_value(name)
        mount_pods = sum(1 for p in self._view.mount_pods.store.values() if p.metadata.labels.get(names.CLASS_ANNOTATION) == label)
        try:
            if not await self._is_used(provider_class, pods=pods, mount_pods=mount_pods):
                await remove_finalizer(self._client, CLASSES, provider_class, names.CLASS_FINALIZER)
            elif not provider_class.metadata.deleting:
                await add_finalizer(self._client, CLASSES, provider_class, names.CLASS_FINALIZER)
            await self._say(provider_class, pods=pods, mount_pods=mount_pods)
        except (NotFound, Superseded):
            return DONE
        return RequeueAfter(REMOVAL_CHECK if provider_class.metadata.deleting else CREDENTIALS_CHECK)

    async def _is_used(self, provider_class: StorageProviderClass, *, pods: Collection[Pod], mount_pods: int) -> bool:
        """Pods without a mount pod use a class by what may still come. In a removal nothing will, and they run on without."""
        if mount_pods or not pods:
            return bool(mount_pods)
        return not (provider_class.metadata.deleting and await self._is_removal())

    async def _say(self, provider_class: StorageProviderClass, *, pods: tuple[Pod, ...], mount_pods: int) -> None:
        assessment = self._assess(provider_class.spec)
        found = await self._credentials.of(provider_class)
        status = class_status(
            provider_class,
            pods=pods,
            mount_pods=mount_pods,
            problems=assessment.problems,
            warnings=assessment.warnings,
            credentials=found.problem,
            digest=credentials_digest(found.secret),
            at=now(),
        )
        if status == provider_class.status:
            return
        written = await self._client.apply(
            CLASSES, provider_class.metadata.name, _body(status), field_manager=FIELD_MANAGER, subresource="status"
        )
        expect_same(provider_class.metadata, written.metadata)
        self._tell_changes(provider_class, status)

    def _tell_changes(self, provider_class: StorageProviderClass, status: ClassStatus) -> None:
        """Events for what is newly wrong. Ready only repeats the others."""
        reference = ObjectReference.of(CLASSES, provider_class.metadata)
        had = {(c.type, c.status, c.message) for c in provider_class.status.conditions}
        for condition in status.conditions:
            bad = condition.status == ("True" if condition.type == "Terminating" else "False")
            if bad and condition.type != "Ready" and (condition.type, condition.status, condition.message) not in had:
                self._recorder.warning(reference, condition.reason, condition.message)


def _classes_of_pod(pod: Pod) -> Iterable[str]:
    return {v.provider_class for v in dynamic_volumes(pod)}


def _came_or_went(change: Change[Pod]) -> bool:
    return change.old is None or change.new is None


def _body(status: ClassStatus) -> dict[str, Any]:
    return {
        "status": {
            "observedGeneration": status.observed_generation,
            "pods": status.pods,
            "mountPods": status.mount_pods,
            "credentialsDigest": status.credentials_digest,
            "conditions": [{"message": "", **c} for c in msgspec.to_builtins(status.conditions)],
        }
    }
