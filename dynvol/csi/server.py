"""Both sockets of the node process that kubelet talks to, from entering to leaving."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from dynvol.api import names
from dynvol.rpc.calls import CallObserver, Service, unobserved
from dynvol.rpc.listener import UnixServer
from dynvol.rpc.operations import Operations

from .errors import CODES, NotServing
from .identity import IdentityService
from .node import NodeService, Targets
from .proto.csi import v1 as csi
from .registration import RegistrationService
from .requests import Node


def always() -> bool:
    return True


class CsiServer:
    """Serves CSI and kubelet's registration while it is entered.

    `drain` is in seconds, and is granted on leaving to each in turn: calls on the registration socket, calls on the CSI socket, and
    mount work whose caller has gone. `ready` is what Probe answers.
    """

    def __init__(
        self,
        targets: Targets,
        *,
        node: Node,
        version: str,
        ready: Callable[[], bool] = always,
        observer: CallObserver = unobserved,
        drain: float = 10.0,
    ) -> None:
        self.endpoint = Path(node.kubelet_dir, "plugins", names.DRIVER, "csi.sock")
        self._operations = Operations(grace=drain)
        self._registration = RegistrationService(endpoint=str(self.endpoint))
        services: list[Service] = [
            IdentityService(version=version, ready=ready),
            NodeService(targets, node=node, operations=self._operations),
            # A service that is not known at all is answered in a way that Go's clients report as Unknown: these say Unimplemented.
            csi.ControllerBase(),
            csi.GroupControllerBase(),
            csi.SnapshotMetadataBase(),
        ]
        self._csi = UnixServer(self.endpoint, services, codes=CODES, observer=observer, drain=drain)
        registry = Path(node.kubelet_dir, "plugins_registry", f"{names.DRIVER}-reg.sock")
        self._kubelet = UnixServer(registry, [self._registration], codes=CODES, observer=observer, drain=drain)

    async def __aenter__(self) -> Self:
        """1. Somewhere for work to run. 2. The CSI socket. 3. The registration socket, upon which kubelet calls the CSI socket.
        Left in the opposite order: kubelet forgets the driver first. Raises SocketInUse, SocketUnusable, OSError."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._operations)
            await stack.enter_async_context(self._csi)
            await stack.enter_async_context(self._kubelet)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._entered.__aexit__(kind, error, trace)

    async def check(self) -> None:
        """Raises NotServing if kubelet cannot, or does not yet, use the driver on this node. A matter of readiness: no restart
        would mend it."""
        for server in (self._csi, self._kubelet):
            if not await server.present():
                raise NotServing(f"{server.path} is not this process's socket any more; is there a second dynvol on this node?")
        if self._registration.problem:
            raise NotServing(self._registration.problem)
