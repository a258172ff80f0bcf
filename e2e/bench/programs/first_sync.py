"""The leader's cache of pods comes to know all of them: `… first_sync KUBECONFIG`."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path

from dynvol.api.resources import CLASSES
from dynvol.app.caches import leader_view
from dynvol.kube.client import KubeClient
from dynvol.runtime.informer import Informer
from e2e.bench.programs import READY, cpu_seconds, lines, most_memory, say, tell

BEAT = 0.001


class Heartbeat:
    """How long the event loop let it wait at most, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._beat(self._loop.time())

    def _beat(self, due: float) -> None:
        now = self._loop.time()
        self.longest = max(self.longest, now - due)
        self._loop.call_at(now + BEAT, self._beat, now + BEAT)


async def main(kubeconfig: Path) -> None:
    async with KubeClient.connect(kubeconfig) as client:
        informer = leader_view(client, classes=Informer(client.source(CLASSES), name="classes"), namespace="dynvol-system").pods
        gc.freeze()  # as the node process does
        say(READY)
        heartbeat, used, began = Heartbeat(), cpu_seconds(), time.perf_counter()
        running = asyncio.create_task(informer.run(), name="informer")
        await informer.synced()
        took = time.perf_counter() - began
        # The list is told within one step of the loop, whose end the heartbeat has yet to see.
        await asyncio.sleep(2 * BEAT)
        figures = {"seconds": took, "cpu": cpu_seconds() - used, "stall": heartbeat.longest, "memory": most_memory()}
        async for _ in lines():
            pass
        tell(**figures, objects=len(informer.store))
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
