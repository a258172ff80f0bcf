"""The transport: TLS, who asks, may they, which form do they want; and watches, which are long answers.

It composes the other modules and holds none of the API's meaning. Each request is answered by one handler task of aiohttp; the
tasks that live as long as the server (expiry of events, CRDs coming and going) belong to its TaskGroup.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml
from aiohttp import web

from e2e.cluster.apiserver import bootstrap, builtin_types, cleanup, definitions, discovery, pki, protobuf, swagger, watch
from e2e.cluster.apiserver.admission import Admission, DefaultTolerations, NamespaceLifecycle, Priorities, ServiceAccounts
from e2e.cluster.apiserver.authn import ANONYMOUS, Tokens, from_certificate, impersonated
from e2e.cluster.apiserver.authz import Access, Authorizer, access_to
from e2e.cluster.apiserver.faults import ConnectionRefused, Faults
from e2e.cluster.apiserver.formats import Accepted, Rendering, accepted
from e2e.cluster.apiserver.kubelets import Kubelets
from e2e.cluster.apiserver.openapi import Documents
from e2e.cluster.apiserver.policies import Policies
from e2e.cluster.apiserver.request import Call, Target, User, call_options, is_true, resource_target, watch_timeout
from e2e.cluster.apiserver.resources import Catalog
from e2e.cluster.apiserver.rest import Registry, selection, storage_of
from e2e.cluster.apiserver.reviews import Reviews
from e2e.cluster.apiserver.selectors import Predicate
from e2e.cluster.apiserver.status import (
    ApiError,
    Object,
    bad_request,
    internal,
    method_not_allowed,
    no_such_path,
)
from e2e.cluster.apiserver.store import Change, Store
from e2e.cluster.apiserver.subresources import Subresources
from e2e.cluster.apiserver.types import Types
from e2e.cluster.apiserver.webhooks import Webhooks

VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.4-local", "platform": "linux/amd64"}
BOOKMARK_EVERY = 30.0
"""Seconds between bookmarks on a quiet watch; the real server's are about a minute apart."""

BODY_LIMIT = 3 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    files: pki.Files
    host: str = "127.0.0.1"
    port: int = 6443
    event_lifetime: float = 3600.0


