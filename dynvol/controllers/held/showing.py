"""The showing controller: shows the volumes that holder pods hold in the pods that want them.

Its keys are workloads. What a workload's directories show and should not, it takes away, whoever put it there and however long
ago: so no mount needs to be remembered. It works beside the mount pods' controllers, on classes that have no mount pods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Pod
from dynvol.api.mounts import Phase
from dynvol.api.resources import CLAIMS
from dynvol.kube.client import KubeClient
from dynvol.mount.errors import InTheWay, MountProblem, WrongMount
from dynvol.mount.held import Volume
from dynvol.observe import logs
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result

from ..claimreport import ClaimReporter
from ..desired import workloads
from ..finalizers import add_finalizer
from ..matching import claim_decides, class_decides, pod_decides, selected
from ..namesakes import Superseded
from ..status import Standing
from ..view import Instruments
from .volumes import Binding, HeldVolumes, index_holder

log = logs.get(__name__)

SWEEP_INTERVAL: Final = 300.0
"""Seconds between looks for what events did not tell of."""
AGAIN: Final = 1.0
"""Seconds until what changed under our hands is looked at again."""
PROBLEM_RETRY: Final = 3.0
"""Seconds between looks at a volume for a directory that was not in it."""


class ShowingController:
    """`run` works until cancelled; it begins with a sweep."""

    def __init__(self, held: HeldVolumes, *, client: KubeClient, reporter: ClaimReporter, instruments: Instruments) -> None:
        self._held = held
        self._view = held.view
        self._client = client
        self._reporter = reporter
        self.controller: Final[Controller] = instruments.controller("showing", self.reconcile, workers=4)
        view = held.view
        self.controller.watch(view.pods, lambda pod: [w.uuid for w in workloads(pod)], when=pod_decides)
        self.controller.watch(view.claims, self._workloads_beside, when=claim_decides)
        self.controller.watch(view.classes, view.workloads_of_class, when=class_decides)
        self.controller.watch(held.holders, self._workloads_of_holder)
        view.mounts.on_change(self._mounts_changed)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.controller.run(), name="showing-controller")
            tasks.create_task(self._sweep_for_ever(), name="showing-sweep")

    async def _sweep_for_ever(self) -> None:
        while True:
            for uuid in await self._view.mounts.roots():
                self.controller.enqueue(uuid)
            await asyncio.sleep(SWEEP_INTERVAL)

    def _workloads_beside(self, claim: DynamicVolumeClaim) -> Iterable[str]:
        if claim.spec.provider != names.PVC:
            return ()
        return {w.uuid for pod in selected(self._view.pods.store, claim) for w in workloads(pod)}

    def _workloads_of_holder(self, holder: Pod) -> Iterable[str]:
        return {binding.uuid for key in index_holder(holder) for binding in self._held.wanted(key)}

    def _mounts_changed(self, changed: frozenset[tuple[PurePosixPath, str]]) -> None:
        for uuid in {self._view.mounts.uuid_of(path) for path, _ in changed}:
            if uuid is not None:
                self.controller.enqueue(uuid)

    async def reconcile(self, uuid: str) -> Result:
        """1. What is shown and not wanted, or not what is wanted, or held by nobody, is taken away. 2. Each claim is announced,
        before anything of it is shown. 3. What is missing and held is shown."""
        async with self._view.turns.of(uuid):
            wanted = {binding.path: binding for binding in self._held.bindings_of(uuid)}
            root = (await self._view.mounts.roots()).get(uuid)
            if root is None or not self._held.is_ours(root):
                return DONE
            await self._take_away(root, wanted)
            results = [await self._bring(binding) for binding in wanted.values()]
            delays = [result.seconds for result in results if isinstance(result, RequeueAfter)]
            # No event tells that a pod has had its time: the external volume controller finds it, a moment before.
            if (patience := self._view.overdue.patience(self._view.pods_of(uuid))) is not None:
                delays.append(patience + AGAIN)
            return RequeueAfter(min(delays)) if delays else DONE

    async def _take_away(self, root: PurePosixPath, wanted: Mapping[PurePosixPath, Binding]) -> None:
        self._held.forget_failures(root, but=wanted)
        for path, mount in self._held.volumes.places(root).items():
            if path in wanted and self._held.shows(mount, wanted[path]):
                continue
            pod_uid, *mountpoint = path.relative_to(root).parts
            log.info("taking a volume away", path=str(path), label=mount.label)
            removal = await self._held.volumes.hide(str(root / pod_uid), "/".join(mountpoint))
            for obstacle in removal.left:
                log.info("a directory stays", path=obstacle.path, reason=obstacle.reason)

    async def _bring(self, binding: Binding) -> Result:
        try:
            await self._announce(binding)
        except Superseded as why:
            log.info("claim cannot be announced", claim=binding.claim.metadata.key, why=str(why))
            return DONE
        if self._held.is_shown(binding):
            self._held.failed(binding, None)
            return DONE
        there = [(pod, volume) for pod, volume in self._held.sources(binding) if pod.metadata.uid not in self._held.leaving]
        if not there or there[0][0].metadata.deleting:
            # Its holder's events bring the key back. What is about to end is not begun with.
            self._held.failed(binding, None)
            return DONE
        return await self._show(binding, *there[0])

    async def _announce(self, binding: Binding) -> None:
        """Deleting the claim waits for us from now on."""
        pod_uid = binding.attachment.pod.metadata.uid
        await add_finalizer(self._client, CLAIMS, binding.claim, names.CLAIM_FINALIZER)
        await self._reporter.announce(binding.claim, pod_uid=pod_uid)

    async def _show(self, binding: Binding, holder: Pod, volume: Volume) -> Result:
        try:
            await self._held.volumes.show(holder.metadata.uid, volume, binding.showing)
        except WrongMount as why:
            log.debug("not now", path=str(binding.path), why=str(why))
            return RequeueAfter(AGAIN)
        except (MountProblem, OSError) as error:
            self._held.failed(binding, _failure(binding, volume, error))
            return RequeueAfter(PROBLEM_RETRY)
        log.info("volume shown", path=str(binding.path), holder=holder.metadata.key)
        self._held.failed(binding, None)
        return DONE


def _failure(binding: Binding, volume: Volume, error: Exception) -> Standing:
    """In the user's words: he knows the volume, and not where kubelet has it."""
    said = str(error).replace(volume.path, "the volume").removeprefix(f"{binding.directory}/")
    match error:
        case FileNotFoundError() if binding.sub_path:
            message = f"the volume has no directory {binding.sub_path}, which subPath names; make it"
            return Standing(Phase.FAILED, "SubPathNotFound", message)
        case InTheWay() if error.path.startswith(f"{volume.path}/"):
            return Standing(Phase.FAILED, "SubPathRefused", f"subPath {binding.sub_path}: {said}")
    return Standing(Phase.FAILED, "VolumeNotShown", f"the volume cannot be shown: {said}")
