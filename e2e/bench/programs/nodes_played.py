"""What runs on many nodes, but for mounts: `… nodes_played KUBECONFIG FIRST COUNT`.

Informers, controllers and leader election are those of the node process, wired as there, each node with connections of its own.
Kernel, kubelet and mount pods are played: they report at once what they are told to mount. To each line of input it answers what
all its nodes have asked and heard so far.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path, PurePosixPath

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.app.caches import holder_pods, leader_view, node_view
from dynvol.controllers.claimreport import ClaimReporter
from dynvol.controllers.claimstatus import ClaimStatusController
from dynvol.controllers.desired import workloads
from dynvol.controllers.externalvolume import ExternalVolumeController
from dynvol.controllers.held.volumes import HeldVolumes
from dynvol.controllers.mountpod import MountPodController
from dynvol.controllers.mountpodspec import Installation
from dynvol.controllers.view import Instruments, NodeView
from dynvol.kube.client import KubeClient
from dynvol.kube.events import EventRecorder
from dynvol.kube.lease import ApiLeaseLock
from dynvol.observe.metrics import Metrics
from dynvol.runtime.leader import LeaderElector
from dynvol.runtime.metrics import Unmeasured
from dynvol.runtime.store import Change
from e2e.bench.programs import READY, cpu_seconds, lines, say, tell
from e2e.bench.scene import DRIVER, node_name
from unit.controllers.node_played import STATE, NoVolumes, PlayedMountPods, Table


class Counted(Unmeasured):
    """Requests by method, and events of watches, of all nodes together."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.events = 0

    def observe(self, *, method: str, code: str, seconds: float) -> None:
        self.requests[method] += 1

    def event(self, name: str, kind: str) -> None:
        self.events += kind != "bookmark"


@asynccontextmanager
async def node(name: str, kubeconfig: Path, stage: KubeClient, counted: Counted) -> AsyncIterator[NodeView]:
    """One, until the block ends. What is played goes through `stage`, and is not counted."""
    table = Table()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(KubeClient.connect(kubeconfig, metrics=counted))
        recorder = await stack.enter_async_context(EventRecorder(client, component="dynvol", instance=name))
        view = node_view(client, table, node=name, namespace=DRIVER, state_dir=STATE, metrics=counted)

        def publish(change: Change[Pod]) -> None:
            """Kubelet's part."""
            if change.old is None and change.new is not None:
                for workload in workloads(change.new):
                    table.publish(PurePosixPath(str(workload.root(STATE))), change.new.metadata.uid)

        view.pods.add_handler(publish)
        await stack.enter_async_context(PlayedMountPods(stage, table, node=name, namespace=DRIVER).running())
        instruments = Instruments()
        held = HeldVolumes(view, holder_pods(client, node=name, metrics=counted), NoVolumes())
        reporter = ClaimReporter(
            view, client=client, recorder=recorder, instruments=instruments, metrics=Metrics(process="node").mounts, held=held
        )
        installation = Installation(DRIVER, "image", STATE)
        volumes = ExternalVolumeController(
            view, client=client, installation=installation, reporter=reporter, instruments=instruments
        )
        mount_pods = MountPodController(view, client=client, instruments=instruments)

        async def lead() -> None:
            sight = leader_view(client, classes=view.classes, namespace=DRIVER, metrics=counted)
            claims = ClaimStatusController(sight, client=client, instruments=instruments)
            async with asyncio.TaskGroup() as tasks:
                for informer in (sight.claims, sight.pods, sight.mount_pods, sight.nodes):
                    tasks.create_task(informer.run(), name=f"informer-{informer.name}")
                tasks.create_task(claims.run(), name="claim-status")

        elector = LeaderElector(
            ApiLeaseLock(client, namespace=DRIVER, name=names.LEADER_LEASE), name=names.LEADER_LEASE, identity=name
        )
        caches = (view.pods, view.mount_pods, view.claims, view.classes, view.nodes, held.holders)
        work = (*(cache.run() for cache in caches), reporter.run(), volumes.run(), mount_pods.run(), elector.run(lead))
        running = [asyncio.create_task(each, name=name) for each in work]
        try:
            for cache in caches:
                await cache.synced()
            yield view
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def main(kubeconfig: Path, first: int, count: int) -> None:
    counted = Counted()
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(KubeClient.connect(kubeconfig))
        for number in range(first, first + count):
            await stack.enter_async_context(node(node_name(number), kubeconfig, stage, counted))
        gc.freeze()
        say(READY)
        async for _ in lines():
            tell(requests=counted.requests, events=counted.events, cpu=cpu_seconds())
        tell()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