class Server:
    def __init__(self, settings: Settings, store: Store) -> None:
        files = settings.files
        self._settings = settings
        self.store = store
        self.catalog = Catalog()
        self._types = Types(builtin_types.load(files.state / "types.json"), self.catalog)
        self.tokens = Tokens(store, signing_key=files.signing_key)
        self.authorizer = Authorizer(store)
        self.webhooks = Webhooks(store)
        own = (NamespaceLifecycle(store), ServiceAccounts(store), Priorities(store), DefaultTolerations())
        self.registry = Registry(store, self.catalog, Admission((*own, self.webhooks, Policies(store))), self._types)
        self.kubelets = Kubelets(self.registry, files)
        self._faults = Faults()
        self._documents = Documents(self.catalog, self._types)
        self._reviews = Reviews(self.authorizer, self.tokens)
        self._subresources = Subresources(self.registry, self.tokens)
        for entry in store.all(definitions.STORAGE):
            self.catalog.define(entry.key.name, definitions.resources_of(entry.object))
        store.observe(self._follow_definition)
        bootstrap.ensure(store, self.catalog, port=settings.port)

    def _follow_definition(self, change: Change) -> None:
        """The catalog follows the stored definitions at once: who has created one may use it."""
        if change.key.resource == definitions.STORAGE:
            served = definitions.resources_of(change.after.object) if change.after else ()
            self.catalog.define(change.key.name, served)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            if not request.path.startswith("/debug/"):
                await self._faults.strike(request.method, request.path)
            return await self._answer(request)
        except ConnectionRefused:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        except ApiError as error:
            return _json(error.body(), status=error.code, headers=error.headers)
        except asyncio.CancelledError:
            raise
        except ConnectionResetError:
            # Who asked has hung up, as watchers do. There is no one left to answer, and nothing to complain of.
            return web.Response(status=500)
        except Exception as error:
            request.app.logger.exception("request failed", extra={"method": request.method, "path": request.path})
            return _json(internal(str(error)).body(), status=500)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        user = self._user(request)
        query = dict(request.query)
        target = resource_target(self.catalog, method=request.method, path=request.rel_url.raw_path, query=query)
        if target is None:
            path = request.path
            self.authorizer.check(user, Access(verb=request.method.lower(), path=path))
            return await self._answer_path(request, path)
        self.authorizer.check(user, access_to(target))
        _ask_for_the_body(request)
        call = call_options(user, query, user_agent=request.headers.get("User-Agent", ""))
        return await self._answer_resource(request, target, call, query)

    def _user(self, request: web.Request) -> User:
        user = self._credentials(request)
        other = impersonated(list(request.headers.items()))
        if other is None:
            return user
        self.authorizer.check(user, Access(verb="impersonate", resource="users", name=other.name))
        return other

    def _credentials(self, request: web.Request) -> User:
        transport = request.transport
        if transport and (user := from_certificate(transport.get_extra_info("peercert"))):
            return user
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return self.tokens.user(token.strip()) if scheme.lower() == "bearer" else ANONYMOUS

    async def _answer_path(self, request: web.Request, path: str) -> web.StreamResponse:
        if path == "/openapi/v2" and swagger.ASKED in request.headers.get("Accept", ""):
            return web.Response(body=self._documents.swagger_protobuf(), headers={"Content-Type": swagger.MEDIA_TYPE})
        wanted = accepted(request.headers.get("Accept", ""))
        match path.strip("/").split("/"):
            case ["debug", action] if request.method == "POST":
                return await self._debug(request, action)
            case ["healthz" | "livez" | "readyz", *_]:
                return web.Response(text="ok")
            case ["openapi", "v2"]:
                return web.Response(body=self._documents.swagger(), content_type="application/json")
            case ["openapi", "v3"]:
                return _json(self._documents.index())
            case ["openapi", "v3", *place]:
                return self._openapi(place)
            case ["version"]:
                return _json(VERSION)
            case ["api" | "apis" as root] if wanted.kind == "APIGroupDiscoveryList":
                document = discovery.aggregated(self.catalog, core=root == "api")
                return _json(document, content_type=f"application/json;g={discovery.AGGREGATED};v=v2;as=APIGroupDiscoveryList")
            case ["api"]:
                return _json(discovery.core_versions(f"{self._settings.host}:{self._settings.port}"))
            case ["api", version] if version in self.catalog.versions(""):
                return _json(discovery.resource_list(self.catalog, "", version))
            case ["apis"]:
                return _json(discovery.group_list(self.catalog))
            case ["apis", group] if group in self.catalog.groups():
                return _json(discovery.group(self.catalog, group))
            case ["apis", group, version] if version in self.catalog.versions(group):
                return _json(discovery.resource_list(self.catalog, group, version))
            case [""]:
                return _json({"paths": ["/api", "/apis", "/healthz", "/openapi/v2", "/openapi/v3", "/version"]})
        raise no_such_path()

    async def _debug(self, request: web.Request, action: str) -> web.Response:
        match action:
            case "faults":
                return _json({"faults": self._faults.set(await request.read())})
            case "compact":
                self.store.compact()
            case "cut":
                self.store.cut_watches()
            case _:
                raise no_such_path()
        return _json({"version": self.store.version})

    def _openapi(self, place: list[str]) -> web.Response:
        match place:
            case ["api", version]:
                document = self._documents.of("", version)
            case ["apis", group, version]:
                document = self._documents.of(group, version)
            case _:
                document = b""
        if not document:
            raise no_such_path()
        # The address carries a hash of the content, so what is found there never changes.
        return web.Response(body=document, headers={"Content-Type": "application/json", "Cache-Control": "public, immutable"})

    async def _answer_resource(self, request: web.Request, target: Target, call: Call, query: dict[str, str]) -> web.StreamResponse:
        wanted = accepted(request.headers.get("Accept", ""))
        if target.subresource == "scale":
            return await self._answer_scale(request, target, call)
        match target.verb:
            case "create" if self._reviews.is_review(target):
                return _json(self._reviews.answer(target, call.user, await _body(request)), status=201)
            case "get" | "create" if target.subresource == "exec":
                await self.registry.admit_act(target, call, _exec_options(request), operation="CONNECT")
                return await self.kubelets.run(request, target)
            case "create" if target.subresource:
                return _json(await self._subresources.create(target, call, await _body(request)), status=201)
            case "get" if target.subresource == "log":
                return await self.kubelets.log(request, target)
            case "get":
                entry = self.registry.get(target)
                return _rendered(self._rendering(target, wanted, query).one(entry.object), wanted, call)
            case "list":
                return _rendered(self._listed(target, wanted, query), wanted, call)
            case "watch":
                return await self._watch(request, target, wanted, query)
            case "create":
                created = await self.registry.create(target, call, await _body(request))
                return self._written(target, wanted, query, call, created, status=201)
            case "update":
                changed = await self.registry.update(target, call, await _body(request))
                return self._written(target, wanted, query, call, changed)
            case "patch":
                was_there = self.store.get(self.registry.key(target)) is not None
                changed = await self.registry.patch(target, call, request.content_type, await request.read())
                return self._written(target, wanted, query, call, changed, status=200 if was_there else 201)
            case "delete":
                gone = await self.registry.delete(target, call, await _delete_options(request, query, call))
                if gone.get("kind") == "Status":
                    return _json(gone, headers=_warnings(call))
                return self._written(target, wanted, query, call, gone)
            case "deletecollection":
                options = await _delete_options(request, query, call)
                bodies = await self.registry.delete_collection(target, call, options, query)
                rendering = self._rendering(target, wanted, query)
                return _rendered(rendering.many(bodies, {"resourceVersion": str(self.store.version)}), wanted, call)
        raise method_not_allowed()

    async def _answer_scale(self, request: web.Request, target: Target, call: Call) -> web.Response:
        match target.verb:
            case "get":
                return _json(self._subresources.scale(target))
            case "update":
                return _json(await self._subresources.update_scale(target, call, await _body(request)))
            case "patch":
                raw = await request.read()
                return _json(await self._subresources.patch_scale(target, call, request.content_type, raw))
        raise method_not_allowed()

    def _rendering(self, target: Target, wanted: Accepted, query: Mapping[str, str]) -> Rendering:
        resource = target.resource

        def show(body: Object) -> bytes:
            return msgspec.json.encode(self.registry.convert(body, resource))

        return Rendering(resource, wanted, include=query.get("includeObject", ""), show=show)

    def _written(
        self, target: Target, wanted: Accepted, query: Mapping[str, str], call: Call, body: Object, *, status: int = 200
    ) -> web.Response:
        return _rendered(self._rendering(target, wanted, query).one(body), wanted, call, status=status)

    def _listed(self, target: Target, wanted: Accepted, query: Mapping[str, str]) -> bytes:
        page = self.registry.page(target, query)
        meta: Object = {"resourceVersion": str(page.version)}
        if page.continue_token:
            meta["continue"] = page.continue_token
        if page.remaining:
            meta["remainingItemCount"] = page.remaining
        return self._rendering(target, wanted, query).many((entry.object for entry in page.entries), meta)

    async def _watch(self, request: web.Request, target: Target, wanted: Accepted, query: dict[str, str]) -> web.StreamResponse:
        selects = selection(target, query)
        rendering = self._rendering(target, wanted, query)
        bookmarks = is_true(query.get("allowWatchBookmarks", ""))
        with watch.begin(self.store, storage_of(target.resource), target.namespace, query) as start:
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"})
            await response.prepare(request)
            for entry in start.initial:
                if selects(entry.object):
                    await response.write(rendering.event("ADDED", entry.object))
            if start.announces_end:
                end = watch.bookmark(target.resource, start.version, initial_end=True)
                await response.write(rendering.event("BOOKMARK", end))
            deadline = asyncio.get_running_loop().time() + watch_timeout(query)
            async for line in self._watch_lines(start, target, selects, rendering, deadline=deadline, bookmarks=bookmarks):
                await response.write(line)
        with contextlib.suppress(ConnectionResetError):
            await response.write_eof()
        return response

    async def _watch_lines(
        self,
        start: watch.Start,
        target: Target,
        selects: Predicate,
        rendering: Rendering,
        *,
        deadline: float,
        bookmarks: bool,
    ) -> AsyncIterator[bytes]:
        """Events as they come, and a bookmark whenever nothing has come for a while."""
        loop = asyncio.get_running_loop()
        seen = start.version
        while (now := loop.time()) < deadline:
            try:
                async with asyncio.timeout_at(min(deadline, now + BOOKMARK_EVERY)):
                    change = await start.changes.next()
            except TimeoutError:
                # Only a watcher that has been told everything may resume from the present version.
                if bookmarks and start.changes.is_drained:
                    seen = max(seen, self.store.version)
                    yield rendering.event("BOOKMARK", watch.bookmark(target.resource, seen))
                continue
            if change is None:
                return
            seen = change.version
            if event := watch.event_of(change, selects):
                yield rendering.event(event.type, event.entry.object)


