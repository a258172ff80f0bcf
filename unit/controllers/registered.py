"""An API server without a network: the registry of the local cluster's server, reached by calling it.

It has all that a server has for objects (versions, patches, server-side apply, finalizers, schemas, watches), and nothing that
takes real time. So a whole world runs in virtual time, and the same way each time. TLS, authentication and admission are not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml

from dynvol.kube.connection import USER_AGENT, Answer, Connection
from dynvol.kube.errors import from_answer
from e2e.cluster.apiserver import builtin_types, definitions, watch
from e2e.cluster.apiserver.admission import Admission
from e2e.cluster.apiserver.authn import Tokens
from e2e.cluster.apiserver.formats import Rendering, accepted
from e2e.cluster.apiserver.request import Target, User, call_options, resource_target, watch_timeout
from e2e.cluster.apiserver.resources import Catalog
from e2e.cluster.apiserver.rest import Registry, selection, storage_of
from e2e.cluster.apiserver.status import ApiError
from e2e.cluster.apiserver.store import Store
from e2e.cluster.apiserver.subresources import Subresources
from e2e.cluster.apiserver.types import Types

_ADMIN = User(name="admin", groups=("system:masters",))


class Schemas:
    """What is the same for every registry, and takes a moment to read."""

    def __init__(self, directory: Path, cache: Path) -> None:
        """The definitions in `directory`, beside the built-in kinds, which are kept in the file `cache`."""
        self.catalog = Catalog()
        for file in sorted(directory.glob("*.yaml")):
            for manifest in yaml.safe_load_all(file.read_text()):
                if manifest.get("kind") == "CustomResourceDefinition":
                    self.catalog.define(manifest["metadata"]["name"], definitions.resources_of(manifest))
        self.types = Types(builtin_types.load(cache), self.catalog)


class Registered:
    """`kube.Connection`, as far as clients and sources use it."""

    host = "the registry"
    last_answer: float | None = None

    def __init__(self, schemas: Schemas) -> None:
        self._catalog = schemas.catalog
        self._store = Store(":memory:")
        self._registry = Registry(self._store, schemas.catalog, Admission(()), schemas.types)
        # Of its subresources only the binding of pods is wanted, which asks no tokens.
        self._subresources = Subresources(self._registry, cast(Tokens, None))

    def close(self) -> None:
        self._store.close()

    def connection(self) -> Connection:
        return cast(Connection, self)

    def objects(self, resource: str) -> list[dict[str, Any]]:
        """All that is stored of a resource, named "group/plural"."""
        return [entry.object for entry in self._store.all(resource)]

    async def call(self, method: str, path: str, **options: Any) -> bytes:
        async with self.exchange(method, path, **options) as answer:
            return await answer.read()

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
        timeout: object = None,
    ) -> AsyncIterator[Answer]:
        # A request takes a turn of the loop, as one that goes through a network would: others may come in between.
        await asyncio.sleep(0)
        given = dict(query or {})
        try:
            target = resource_target(self._catalog, method=method, path=path, query=given)
            assert target is not None, path
            if target.verb == "watch":
                async with self._watched(target, given, accept) as answer:
                    yield cast(Answer, answer)
                return
            rendering = self._rendering(target, given, accept)
            found = await self._answered(target, given, msgspec.json.encode(body), content_type, rendering)
        except ApiError as error:
            raise from_answer(error.code, msgspec.json.encode(error.body()), request=f"{method} {path}") from error
        yield cast(Answer, _Whole(found))

    async def _answered(self, target: Target, query: dict[str, str], body: bytes, content_type: str, rendering: Rendering) -> bytes:
        call = call_options(_ADMIN, query, user_agent=USER_AGENT)
        match target.verb:
            case "get":
                return rendering.one(self._registry.get(target).object)
            case "list":
                page = self._registry.page(target, query)
                meta: dict[str, Any] = {"resourceVersion": str(page.version), "continue": page.continue_token}
                return rendering.many((entry.object for entry in page.entries), meta)
            case "create" if target.subresource:
                return msgspec.json.encode(await self._subresources.create(target, call, msgspec.json.decode(body)))
            case "create":
                return rendering.one(await self._registry.create(target, call, msgspec.json.decode(body)))
            case "patch":
                return rendering.one(await self._registry.patch(target, call, content_type, body))
            case "delete":
                return msgspec.json.encode(await self._registry.delete(target, call, msgspec.json.decode(body) or {}))
        raise AssertionError(f"{target.verb} is not wanted here")

    def _rendering(self, target: Target, query: dict[str, str], accept: str) -> Rendering:
        def show(body: dict[str, Any]) -> bytes:
            return msgspec.json.encode(self._registry.convert(body, target.resource))

        return Rendering(target.resource, accepted(accept), include=query.get("includeObject", ""), show=show)

    @asynccontextmanager
    async def _watched(self, target: Target, query: dict[str, str], accept: str) -> AsyncIterator[_Stream]:
        with watch.begin(self._store, storage_of(target.resource), target.namespace, query) as start:
            yield _Stream(start, target, query, self._rendering(target, query, accept))


class _Whole:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self) -> bytes:
        return self._body


class _Stream:
    """The lines of one watch."""

    def __init__(self, start: watch.Start, target: Target, query: dict[str, str], rendering: Rendering) -> None:
        self._start = start
        self._target = target
        self._query = query
        self._rendering = rendering

    def detect_dead_peer(self) -> None:
        """There is no peer."""

    async def chunks(self) -> AsyncIterator[bytes]:
        selects = selection(self._target, self._query)
        for entry in self._start.initial:
            if selects(entry.object):
                yield self._rendering.event("ADDED", entry.object)
        if self._start.announces_end:
            end = watch.bookmark(self._target.resource, self._start.version, initial_end=True)
            yield self._rendering.event("BOOKMARK", end)
        deadline = asyncio.get_running_loop().time() + watch_timeout(self._query)
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    change = await self._start.changes.next()
            except TimeoutError:
                return
            if change is None:
                return
            if event := watch.event_of(change, selects):
                yield self._rendering.event(event.type, event.entry.object)
