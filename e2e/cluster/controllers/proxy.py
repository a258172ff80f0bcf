"""Service addresses, where these are loopback addresses: a listener for each, and a ready pod behind it.

What kube-proxy does in the kernel is done here by copying bytes. It is needed where a real kube-apiserver calls a webhook
by its Service; the local API server looks pods up by itself, and gives Services addresses that nobody listens on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import logging
from collections.abc import Iterable
from typing import ClassVar

from e2e.cluster.api import Key, Mirror, Object, key_of
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.endpoints import named_port
from e2e.cluster.controllers.selectors import matches

log = logging.getLogger(__name__)


class ServiceProxy:
    """Listens on `clusterIP:port` of every Service whose address is in 127.0.0.0/8. Only TCP; no session affinity."""

    watches: ClassVar = [("v1", "services")]

    def __init__(self, *, services: Mirror, all_pods: Mirror) -> None:
        self._services = services
        self._pods = all_pods
        self._servers: dict[tuple[Key, str, int], asyncio.Server] = {}
        self._turn = itertools.count()

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        return [key_of(obj)]

    async def reconcile(self, key: Key) -> float | None:
        service = self._services.get(*key)
        wanted = _listeners(key, service) if service else {}
        for known in [known for known in self._servers if known[0] == key and known not in wanted]:
            self._servers.pop(known).close()
        for listener, port in wanted.items():
            if listener not in self._servers:
                self._servers[listener] = await self._listen(key, listener[1], listener[2], port)
        return None

    async def _listen(self, key: Key, address: str, number: int, port: Object) -> asyncio.Server:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                await self._forward(key, port, reader, writer)

        return await asyncio.start_server(accepted, address, number)

    async def _forward(self, key: Key, port: Object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To one of the ready pods, in turn. Without one the connection is closed, as a refusal would be."""
        service = self._services.get(*key)
        members = [pod for pod in self._pods.in_namespace(key[0]) if service and _serves(service, pod)]
        if not members:
            return
        pod = members[next(self._turn) % len(members)]
        target = port.get("targetPort") or port["port"]
        number = target if isinstance(target, int) else named_port([pod], target)
        try:
            there, back = await asyncio.open_connection(pod["status"]["podIP"], number)
        except OSError as error:
            log.info("proxy: %s does not answer: %s", pod["metadata"]["name"], error)
            return
        with contextlib.closing(back):
            await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


def _listeners(key: Key, service: Object) -> dict[tuple[Key, str, int], Object]:
    address = service["spec"].get("clusterIP") or ""
    if not service["spec"].get("selector") or not _is_loopback(address):
        return {}
    ports = [port for port in service["spec"].get("ports") or () if port.get("protocol", "TCP") == "TCP"]
    return {(key, address, port["port"]): port for port in ports}


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _serves(service: Object, pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return matches({"matchLabels": service["spec"]["selector"]}, labels) and pods.is_ready(pod)