async def _expected_later(_: web.Request) -> None:
    """A client that waits to be asked for its body ("Expect: 100-continue") is asked once it is known that it may."""


def _ask_for_the_body(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _body(request: web.Request) -> Object:
    raw = await request.read()
    if request.content_type == protobuf.MEDIA_TYPE:
        return protobuf.decode(raw)
    try:
        content: Any = yaml.safe_load(raw) if "yaml" in request.content_type else msgspec.json.decode(raw)
    except (yaml.YAMLError, msgspec.DecodeError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error
    if not isinstance(content, dict):
        raise bad_request("the object provided is unrecognized (must be of type Object)")
    return content


def _exec_options(request: web.Request) -> Object:
    """What is asked of the container, as admission sees it."""
    streams = {name: is_true(request.query.get(name, "")) for name in ("stdin", "stdout", "stderr", "tty")}
    options: Object = {name: True for name, wanted in streams.items() if wanted}
    options |= {"container": request.query.get("container", ""), "command": request.query.getall("command", [])}
    return {"kind": "PodExecOptions", "apiVersion": "v1", **options}


async def _delete_options(request: web.Request, query: Mapping[str, str], call: Call) -> Object:
    options = await _body(request) if request.can_read_body else {}
    if (seconds := query.get("gracePeriodSeconds")) is not None:
        options["gracePeriodSeconds"] = int(seconds)
    if policy := query.get("propagationPolicy"):
        options["propagationPolicy"] = policy
    if options.get("dryRun"):
        call.dry_run = True
    return options


def _warnings(call: Call) -> dict[str, str]:
    return {"Warning": ", ".join(f'299 - "{_quoted(text)}"' for text in call.warnings)} if call.warnings else {}


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _rendered(body: bytes, wanted: Accepted, call: Call, *, status: int = 200) -> web.Response:
    content_type = "application/json"
    if wanted.is_yaml:
        body, content_type = yaml.safe_dump(msgspec.json.decode(body)).encode(), "application/yaml"
    return web.Response(body=body, status=status, headers={"Content-Type": content_type, **_warnings(call)})


def _json(
    body: Object, *, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str = "application/json"
) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, headers={"Content-Type": content_type, **(headers or {})})


def tls(files: pki.Files) -> ssl.SSLContext:
    """Client certificates are asked for, and verified when given; tokens do without."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca.certificate))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(files.server.certificate, files.server.key)
    return context


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Serve until the block is left."""
    store = Store(settings.files.database)
    try:
        server = Server(settings, store)
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", server.handle, expect_handler=_expected_later)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, ssl_context=tls(settings.files), reuse_address=True)
            await site.start()
            async with server.webhooks, server.kubelets, asyncio.TaskGroup() as tasks:
                own = [
                    tasks.create_task(
                        cleanup.expire_events(server.registry, lifetime=settings.event_lifetime), name="expire events"
                    ),
                    tasks.create_task(cleanup.finish_definitions(server.registry), name="finish definitions"),
                ]
                try:
                    yield server
                finally:
                    for task in own:
                        task.cancel()
        finally:
            store.cut_watches()
            await runner.cleanup()
    finally:
        store.close()
