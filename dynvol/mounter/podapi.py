"""What the mounter asks of the Kubernetes API: its own pod, changes of it, and to write one annotation of it.

A client library would weigh more than the mounter. The token is read anew for each request, since kubelet replaces it.
Nothing here retries; `feed` does.

PodApiProblem (Exception)
├── Denied         the API server does not know our account, or grants it nothing
├── Expired        the version to watch from is too old: read the pod again
├── PodGone        there is no such pod (any more), or it is another one of that name
└── Refused        any other answer that is no success
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from . import http

_T = TypeVar("_T")

_WATCH_SECONDS: Final = 300
_REQUEST_SECONDS: Final = 30.0
_LONGEST_EVENT: Final = 4 << 20
_SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


class PodApiProblem(Exception):
    """The API answered, and not with what was asked for."""


class Denied(PodApiProblem): ...


class Expired(PodApiProblem): ...


class PodGone(PodApiProblem): ...


class Refused(PodApiProblem): ...


class Server(msgspec.Struct, frozen=True):
    """Where the API is and how to be known there."""

    host: str
    port: int
    tls: bool
    ca_file: str
    token_file: str

    @classmethod
    def of(cls, url: str, *, ca_file: str, token_file: str) -> Server:
        """From `https://host:port` (or http, for tests). Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL of an API server")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, ca_file, token_file)

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str]) -> Server:
        """From what kubelet puts into every pod. Raises ValueError outside of one."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ValueError("KUBERNETES_SERVICE_HOST is not set: run this in a pod, or give --api-server")
        return cls(host, int(port), True, f"{_SERVICE_ACCOUNT}/ca.crt", f"{_SERVICE_ACCOUNT}/token")


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    uid: str = ""
    resource_version: str = ""
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None


class Pod(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a pod that the mounter reads."""

    metadata: Metadata = Metadata()


Known: TypeAlias = tuple[Pod, str]
"""The pod, and the version to watch from."""


class _Pods(msgspec.Struct, frozen=True):
    items: list[Pod]
    metadata: Metadata = Metadata()


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Cause(msgspec.Struct, frozen=True):
    field: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: tuple[_Cause, ...] = ()


class _Status(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""
    details: _Details = _Details()

    @property
    def is_of_namesake(self) -> bool:
        """Whether a patch was refused because the pod has another uid than the one that it names, and for nothing else."""
        causes = self.details.causes
        return bool(causes) and all(cause.field == "metadata.uid" for cause in causes)


_pods: Final = msgspec.json.Decoder(_Pods)
_pod: Final = msgspec.json.Decoder(Pod)
_event: Final = msgspec.json.Decoder(_Event)
_status: Final = msgspec.json.Decoder(_Status)


class PodApi:
    """All calls raise `PodApiProblem`, `http.HttpProblem` and TimeoutError."""

    def __init__(self, server: Server, *, namespace: str, name: str) -> None:
        self._server: Final = server
        self._collection: Final = f"/api/v1/namespaces/{quote(namespace)}/pods"
        self._name: Final = quote(name)
        self._tls: ssl.SSLContext | None = None

    async def read(self) -> Known:
        async with asyncio.timeout(_REQUEST_SECONDS), self._exchange("GET", f"{self._collection}?{self._selector}") as answer:
            pods = _decode(_pods, _accept(answer.head.status, await answer.read()))
        if not pods.items:
            raise PodGone("the API has no pod of this name")
        return pods.items[0], pods.metadata.resource_version

    async def watch(self, version: str) -> AsyncGenerator[Pod, None]:
        """The pod each time it changes, until the server ends the watch, which it does every five minutes."""
        target = f"{self._collection}?{self._selector}&watch=true&resourceVersion={quote(version)}&timeoutSeconds={_WATCH_SECONDS}"
        async with asyncio.timeout(_WATCH_SECONDS + _REQUEST_SECONDS), self._exchange("GET", target) as answer:
            if answer.head.status != 200:
                _accept(answer.head.status, await answer.read())
            async for line in _lines(answer):
                if (pod := _changed(_decode(_event, line))) is not None:
                    yield pod

    async def annotate(self, annotations: Mapping[str, str], *, uid: str) -> None:
        """Set annotations of the pod, if it is still the one with that uid."""
        body = msgspec.json.encode({"metadata": {"uid": uid, "annotations": annotations}})
        async with (
            asyncio.timeout(_REQUEST_SECONDS),
            self._exchange("PATCH", f"{self._collection}/{self._name}", body=body) as answer,
        ):
            _accept(answer.head.status, await answer.read())

    @property
    def _selector(self) -> str:
        return f"fieldSelector=metadata.name%3D{self._name}"

    @contextlib.asynccontextmanager
    async def _exchange(self, method: str, target: str, *, body: bytes = b"") -> AsyncIterator[http.Exchange]:
        server = self._server
        headers = {"host": f"{server.host}:{server.port}", "accept": "application/json", "user-agent": "dynvol-mounter"}
        if token := _read(server.token_file):
            headers["authorization"] = f"Bearer {token}"
        if body:
            headers["content-type"] = "application/merge-patch+json"
        if server.tls and self._tls is None:
            self._tls = http.trust(server.ca_file)
        connection = http.exchange(
            method, host=server.host, port=server.port, target=target, headers=headers, body=body, tls=self._tls
        )
        async with connection as exchange:
            yield exchange


def _changed(event: _Event) -> Pod | None:
    match event.type:
        case "ADDED" | "MODIFIED":
            return _decode(_pod, event.object)
        case "DELETED":
            raise PodGone("the pod was deleted")
        case "ERROR":
            status = _decode(_status, event.object)
            raise Expired(status.message) if status.code == 410 else Refused(f"{status.code}: {status.message}")
    return None


async def _lines(answer: http.Exchange) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in answer.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_EVENT:
            raise http.Garbled("an event of the watch is too long")
        for line in lines:
            if line.strip():
                yield line


def _accept(status: int, body: bytes) -> bytes:
    if 200 <= status < 300:
        return body
    try:
        said = _status.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = _Status(message="no reason given")
    match status:
        case 401 | 403:
            raise Denied(said.message)
        case 404:
            raise PodGone(said.message)
        case 422 if said.is_of_namesake:
            raise PodGone(said.message)
        case 410:
            raise Expired(said.message)
    raise Refused(f"HTTP status {status}: {said.message}")


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes | msgspec.Raw) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise http.Garbled(f"the API server's answer: {error}") from error


def _read(path: str) -> str:
    if not path or not os.path.exists(path):
        return ""
    with open(path, encoding="ascii") as file:
        return file.read().strip()
