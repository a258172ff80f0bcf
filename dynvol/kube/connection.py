"""Requests go out to one API server, and bytes come back.

TLS and the connection pool are kubernetes_asyncio's; status codes, deadlines and errors are ours. Nothing is decoded here but
refusals, and nothing is tried again: back-off lives in `dynvol.runtime`'s queues and watchers.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeAlias

import aiohttp

from .. import __version__
from . import errors
from .credentials import Token

USER_AGENT: Final = f"dynvol/{__version__}"
"""What stands before the slash is the field manager of writes that name none."""

CONNECT_TIMEOUT: Final = 10.0
CALL: Final = aiohttp.ClientTimeout(total=30.0, sock_connect=CONNECT_TIMEOUT)
"""The API server itself gives up on a request after 60 seconds."""
DEAD_PEER: Final = 30
"""Seconds after which TCP gives up on a peer that is silent even to keep-alives: a lost node, a firewall that forgot us."""
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_PEER // 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_PEER // 6),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER * 1000),
)


Hold: TypeAlias = Callable[[], Awaitable[None]]


class RequestMetrics(Protocol):
    """What is counted. `code` is the HTTP status or `<error>`."""

    def observe(self, *, method: str, code: str, seconds: float) -> None: ...


class Unmeasured:
    def observe(self, *, method: str, code: str, seconds: float) -> None: ...


class Connection:
    """Made by `configuration.connect`, whose block it must not outlive."""

    def __init__(self, configuration: Any, transport: Any, token: Token, *, metrics: RequestMetrics) -> None:
        self._configuration = configuration
        self._transport = transport
        self._token = token
        self._metrics = metrics
        self.last_answer: float | None = None
        """When the server last said anything, refusals too, in `time.monotonic()`'s seconds."""

    @property
    def host(self) -> str:
        return str(self._configuration.host)

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: aiohttp.ClientTimeout = CALL,
        hold: Hold | None = None,
    ) -> AsyncIterator[Answer]:
        """The answer to a request, once its status is known to be 2xx. What is not read of it by the end of the block is dropped.

        Where `hold` is given, the body is sent when that returns. It is called once the server has decided that we may make the
        request: it asks for a body ("100 Continue") only then. Raises `ApiError` for any other status, `Unreachable` for none.
        """
        request = f"{method} {path}"
        headers = {"Accept": accept, "Content-Type": content_type}
        response = await self._send(request, query=query, body=body, headers=headers, timeout=timeout, hold=hold)
        answer = Answer(response, _Translation(request, host=self.host), self.heard)
        try:
            if not 200 <= response.status <= 299:
                raise await self._refusal(answer, request=request)
            yield answer
        finally:
            # Only what was read to its end may carry another request; aiohttp knows which is which.
            response.release()

    async def call(self, method: str, path: str, **options: Any) -> bytes:
        """The whole body of a 2xx answer. Raises and takes what `exchange` does."""
        async with self.exchange(method, path, **options) as answer:
            return await answer.read()

    def heard(self) -> None:
        """The server said something, on a watch for example."""
        self.last_answer = time.monotonic()

    async def _send(
        self,
        request: str,
        *,
        query: Mapping[str, str] | None,
        body: Any,
        headers: dict[str, str],
        timeout: aiohttp.ClientTimeout,
        hold: Hold | None,
    ) -> aiohttp.ClientResponse:
        method, path = request.split(" ", 1)
        started = time.monotonic()
        code = "<error>"
        try:
            with _Translation(request, host=self.host):
                headers |= await self._identity()
                if hold is not None:
                    response = await self._send_held(request, body=body, headers=headers, timeout=timeout, hold=hold)
                else:
                    response = await self._transport.request(
                        method,
                        self.host + path,
                        query_params=query,
                        headers=headers,
                        body=body,
                        _preload_content=False,
                        _request_timeout=timeout,
                    )
            code = str(response.status)
            self.heard()
            return response
        finally:
            self._metrics.observe(method=method, code=code, seconds=time.monotonic() - started)

    async def _send_held(
        self, request: str, *, body: Any, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout, hold: Hold
    ) -> aiohttp.ClientResponse:
        """Past kubernetes_asyncio, which knows no body that is not there yet, over its connections."""

        async def held() -> AsyncIterator[bytes]:
            await hold()
            yield json.dumps(body).encode()

        method, path = request.split(" ", 1)
        session: aiohttp.ClientSession = self._transport.pool_manager
        return await session.request(
            method,
            self.host + path,
            headers={**headers, "Expect": "100-continue"},
            data=held(),
            timeout=timeout,
            proxy=self._transport.proxy,
            proxy_headers=self._transport.proxy_headers,
            server_hostname=self._transport.server_hostname,
        )

    async def _identity(self) -> dict[str, str]:
        settings = await self._configuration.auth_settings()
        return {"User-Agent": USER_AGENT} | {s["key"]: s["value"] for s in settings.values()}

    async def _refusal(self, answer: Answer, *, request: str) -> errors.ApiError:
        if answer.status == 401:
            self._token.refused()
        return errors.from_answer(answer.status, await answer.read(), request=request, retry_after=answer.header("Retry-After"))


class Answer:
    """The body of a response. Reading raises `Unreachable` where the connection does not hold."""

    def __init__(self, response: aiohttp.ClientResponse, translation: _Translation, heard: Callable[[], None]) -> None:
        self._response = response
        self._translation = translation
        self._heard = heard

    @property
    def status(self) -> int:
        return self._response.status

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    async def read(self) -> bytes:
        with self._translation:
            return await self._response.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes in, cut anywhere."""
        while True:
            with self._translation:
                chunk = await self._response.content.readany()
            if not chunk:
                return
            self._heard()
            yield chunk

    def detect_dead_peer(self) -> None:
        """Lets a long read end soon after its peer is gone without a word; by itself TCP waits two hours before it asks."""
        transport = self._response.connection.transport if self._response.connection else None
        peer = transport.get_extra_info("socket") if transport else None
        if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6):
            for level, option, value in _KEEPALIVE:
                peer.setsockopt(level, option, value)


class _Translation:
    """Turns what the transport raises into `Unreachable`. Cancellation passes through."""

    def __init__(self, request: str, *, host: str) -> None:
        self._request = request
        self._host = host

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case TimeoutError():
                raise errors.Unreachable(f"{self._request}: no answer from {self._host} in time") from error
            case aiohttp.ClientError() | OSError():
                raise errors.Unreachable(f"{self._request}: {self._host} cannot be reached: {_why(error)}") from error


def _why(error: Exception) -> str:
    """The reason in words, without the addresses of objects and the tuples that the library's own text has."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as refused):
            return f"its certificate is not trusted: {refused.verify_message}"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError() | TimeoutError() as failed) if failed.errno:
            return os.strerror(failed.errno)
        case aiohttp.ClientConnectorError(os_error=failed):
            return failed.strerror or str(failed)
        case _:
            return str(error) or type(error).__name__
