"""A node without a kernel: a mount table in memory, and mount pods that are played.

The table holds what the controllers may rely on: what a mounter mounts has its source at its path, and stays there when the mounter
dies. It also notes what must never be done to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import msgspec

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.meta import ObjectMeta, Projection
from dynvol.api.mounts import UNFLUSHED, MountReport, Phase, WantedMount, encode
from dynvol.api.resources import PODS, Resource
from dynvol.controllers.status import container_runs
from dynvol.controllers.view import claim_uid_of, reported, told
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import AlreadyExists, Conflict, NotFound
from dynvol.mount.caches import Leftover
from dynvol.mount.held import Showing, Volume
from dynvol.mount.mountinfo import Mount
from dynvol.mount.paths import Removal
from dynvol.runtime.informer import Informer

from .tasks import owning

STATE = "/state"
_BASE = PurePosixPath(STATE, "xvols")


@dataclass
class Table:
    """`view.NodeMounts`, and kubelet's part in it: `publish` and `unpublish`."""

    mounts: dict[PurePosixPath, str] = field(default_factory=dict)
    directories: dict[PurePosixPath, set[str]] = field(default_factory=dict)
    """Root → the pods that have a directory in it."""
    published: set[PurePosixPath] = field(default_factory=set)
    """The pods' directories that kubelet shows to somebody."""
    living: set[PurePosixPath] = field(default_factory=set)
    """The roots in which a mount pod's clients live."""
    left: dict[PurePosixPath, tuple[Leftover, ...]] = field(default_factory=dict)
    """Cache directories, and what waits in them."""
    wrongs: list[str] = field(default_factory=list)
    handlers: list[Callable[[frozenset[tuple[PurePosixPath, str]]], None]] = field(default_factory=list)

    # --- What the controllers ask

    def source_at(self, path: PurePosixPath) -> str | None:
        return self.mounts.get(path)

    def below(self, root: PurePosixPath) -> dict[PurePosixPath, str]:
        return {path: source for path, source in self.mounts.items() if path.is_relative_to(root)}

    def is_root(self, path: PurePosixPath) -> bool:
        return path in self.directories

    def uuid_of(self, path: PurePosixPath) -> str | None:
        return path.relative_to(_BASE).parts[1]

    def pods_of_claim(self, claim_uid: str) -> frozenset[str]:
        return frozenset(p.relative_to(_BASE).parts[2] for p, source in self.mounts.items() if claim_uid_of(source) == claim_uid)

    def nameless(self, uuid: str) -> frozenset[str]:
        mine = (p.relative_to(_BASE).parts for p, source in self.mounts.items() if not claim_uid_of(source))
        return frozenset("/".join(below) for _, of, *below in mine if of == uuid)

    async def roots(self) -> dict[str, PurePosixPath]:
        return {root.name: root for root in self.directories}

    def on_change(self, handler: Callable[[frozenset[tuple[PurePosixPath, str]]], None]) -> None:
        self.handlers.append(handler)

    async def caches(self) -> dict[str, PurePosixPath]:
        return {cache.name: cache for cache in self.left}

    async def leftovers(self, cache: PurePosixPath) -> tuple[Leftover, ...]:
        return self.left.get(cache, ())

    # --- What the controllers do

    async def make_root(self, root: PurePosixPath) -> None:
        self.directories.setdefault(root, set())
        self._tell(root, "")

    async def release_cache(self, cache: PurePosixPath) -> list[str]:
        if self.left[cache]:
            return [f"{cache} holds something"]
        del self.left[cache]
        return []

    async def clear_dead(self, root: PurePosixPath) -> None:
        if root in self.living:
            self.wrongs.append(f"cleared {root} under a mount pod that lives")
        for path in self.below(root):
            self.unmount(path)

    async def release(self, root: PurePosixPath, *, keep: frozenset[str]) -> list[str]:
        pods = self.directories.get(root, set())
        stay = [str(root / pod) for pod in pods - keep if root / pod in self.published or self.below(root / pod)]
        if not stay and (pods - keep or not keep):
            self.directories[root] = pods & keep
            if not keep:
                self.directories.pop(root, None)
            self._tell(root, "")
        return stay

    # --- What the others on the node do

    def publish(self, root: PurePosixPath, pod_uid: str) -> None:
        self.directories.setdefault(root, set()).add(pod_uid)
        self.published.add(root / pod_uid)
        self._tell(root, "")

    def unpublish(self, pod_uid: str) -> None:
        self.published = {path for path in self.published if path.name != pod_uid}

    def mount(self, path: PurePosixPath, source: str) -> None:
        if not any(path.is_relative_to(root) for root in self.directories):
            self.wrongs.append(f"the root of {path} was taken away under a mount pod that lives")
        self.mounts[path] = source
        self._tell(path, source)

    def unmount(self, path: PurePosixPath) -> None:
        self._tell(path, self.mounts.pop(path))

    def _tell(self, path: PurePosixPath, source: str) -> None:
        for handler in self.handlers:
            handler(frozenset({(path, source)}))


