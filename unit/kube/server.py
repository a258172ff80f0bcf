"""An API server's edge that says what a test wants: real HTTP, real TLS, no opinion on Kubernetes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from e2e.grounds.pki import Authority

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Script:
    """What is answered, request by request; the last answer stays."""

    answers: list[Answer] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server goes; answers that hang should wait for it."""

    def then(self, answer: Answer) -> Script:
        self.answers.append(answer)
        return self

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(Seen(request.method, request.path, dict(request.query), dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)


def says(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON document, or bytes as they are."""

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=data, status=status, headers={"Content-Type": "application/json", **(headers or {})})

    return answer


def refuses(code: int, reason: str = "", message: str = "", **more: Any) -> Answer:
    """A metav1.Status."""
    headers = more.pop("headers", None)
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}
    return says(status | more, status=code, headers=headers)


def streams(*chunks: bytes, then: Callable[[web.BaseRequest], Awaitable[None]] | None = None) -> Answer:
    """Chunks as they are cut, then whatever `then` waits for, then the end."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then:
            await then(request)
        return response

    return answer


async def breaks_off(request: web.BaseRequest) -> None:
    """Ends the connection without the end of the body, as a proxy or a dying server does."""
    assert request.transport is not None
    request.transport.abort()


def line(type_: str, object_: Any) -> bytes:
    """One event of a watch."""
    return json.dumps({"type": type_, "object": object_}).encode() + b"\n"


def pod(name: str = "web", *, version: str = "1", namespace: str = "ns", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": version}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {}}


@asynccontextmanager
async def serving(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Gives the server's URL."""
    runner = web.ServerRunner(web.Server(script.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        script.closing.set()
        await runner.cleanup()


def server_context(authority: Authority, directory: Path, *, client_certificates: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.server("127.0.0.1", "localhost").write(directory, "server"))
    if client_certificates:
        context.load_verify_locations(cadata=authority.certificate.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def kubeconfig(path: Path, url: str, *, user: Mapping[str, Any] | None = None, cluster: Mapping[str, Any] | None = None) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, **(cluster or {})}}],
        "users": [{"name": "u", "user": dict(user or {})}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path
