"""The node process: everything that runs once per node, wired together.

Started in this order, and stopped in the opposite one: the port for probes and metrics, so that what follows can be watched; the
CSI sockets, since a pod's start must wait neither for the API server nor for a cache; the caches; the controllers; the leader's
work. Losing the lead ends the leader's work and nothing else: this process has a node to serve. All of it goes on for a while
after SIGTERM where that is the end of dynvol itself (`dynvol.controllers.farewell`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from dynvol import __version__
from dynvol.api import names
from dynvol.api.resources import PODS
from dynvol.controllers.claimreport import ClaimReporter
from dynvol.controllers.claimstatus import ClaimStatusController
from dynvol.controllers.externalvolume import ExternalVolumeController
from dynvol.controllers.farewell import Farewell
from dynvol.controllers.held.holders import HolderController
from dynvol.controllers.held.nodevolumes import KernelVolumes
from dynvol.controllers.held.showing import ShowingController
from dynvol.controllers.held.volumes import HeldVolumes
from dynvol.controllers.mountpod import MountPodController
from dynvol.controllers.mountpodspec import Installation
from dynvol.controllers.nodemounts import KernelMounts
from dynvol.controllers.providerclass import ProviderClassController
from dynvol.controllers.removal import RemovalController
from dynvol.controllers.startuptaint import StartupTaintController
from dynvol.controllers.view import Instruments, NodeView
from dynvol.csi.kernel import KernelTargets
from dynvol.csi.requests import Node as NodeIdentity
from dynvol.csi.server import CsiServer
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import KubeError
from dynvol.kube.events import EventRecorder
from dynvol.kube.lease import ApiLeaseLock
from dynvol.mount import paths
from dynvol.mount.executor import MountExecutor
from dynvol.mount.watch import MountWatcher
from dynvol.observe import logs
from dynvol.observe.health import Health, holds
from dynvol.observe.metrics import Metrics
from dynvol.observe.server import serve
from dynvol.runtime.errors import LeadershipLost
from dynvol.runtime.leader import LeaderElector
from dynvol.webhook.rules.classes import review_class

from . import memory
from .caches import holder_pods, leader_view, node_view

log = logs.get(__name__)

HELD_THREADS: Final = 8
"""For volumes that Kubernetes mounts. Their servers may be silent, and must not keep threads that kubelet's calls need."""
IMAGE_RETRY: Final = 2.0
"""Seconds between questions for our own image while the API server is away."""
HEARD_LATELY: Final = 20.0
"""Seconds for which an answer of the API server shows that it is there. A candidate for the lead looks at the lease more often, so
that readiness probes need not ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """`mounter_image` empty: the image that this process itself runs. `listen` is host and port."""

    node_name: str
    pod_name: str
    namespace: str
    kubelet_dir: str
    state_dir: str
    listen: tuple[str, int]
    kubeconfig: Path | None = None
    mounter_image: str = ""


def main(*, listen: str, kubeconfig: str, **given: str) -> int:
    """The command line's `dynvol node`; returns the exit status."""
    host, _, port = listen.rpartition(":")
    settings = NodeSettings(listen=(host.strip("[]"), int(port)), kubeconfig=Path(kubeconfig) if kubeconfig else None, **given)
    memory.keep_less()
    asyncio.run(run(settings))
    return 0


async def run(settings: NodeSettings) -> None:
    """Until SIGTERM or SIGINT. Raises what ends the process: a task that failed, a socket that is taken."""
    # What was imported stays. The collector need not look through it again, 10 ms and more each time, in which nothing else runs.
    gc.freeze()
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    process = _NodeProcess(settings)
    work = asyncio.create_task(process.run(), name="node")
    stop = asyncio.create_task(process.may_stop(stopping), name="stop")
    await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


class _Runs(Protocol):
    async def run(self) -> None: ...


