"""A small Kubernetes client for the local cluster's own parts: the kubelet, the controllers, the tests.

It exists so that the cluster is not judged by the client that it is built to prove: nothing of `dynvol` is imported
here. Objects are plain dictionaries. It does not validate, cache discovery, or retry writes; a `Mirror` is the one
thing that retries, because a reflector must.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import random
import ssl
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from dynvol.kube.nesting import shallow

log = logging.getLogger(__name__)

Object = dict[str, Any]
Key = tuple[str, str]

_PATCH_TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ApiError(Exception):
    """The API server refused: `code` is the HTTP status, `reason` the machine-readable word of the Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message


def path(group_version: str, resource: str, *, namespace: str = "", name: str = "", sub: str = "") -> str:
    """The URL path of a resource: `path("apps/v1", "deployments", namespace="default")`."""
    base = f"/api/{group_version}" if group_version == "v1" else f"/apis/{group_version}"
    parts = [base]
    if namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (resource, name, sub) if part]
    return "/".join(parts)


def key_of(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


class ApiClient:
    """One connection pool to one API server, authenticated as the kubeconfig's current user."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        context = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
        cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
        user = next(u["user"] for u in config["users"] if u["name"] == context["user"])
        self.server: str = cluster["server"].rstrip("/")
        self.ca_data = _material(cluster, "certificate-authority", beside=kubeconfig)
        self._ssl = ssl.create_default_context(cadata=self.ca_data.decode())
        self._load_client_certificate(user, beside=kubeconfig)
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._session: aiohttp.ClientSession | None = None

    def _load_client_certificate(self, user: Object, *, beside: Path) -> None:
        certificate = _material(user, "client-certificate", beside=beside)
        if not certificate:
            return
        with tempfile.NamedTemporaryFile(prefix="client-", suffix=".pem") as both:
            both.write(certificate + b"\n" + _material(user, "client-key", beside=beside))
            both.flush()
            self._ssl.load_cert_chain(both.name)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=0),
            headers=self._headers,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=30),
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, url: str, **params: str) -> Object:
        return await self._send("GET", url, params=params)

    async def create(self, url: str, body: Object) -> Object:
        return await self._send("POST", url, body=body)

    async def update(self, url: str, body: Object) -> Object:
        return await self._send("PUT", url, body=body)

    async def patch(self, url: str, body: Any, *, kind: str = "merge", **params: str) -> Object:
        return await self._send("PATCH", url, body=body, content_type=_PATCH_TYPES[kind], params=params)

    async def delete(self, url: str, body: Object | None = None) -> Object:
        return await self._send("DELETE", url, body=body)

    async def list(self, url: str, **params: str) -> list[Object]:
        return list((await self.get(url, **params)).get("items") or [])

    async def text(self, url: str, **params: str) -> str:
        """A body that is not JSON: a pod's log, `/metrics`, `/healthz`."""
        async with self._open.get(self.server + url, params=params) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiError(response.status, response.reason or "", text)
            return text

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "used outside its async with"
        return self._session

    async def _send(
        self,
        method: str,
        url: str,
        *,
        body: Any = None,
        content_type: str = "application/json",
        params: dict[str, str] | None = None,
    ) -> Object:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        async with self._open.request(method, self.server + url, data=data, headers=headers, params=params or {}) as response:
            payload = await response.read()
            return _decoded(response.status, payload)

    async def watch(self, url: str, *, version: str, **params: str) -> AsyncGenerator[tuple[str, Object], None]:
        """Events after `version`, until the server ends the watch. An ERROR event is raised as ApiError."""
        query = {**params, "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        query["timeoutSeconds"] = str(random.randint(300, 600))
        timeout = aiohttp.ClientTimeout(total=None, sock_read=660)
        async with self._open.get(self.server + url, params=query, timeout=timeout) as response:
            if response.status >= 400:
                _decoded(response.status, await response.read())
            buffer = b""
            async for chunk in response.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = _parsed(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                    yield event["type"], event["object"]


def _material(section: Object, field: str, *, beside: Path) -> bytes:
    """A certificate or key of a kubeconfig: inline in base64, or a file relative to the kubeconfig."""
    if inline := section.get(f"{field}-data"):
        return base64.b64decode(inline)
    named = section.get(field)
    return (beside.parent / named).read_bytes() if named else b""


def _parsed(document: bytes) -> Object:
    """What lies deeper than Python can go is nothing that anybody here reads."""
    try:
        parsed: Object = json.loads(document)
    except RecursionError:
        parsed = json.loads(shallow(document))
    return parsed


def _decoded(status: int, payload: bytes) -> Object:
    try:
        body: Object = _parsed(payload) if payload else {}
    except ValueError:
        body = {"message": payload.decode(errors="replace")}
    if status >= 400:
        raise ApiError(status, body.get("reason", ""), body.get("message", ""))
    return body


Listener = Callable[[str, Object], None]


class Mirror:
    """A local copy of one resource, kept by list and watch. Objects in it must not be changed.

    Listeners hear (type, object) after the store has changed. After an interrupted watch they hear of every object
    again: they enqueue, and never count.
    """

    def __init__(self, api: ApiClient, url: str, **params: str) -> None:
        self._api = api
        self._url = url
        self._params = params
        self._listeners: list[Listener] = []
        self.objects: dict[Key, Object] = {}
        self.synced = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def get(self, namespace: str, name: str) -> Object | None:
        return self.objects.get((namespace, name))

    def in_namespace(self, namespace: str) -> list[Object]:
        return [obj for (where, _), obj in self.objects.items() if where == namespace]

    async def run(self) -> None:
        """List and watch for ever; a lost server is waited for with back-off of 0.2 s to 3 s."""
        delay = 0.2
        while True:
            try:
                version = await self._relist()
                delay = 0.2
                await self._follow(version)
            except ApiError as error:
                log.info("mirror: relist url=%s because=%s", self._url, error)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                log.info("mirror: lost url=%s error=%r", self._url, error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, 3.0)

    async def _relist(self) -> str:
        body = await self._api.get(self._url, **self._params)
        fresh = {key_of(obj): obj for obj in body.get("items") or []}
        alive = {obj["metadata"]["uid"] for obj in fresh.values()}
        gone = [obj for obj in self.objects.values() if obj["metadata"]["uid"] not in alive]
        self.objects = fresh
        for obj in gone:
            self._tell("DELETED", obj)
        for obj in list(fresh.values()):
            self._tell("ADDED", obj)
        self.synced.set()
        return str(body["metadata"]["resourceVersion"])

    async def _follow(self, version: str) -> None:
        """Watch from `version`; a clean end of the watch goes on from the last version seen, without a list."""
        while True:
            async with contextlib.aclosing(self._api.watch(self._url, version=version, **self._params)) as events:
                quiet = True
                async for kind, obj in events:
                    quiet = False
                    version = obj["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        self._store(kind, obj)
            if quiet:
                await asyncio.sleep(0.2)

    def _store(self, kind: str, obj: Object) -> None:
        if kind == "DELETED":
            self.objects.pop(key_of(obj), None)
        else:
            self.objects[key_of(obj)] = obj
        self._tell(kind, obj)

    def _tell(self, kind: str, obj: Object) -> None:
        for listener in self._listeners:
            try:
                listener(kind, obj)
            except Exception:
                log.exception("mirror: a listener failed url=%s", self._url)