class NoVolumes:
    """`NodeVolumes` of a node on which Kubernetes has mounted none."""

    def of_holder(self, pod_uid: str) -> Volume | None:
        return None

    def places(self, root: PurePosixPath) -> dict[PurePosixPath, Mount]:
        return {}

    def of_pod(self, pod_uid: str) -> dict[PurePosixPath, Mount]:
        return {}

    async def show(self, holder_uid: str, volume: Volume, showing: Showing) -> None:
        raise AssertionError("there is nothing to show")

    async def hide(self, workload_dir: str, mountpoint: str) -> Removal:
        raise AssertionError("nothing is shown")

    async def settle(self, holder_uid: str, volume: Volume, *, others: Sequence[Volume]) -> bool:
        raise AssertionError("nothing is held")

    async def dismiss(self, holder_uid: str) -> None:
        raise AssertionError("nothing is held")


class _Binding(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


class PlayedMountPods:
    """Scheduler, kubelet and mounter of the mount pods in one namespace that are pinned to one node."""

    def __init__(self, client: KubeClient, table: Table, *, node: str, namespace: str) -> None:
        self._client = client
        self._table = table
        self._node = node
        self.pods: Informer[Pod] = Informer(
            client.source(PODS, namespace=namespace, label_selector=f"{names.NODE_LABEL}={node}"), name="played-mount-pods"
        )
        self.pods.add_handler(self.poke)
        self._wake = asyncio.Event()
        self._whose: dict[PurePosixPath, str] = {}
        """Path → the claim's uid."""
        table.on_change(self.poke)
        self.flushing = False
        """What is no longer wanted stays mounted, and is said to be on its way out."""
        self.asleep = False
        """New mount pods are bound, and do not start."""
        self.deaf = False
        """Those that run do nothing at all."""
        self.offline = False
        """The storage is away: what waits on the disk goes on waiting."""

    def poke(self, _: object = None) -> None:
        self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[PlayedMountPods]:
        async with owning(self.pods.run(), self._run()):
            yield self

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for pod in self.pods.store.values():
                # Whatever changed meanwhile brings another turn.
                with suppress(NotFound, Conflict):
                    await self._step(pod)

    async def _step(self, pod: Pod) -> None:
        if not pod.spec.node_name:
            await self._bind(pod)
        elif pod.status.phase == "Failed":
            if pod.metadata.deleting:
                await self.end(pod)
        elif self.deaf:
            return
        elif pod.metadata.deleting and (self.asleep or names.RELEASE_ANNOTATION in pod.metadata.annotations or not told(pod)):
            await self._leave(pod)
        elif not container_runs(pod):
            # The root is a hostPath of type Directory: without it kubelet starts nothing.
            if not self.asleep and self.root(pod) in self._table.directories:
                await self._start(pod)
        else:
            await self._mount(pod)

    def root(self, pod: Pod) -> PurePosixPath:
        _, provider_class, _, _ = pod.metadata.annotations[names.WORKLOAD_ANNOTATION].split("/")
        return _BASE / provider_class / pod.metadata.labels[names.MOUNT_POD_LABEL]

    def cache(self, pod: Pod) -> PurePosixPath:
        root = self.root(pod)
        return PurePosixPath(STATE, "cache", root.parent.name, root.name)

    async def _bind(self, pod: Pod) -> None:
        binding = Resource("", "v1", f"pods/{pod.metadata.name}/binding", "Binding", True, _Binding)
        body = {"metadata": {"name": pod.metadata.name}, "target": {"apiVersion": "v1", "kind": "Node", "name": self._node}}
        with suppress(AlreadyExists):
            await self._client.create(binding, body, namespace=pod.metadata.namespace)

    async def _start(self, pod: Pod) -> None:
        self._table.living.add(self.root(pod))
        state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        container = {"name": "mounter", "ready": True, "restartCount": 0, "image": "i", "imageID": "i", "state": state}
        await self.say(pod, {"phase": "Running", "containerStatuses": [container]})

    async def say(self, pod: Pod, status: dict[str, object]) -> None:
        await self._client.merge_patch(
            PODS, pod.metadata.name, {"status": status}, namespace=pod.metadata.namespace, subresource="status"
        )

    async def _mount(self, pod: Pod) -> None:
        root = self.root(pod)
        wanted = {root / w.path: w for w in told(pod)}
        for path, source in self._table.below(root).items():
            if not self.flushing and (path not in wanted or wanted[path].source != source):
                self._table.unmount(path)
        for path, mount in wanted.items():
            if self._table.source_at(path) is None:
                self._whose[path] = mount.claim_uid
                self._table.mount(path, mount.source)
        if self._table.left.get(self.cache(pod)) and not self.offline:
            self._table.left[self.cache(pod)] = ()
        await self._report(pod, root, list(wanted.values()))

    async def _report(self, pod: Pod, root: PurePosixPath, wanted: Sequence[WantedMount]) -> None:
        reports = [_said(w.claim_uid, str(w.path), w.spec_hash, Phase.MOUNTED) for w in wanted]
        leaving = self._table.below(root).keys() - {root / w.path for w in wanted}
        reports += [_said(self._whose[path], str(path.relative_to(root)), "", Phase.UNMOUNTING) for path in leaving]
        told_already = {w.key for w in wanted}
        for left in self._table.left.get(self.cache(pod), ()):
            if left.mount.key not in told_already:
                said = _said(left.mount.claim_uid, left.mount.path, left.mount.spec_hash, Phase.UNMOUNTING)
                reports.append(msgspec.structs.replace(said, reason=UNFLUSHED))
        if list(reported(pod)) != sorted(reports, key=lambda r: (r.path, r.claim_uid)):
            body = {"metadata": {"annotations": {names.REPORT_ANNOTATION: encode(reports)}}}
            await self._client.merge_patch(PODS, pod.metadata.name, body, namespace=pod.metadata.namespace)

    async def _leave(self, pod: Pod) -> None:
        root = self.root(pod)
        for path in self._table.below(root):
            self._table.unmount(path)
        await self.end(pod)

    async def fail(self, pod: Pod) -> None:
        """Its containers have ended, as by an eviction. What they mounted is left behind."""
        self._table.living.discard(self.root(pod))
        await self.say(pod, {"phase": "Failed", "reason": "Evicted", "message": "low on memory"})

    async def end(self, pod: Pod) -> None:
        """The object goes. What is mounted now, is left behind."""
        self._table.living.discard(self.root(pod))
        meta = pod.metadata
        await self._client.delete(PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_seconds=0)


def _said(claim_uid: str, path: str, spec_hash: str, phase: Phase) -> MountReport:
    return MountReport(claim_uid=claim_uid, pod_uid=path.partition("/")[0], path=path, spec_hash=spec_hash, phase=phase)