class _NodeProcess:
    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._metrics = Metrics(process="node")
        self._health = Health()
        self._instruments = Instruments(self._metrics.controllers, self._metrics.queues)
        self._farewell: Farewell | None = None

    async def may_stop(self, told: asyncio.Event) -> None:
        """Returns when the process has been told to stop, and nothing needs it any more."""
        await told.wait()
        if self._farewell is not None:
            await self._farewell.wait()

    async def run(self) -> None:
        """The order is the module's."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            host, port = settings.listen
            await stack.enter_async_context(serve(host, port, health=self._health, metrics=self._metrics))
            executor = await stack.enter_async_context(MountExecutor())
            watcher = await stack.enter_async_context(MountWatcher())
            os.makedirs(settings.state_dir, mode=0o755, exist_ok=True)
            state_dir = paths.canonical(settings.state_dir)
            csi = await stack.enter_async_context(self._csi(executor, state_dir=state_dir))
            client = await stack.enter_async_context(KubeClient.connect(settings.kubeconfig, metrics=self._metrics.requests))
            self._farewell = Farewell(client, pod_name=settings.pod_name, namespace=settings.namespace)
            recorder = await stack.enter_async_context(EventRecorder(client, component="dynvol", instance=settings.node_name))
            mounts = KernelMounts(state_dir, watcher=watcher, executor=executor)
            view = node_view(
                client,
                mounts,
                node=settings.node_name,
                namespace=settings.namespace,
                state_dir=state_dir,
                metrics=self._metrics.informers,
            )
            volumes = KernelVolumes(
                state_dir,
                kubelet_dir=settings.kubelet_dir,
                watcher=watcher,
                executor=await stack.enter_async_context(MountExecutor(threads=HELD_THREADS)),
            )
            held = HeldVolumes(view, holder_pods(client, node=settings.node_name, metrics=self._metrics.informers), volumes)
            self._check(csi, client, view)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._metrics.watch_loop(), name="event-loop-lag")
                for informer in (view.pods, view.mount_pods, view.claims, view.classes, view.nodes, held.holders):
                    tasks.create_task(informer.run(), name=f"informer-{informer.name}")
                installation = Installation(settings.namespace, await self._image(client), state_dir)
                self._start_controllers(tasks, held, client, recorder, installation)
                tasks.create_task(mounts.run(), name="mount-table")
                tasks.create_task(self._campaign(view, client, recorder, self._farewell), name="leader-election")

    def _csi(self, executor: MountExecutor, *, state_dir: str) -> CsiServer:
        settings = self._settings
        identity = NodeIdentity(settings.node_name, PurePosixPath(settings.kubelet_dir), PurePosixPath(state_dir))
        return CsiServer(KernelTargets(executor), node=identity, version=__version__, observer=self._metrics.csi)

    async def _image(self, client: KubeClient) -> str:
        """What mount pods run: the same image as this process, unless told otherwise."""
        if self._settings.mounter_image:
            return self._settings.mounter_image
        while True:
            try:
                own = await client.get(PODS, self._settings.pod_name, namespace=self._settings.namespace)
                return own.spec.containers[0].image
            except KubeError as error:
                log.warning("cannot learn which image mount pods are to run", error=str(error))
                await asyncio.sleep(IMAGE_RETRY)

    def _check(self, csi: CsiServer, client: KubeClient, view: NodeView) -> None:
        ready = self._health.ready
        ready.add("csi", csi.check)
        ready.add("api-server", functools.partial(client.ping, within=HEARD_LATELY))
        for informer in (view.pods, view.mount_pods, view.claims, view.classes):
            ready.add(f"cache-{informer.name}", holds(lambda i=informer: i.has_synced, "has not synced yet"))  # type: ignore[misc]

    def _start_controllers(
        self, tasks: asyncio.TaskGroup, held: HeldVolumes, client: KubeClient, recorder: EventRecorder, installation: Installation
    ) -> None:
        instruments = self._instruments
        view = held.view
        reporter = ClaimReporter(
            view, client=client, recorder=recorder, instruments=instruments, metrics=self._metrics.mounts, held=held
        )
        volumes = ExternalVolumeController(
            view, client=client, installation=installation, reporter=reporter, instruments=instruments
        )
        mount_pods = MountPodController(view, client=client, instruments=instruments)
        taint = StartupTaintController(view, client=client, readiness=self._health.ready.report, instruments=instruments)
        self._metrics.mounts.states(mounts=reporter.phases, mount_pods=lambda: len(view.mount_pods.store))
        holders = HolderController(held, client=client, image=installation.image, instruments=instruments)
        showing = ShowingController(held, client=client, reporter=reporter, instruments=instruments)
        running: Sequence[tuple[str, _Runs]] = (
            ("claim-report", reporter),
            ("external-volume", volumes),
            ("mount-pod", mount_pods),
            ("holder", holders),
            ("showing", showing),
            ("startup-taint", taint),
        )
        for name, work in running:
            tasks.create_task(work.run(), name=name)

    # --- The leader

    async def _campaign(self, view: NodeView, client: KubeClient, recorder: EventRecorder, farewell: Farewell) -> None:
        """A candidate for ever; each term begins with caches of its own.

        The identity is the node's, so that a process which comes after one that was killed need not wait for its lease to run
        out. No two can share it: whoever gets here holds this node's CSI socket, which one that lives does not give away.
        """
        lock = ApiLeaseLock(client, namespace=self._settings.namespace, name=names.LEADER_LEASE)
        while True:
            elector = LeaderElector(
                lock,
                name=names.LEADER_LEASE,
                identity=self._settings.node_name,
                overrun=_end_on_the_spot,
                metrics=self._metrics,
            )
            try:
                await elector.run(lambda: self._lead(view, client, recorder, farewell))
            except LeadershipLost as lost:
                log.warning("no longer the leader", why=str(lost))

    async def _lead(self, view: NodeView, client: KubeClient, recorder: EventRecorder, farewell: Farewell) -> None:
        log.info("leading")
        sight = leader_view(client, classes=view.classes, namespace=self._settings.namespace, metrics=self._metrics.informers)
        claims = ClaimStatusController(sight, client=client, instruments=self._instruments)
        removal = RemovalController(
            sight, client=client, namespace=self._settings.namespace, farewell=farewell, instruments=self._instruments
        )
        classes = ProviderClassController(
            sight,
            client=client,
            recorder=recorder,
            assess=review_class,
            is_removal=removal.is_under_way,
            instruments=self._instruments,
        )
        async with asyncio.TaskGroup() as tasks:
            for informer in (sight.claims, sight.pods, sight.mount_pods, sight.nodes):
                tasks.create_task(informer.run(), name=f"informer-{informer.name}")
            tasks.create_task(claims.run(), name="claim-status")
            tasks.create_task(classes.run(), name="storage-provider-class")
            tasks.create_task(removal.run(), name="removal")


def _end_on_the_spot() -> None:
    """The leader's work did not stop while it could still be sure of the lead: two must not decide at once."""
    os._exit(70)
