"""What the API server passes on to a pod's kubelet: logs, and commands that run in its containers.

The kubelet's address and port are what its node says. The API server shows the administrator's certificate there and wants one of
the cluster's CA in return. A command's streams are WebSocket frames that go through untouched in both directions: what is in
them is between kubectl and the kubelet.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from multidict import MultiMapping

from e2e.cluster.apiserver import pki
from e2e.cluster.apiserver.request import Target, is_true
from e2e.cluster.apiserver.rest import Registry
from e2e.cluster.apiserver.status import ApiError, Object, bad_request, internal, unavailable
from e2e.cluster.apiserver.store import Key

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
LOG_OPTIONS = ("follow", "previous", "timestamps", "tailLines", "limitBytes", "sinceSeconds", "sinceTime")
STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
"""The API's names of the streams, and kubelet's own."""


class Kubelets:
    """The connections to kubelets, hence a context."""

    def __init__(self, registry: Registry, files: pki.Files) -> None:
        self._registry = registry
        self._trust = ssl.create_default_context(cafile=str(files.ca.certificate))
        # A node is found by its address, which its certificate need not name.
        self._trust.check_hostname = False
        self._trust.load_cert_chain(files.admin.certificate, files.admin.key)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._trust, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def log(self, request: web.Request, target: Target) -> web.StreamResponse:
        url = self._url(target, "containerLogs", request.query.get("container", ""))
        options = {name: request.query[name] for name in LOG_OPTIONS if name in request.query}
        try:
            async with self._session.get(url, params=options) as answer:
                if answer.status != 200:
                    text = (await answer.text()).strip()
                    raise ApiError(answer.status, "BadRequest" if answer.status == 400 else "InternalError", text)
                response = web.StreamResponse(headers={"Content-Type": "text/plain"})
                response.enable_chunked_encoding()
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientConnectionError as error:
            raise internal(f'Get "{url}": {error}') from error

    async def run(self, request: web.Request, target: Target) -> web.StreamResponse:
        """exec: two WebSockets, joined.

        Whatever else is wrong is said first: refused a WebSocket, kubectl tries another kind of stream, and tells of that alone.
        """
        url = self._url(target, "exec", request.query.get("container", ""))
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise bad_request("only WebSocket streams are served; use a kubectl of 1.31 or later")
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        try:
            async with self._session.ws_connect(
                url, params=_exec_options(request.query), protocols=[name for name in offered if name in PROTOCOLS], max_msg_size=0
            ) as behind:
                front = web.WebSocketResponse(protocols=(behind.protocol,) if behind.protocol else (), max_msg_size=0)
                await front.prepare(request)
                await _join(front, behind)
                return front
        except aiohttp.WSServerHandshakeError as error:
            raise ApiError(error.status, "InternalError", f"unable to upgrade connection: {error.message}") from error
        except aiohttp.ClientConnectionError as error:
            raise internal(f"error dialing backend: {error}") from error

    def _url(self, target: Target, action: str, container: str) -> str:
        pod = self._registry.get(target).object
        name = container or _only_container(pod)
        if name not in _container_names(pod):
            raise bad_request(f"container {name} is not valid for pod {target.name}")
        node_name = pod["spec"].get("nodeName")
        if not node_name:
            raise bad_request(f"pod {target.name} does not have a host assigned")
        host, port = self._address(node_name)
        return f"https://{host}:{port}/{action}/{target.namespace}/{target.name}/{name}"

    def _address(self, node_name: str) -> tuple[str, int]:
        node = self._registry.store.get(Key("/nodes", "", node_name))
        status: Object = (node.object.get("status") or {}) if node else {}
        addresses = {entry["type"]: entry["address"] for entry in status.get("addresses") or ()}
        address = addresses.get("InternalIP") or addresses.get("Hostname")
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
        if not address or not port:
            raise unavailable(f"node {node_name} does not say where its kubelet is")
        return address, port


def _exec_options(query: MultiMapping[str]) -> list[tuple[str, str]]:
    options = [("command", part) for part in query.getall("command", [])]
    for name, kubelets_name in STREAMS.items():
        if is_true(query.get(name, "")):
            options += dict.fromkeys([(name, "true"), (kubelets_name, "1")])
    return options


async def _join(front: web.WebSocketResponse, behind: aiohttp.ClientWebSocketResponse) -> None:
    """Pass frames on until the kubelet ends, or the client goes away."""

    async def to_kubelet() -> None:
        async for message in front:
            if message.type == aiohttp.WSMsgType.BINARY:
                await behind.send_bytes(message.data)
            elif message.type == aiohttp.WSMsgType.TEXT:
                await behind.send_str(message.data)
        await behind.close()

    async with asyncio.TaskGroup() as tasks:
        forward = tasks.create_task(to_kubelet(), name="exec: client to kubelet")
        with contextlib.suppress(ConnectionResetError):
            async for message in behind:
                if message.type == aiohttp.WSMsgType.BINARY:
                    await front.send_bytes(message.data)
                elif message.type == aiohttp.WSMsgType.TEXT:
                    await front.send_str(message.data)
            await front.close()
        forward.cancel()


def _container_names(pod: Object) -> list[str]:
    spec = pod["spec"]
    return [c["name"] for c in (*spec.get("containers", ()), *spec.get("initContainers", ()))]


def _only_container(pod: Object) -> str:
    names: Sequence[str] = [c["name"] for c in pod["spec"].get("containers") or ()]
    default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    if default in names:
        return str(default)
    if len(names) == 1:
        return names[0]
    listed = " ".join(names)
    inits = " ".join(c["name"] for c in pod["spec"].get("initContainers") or ())
    choice = f"choose one of: [{listed}]" + (f" or one of the init containers: [{inits}]" if inits else "")
    raise bad_request(f"a container name must be specified for pod {pod['metadata']['name']}, {choice}")
