"""Takes the startup taint off this node once its pods can be served.

A new node takes pods before the driver runs on it; those that carry a dynamic volume wait in ContainerCreating until it does.
Whoever makes nodes can keep pods away until then, by making nodes with this taint. It is watched for as long as the process runs,
since a node that registers anew brings it back.

Nothing here ever puts it on: a node whose node process is away keeps its pods, whose mounts go on working.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from dynvol.api import names
from dynvol.api.core import Node
from dynvol.api.resources import NODES
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import Conflict, Invalid, NotFound
from dynvol.observe import logs
from dynvol.observe.health import Report
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result

from .view import Instruments, NodeView

log = logs.get(__name__)

AGAIN: Final = RequeueAfter(1.0)


class StartupTaintController:
    """`readiness` says whether the process can do its work: that kubelet has registered the driver is part of it."""

    def __init__(
        self, view: NodeView, *, client: KubeClient, readiness: Callable[[], Awaitable[Report]], instruments: Instruments
    ) -> None:
        self._view = view
        self._client = client
        self._readiness = readiness
        self.controller: Final[Controller] = instruments.controller("startup-taint", self.reconcile, workers=1)
        self.controller.watch(view.nodes, lambda node: [node.metadata.name])

    async def run(self) -> None:
        await self.controller.run()

    async def reconcile(self, name: str) -> Result:
        node = self._view.nodes.store.get(name)
        operations = removal(node) if node is not None else ()
        if not operations:
            return DONE
        if not (await self._readiness()).well:
            return AGAIN
        try:
            await self._client.json_patch(NODES, name, operations)
        except (Conflict, Invalid):
            return AGAIN  # Others taint nodes too: the places have changed.
        except NotFound:
            return DONE
        log.info("this node is ready for dynamic volumes: took its startup taint off", node=name)
        return DONE


def removal(node: Node) -> Sequence[dict[str, Any]]:
    """JSON patch operations, each tested, that take off the startup taint with all its effects; none if it is not there.

    From the last to the first, since each removal moves those behind it.
    """
    found = [i for i, taint in enumerate(node.spec.taints) if taint.key == names.STARTUP_TAINT]
    return [operation for i in reversed(found) for operation in _tested(f"/spec/taints/{i}")]


def _tested(path: str) -> Sequence[dict[str, Any]]:
    return ({"op": "test", "path": f"{path}/key", "value": names.STARTUP_TAINT}, {"op": "remove", "path": path})
