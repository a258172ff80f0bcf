"""What the API server asks of a node: logs, exec, health. HTTPS, and only for clients that the cluster's CA has signed."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from e2e.cluster.kubelet import execution, logs
from e2e.cluster.kubelet.pods import Pods
from e2e.cluster.kubelet.runtime import Container, Runtime


class Server:
    def __init__(self, pods: Pods, runtime: Runtime) -> None:
        self._pods = pods
        self._runtime = runtime

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/pods", self._list)
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        application.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        return application

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _list(self, request: web.Request) -> web.Response:
        items = [worker.pod for worker in self._pods.workers.values() if worker.pod]
        return web.json_response({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        previous = request.query.get("previous") in {"true", "1"}
        container = self._container(request, previous=previous)
        wanted = logs.Wanted.of(dict(request.query))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        chunks = logs.read(Path(container.meta.log), wanted, ended=lambda: container.exit is not None)
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                await response.write(chunk)
        await response.write_eof()
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        container = self._container(request)
        if container.exit is not None:
            raise web.HTTPNotFound(text=f"container not found ({container.meta.name!r})")
        streams = execution.Streams.of(request.query)
        command = self._runtime.exec_command(container, request.query.getall("command", []), terminal=streams.tty)
        return await execution.serve(request, command, streams)

    def _container(self, request: web.Request, *, previous: bool = False) -> Container:
        namespace, pod, name = (request.match_info[part] for part in ("namespace", "pod", "container"))
        worker = self._pods.find(namespace, pod)
        if worker is None:
            raise web.HTTPNotFound(text=f"pod {pod!r} not found in namespace {namespace!r}")
        found = worker.previous(name) if previous else worker.current(name)
        if found is None:
            which = "previous terminated container" if previous else "container"
            raise web.HTTPBadRequest(text=f"{which} {name!r} in pod {pod!r} not found")
        return found


@contextlib.asynccontextmanager
async def serving(
    application: web.Application, *, address: str, port: int, certificate: Path, key: Path, ca: bytes
) -> AsyncIterator[None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca.decode())
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port, ssl_context=context, reuse_address=True).start()
        yield
    finally:
        await runner.cleanup()
