"""A controller of dynvol's runtime answers each object by a status patch: `… widgets_reconciled KUBECONFIG NAMESPACE`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from dynvol.api.meta import ObjectMeta, Projection
from dynvol.api.resources import Resource
from dynvol.kube.client import KubeClient
from dynvol.runtime.controller import DONE, Controller, Result
from dynvol.runtime.informer import Informer
from e2e.bench.programs import READY, cpu_seconds, lines, say, tell
from e2e.bench.programs.raw import AT_ONCE, GROUP, PLURAL, VERSION


class Status(Projection, frozen=True):
    seen: bool = False


class Widget(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    status: Status = Status()


WIDGETS = Resource(GROUP, VERSION, PLURAL, "Widget", True, Widget)


async def main(kubeconfig: Path, namespace: str) -> None:
    handled: dict[str, float] = {}
    async with KubeClient.connect(kubeconfig) as client:
        widgets = Informer(client.source(WIDGETS, namespace=namespace), name="widgets")

        async def reconcile(key: str) -> Result:
            widget = widgets.store.get(key)
            if widget is None or widget.status.seen:
                return DONE
            handled.setdefault(widget.metadata.name, time.monotonic())
            await client.merge_patch(
                WIDGETS, widget.metadata.name, {"status": {"seen": True}}, namespace=namespace, subresource="status"
            )
            return DONE

        controller = Controller("widgets", reconcile, workers=AT_ONCE)
        controller.watch(widgets, lambda widget: [widget.metadata.key])
        running = [asyncio.create_task(work, name="work") for work in (widgets.run(), controller.run())]
        await widgets.synced()
        say(READY)
        used = cpu_seconds()
        async for _ in lines():
            pass
        tell(cpu=cpu_seconds() - used, handled=handled)
        for task in running:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
