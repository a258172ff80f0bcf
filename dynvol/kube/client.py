"""Single calls to the API server: typed in, typed out, typed errors.

What is read is a projection, so there is no replace: writes are creations, patches and server-side applies. Nothing is
tried again in here. A call that failed with an error whose `retryable` is true may be made again, by whoever has a queue
with back-off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from ..api.resources import Resource
from ..runtime.source import ObjectT, Source
from . import errors
from .configuration import connect
from .connection import Connection, RequestMetrics
from .decoding import decode_object, decode_page
from .source import LIST_TIMEOUT, ApiSource, list_query, selectors

T = TypeVar("T")
Body: TypeAlias = Mapping[str, Any] | msgspec.Struct
Operations: TypeAlias = Sequence[Mapping[str, Any]]

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
"""JSON is YAML, and is what is sent."""

PAGE: Final = 500
PING: Final = aiohttp.ClientTimeout(total=2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A JSON patch of one object."""

    resource: Resource[Any]
    name: str
    namespace: str = ""
    operations: Operations


class KubeClient:
    """Made by `KubeClient.connect`, whose block it must not outlive. All calls raise `KubeError` and may be cancelled.

    A cancelled write may have taken effect.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path | None = None, *, metrics: RequestMetrics | None = None) -> AsyncIterator[KubeClient]:
        """As `kubeconfig` says, or as the pod's service account. Raises `ConfigurationError`."""
        async with connect(kubeconfig, metrics=metrics) as connection:
            yield cls(connection)

    @property
    def host(self) -> str:
        """The API server's URL."""
        return self._connection.host

    async def get(self, resource: Resource[T], name: str, *, namespace: str = "") -> T:
        """`NotFound` where there is none."""
        return await self._send("GET", object_path(resource, name, namespace=namespace), resource)

    async def list(
        self, resource: Resource[ObjectT], *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> tuple[ObjectT, ...]:
        """All of a collection that is known to be small, as it is now. What is large or wanted again is an informer's."""
        path = collection_path(resource, namespace=namespace)
        chosen = selectors(label_selector=label_selector, field_selector=field_selector)
        items: list[ObjectT] = []
        token = ""
        while True:
            query = chosen | list_query(resource_version="", limit=PAGE, continue_token=token)
            body = await self._connection.call("GET", path, query=query, timeout=LIST_TIMEOUT)
            with _fitting(f"GET {path}"):
                page = decode_page(body, resource)
            items += page.items
            token = page.continue_token
            if not token:
                return tuple(items)

    async def create(self, resource: Resource[T], body: Body, *, namespace: str = "") -> T:
        """`AlreadyExists` where there is one of that name. `apiVersion` and `kind` are filled in."""
        path = collection_path(resource, namespace=_namespace(resource, namespace))
        return await self._send("POST", path, resource, body=_manifest(resource, body))

    async def delete(
        self,
        resource: Resource[Any],
        name: str,
        *,
        namespace: str = "",
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
        propagation: str | None = None,
    ) -> None:
        """Asks for the object's deletion; finalizers and grace may keep it for a while.

        `NotFound` where it is gone already, `Conflict` where it is not the one of that `uid` or not at that `resource_version`.
        """
        preconditions = _given(uid=uid, resourceVersion=resource_version)
        options = _given(
            apiVersion="v1",
            kind="DeleteOptions",
            preconditions=preconditions or None,
            gracePeriodSeconds=grace_seconds,
            propagationPolicy=propagation,
        )
        await self._connection.call("DELETE", object_path(resource, name, namespace=namespace), body=options)

    async def json_patch(
        self,
        resource: Resource[T],
        name: str,
        operations: Operations,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> T:
        """RFC 6902: all or nothing. `Invalid` where a `test` fails or a path is missing; the server does not say which."""
        path = object_path(resource, name, namespace=namespace, subresource=subresource)
        return await self._send("PATCH", path, resource, body=operations, content_type=JSON_PATCH)

    async def patch_together(self, patches: Sequence[Patch]) -> None:
        """JSON patches of several objects, of which none is carried out before the server has let all of them in.

        For those that take away what we may do the others by. Where one is refused, none is carried out, and its error is
        raised; but one that fails later, for what is in it, does not keep the others.
        """
        if not patches:
            return
        all_in = asyncio.Barrier(len(patches))

        async def hold() -> None:
            await all_in.wait()

        async def send(patch: Patch) -> None:
            path = object_path(patch.resource, patch.name, namespace=patch.namespace)
            try:
                await self._connection.call("PATCH", path, body=patch.operations, content_type=JSON_PATCH, hold=hold)
            except BaseException:
                # Whoever still waits gives up; nobody does once all are in.
                await all_in.abort()
                raise

        outcomes = await asyncio.gather(*(send(patch) for patch in patches), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        # One that was refused says more than those that it broke off.
        if failure := min(failures, key=lambda f: not isinstance(f, errors.ApiError), default=None):
            raise failure

    async def merge_patch(self, resource: Resource[T], name: str, body: Body, *, namespace: str = "", subresource: str = "") -> T:
        """RFC 7386: null removes. With `metadata.resourceVersion` in the body, `Conflict` where that is no longer the version."""
        path = object_path(resource, name, namespace=namespace, subresource=subresource)
        return await self._send("PATCH", path, resource, body=body, content_type=MERGE_PATCH)

    async def apply(
        self,
        resource: Resource[T],
        name: str,
        body: Body,
        *,
        field_manager: str,
        namespace: str = "",
        subresource: str = "",
        force: bool = True,
    ) -> T:
        """Server-side apply: `body` is all that `field_manager` wants to own; what it owned and leaves out now is removed.

        Makes the object where there is none, but not through a subresource (`NotFound`). With `force`, fields that others
        own change hands; without it that is a `Conflict`.
        """
        path = object_path(resource, name, namespace=namespace, subresource=subresource)
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        return await self._send(
            "PATCH", path, resource, query=query, body=_manifest(resource, body, name=name), content_type=APPLY_PATCH
        )

    def source(
        self,
        resource: Resource[ObjectT],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> Source[ObjectT]:
        """For an informer. With `metadata_only`, everything but `metadata` is as if it were empty, and is not sent."""
        return ApiSource(
            self._connection,
            resource,
            collection_path(resource, namespace=namespace),
            label_selector=label_selector,
            field_selector=field_selector,
            metadata_only=metadata_only,
        )

    async def ping(self, *, within: float = 0.0) -> None:
        """Returns if the server answers, or has said anything in the last `within` seconds. Raises `KubeError` within two
        seconds.

        A refusal (401, 403) is an error here: it is an answer, but no work gets done.
        """
        last = self._connection.last_answer
        if last is None or time.monotonic() - last > within:
            await self._connection.call("GET", "/version", timeout=PING)

    async def _send(
        self,
        method: str,
        path: str,
        resource: Resource[T],
        *,
        query: Mapping[str, str] | None = None,
        body: Body | Operations | None = None,
        content_type: str = "application/json",
    ) -> T:
        plain = None if body is None else msgspec.to_builtins(body)
        answer = await self._connection.call(method, path, query=query, body=plain, content_type=content_type)
        with _fitting(f"{method} {path}"):
            return decode_object(answer, resource)


def collection_path(resource: Resource[Any], *, namespace: str = "") -> str:
    """Where a resource's objects are listed: those of `namespace`, or of all if that is empty."""
    root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
    if namespace and not resource.namespaced:
        raise ValueError(f"{resource.plural} are not namespaced")
    return f"{root}/namespaces/{quote(namespace, safe='')}/{resource.plural}" if namespace else f"{root}/{resource.plural}"


def object_path(resource: Resource[Any], name: str, *, namespace: str = "", subresource: str = "") -> str:
    """Where one object is. An empty name is refused: it would be the path of all of them, and a DELETE there deletes them all."""
    if not name:
        raise ValueError(f"a {resource.kind} without a name")
    path = f"{collection_path(resource, namespace=_namespace(resource, namespace))}/{quote(name, safe='')}"
    return f"{path}/{subresource}" if subresource else path


def _namespace(resource: Resource[Any], namespace: str) -> str:
    if resource.namespaced and not namespace:
        raise ValueError(f"a {resource.kind} needs a namespace")
    return namespace


def _manifest(resource: Resource[Any], body: Body, *, name: str = "") -> dict[str, Any]:
    """`body` with what the server wants to see in every object: apiVersion, kind and, for an apply, the name."""
    manifest: dict[str, Any] = {"apiVersion": resource.api_version, "kind": resource.kind} | msgspec.to_builtins(body)
    if name:
        manifest["metadata"] = {"name": name} | manifest.get("metadata", {})
    return manifest


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@contextmanager
def _fitting(request: str) -> Iterator[None]:
    try:
        yield
    except msgspec.DecodeError as error:
        raise errors.Malformed(f"{request}: the answer is not what dynvol expects of it: {error}") from error
