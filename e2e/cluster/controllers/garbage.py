"""Garbage collection: dependents of owners that are gone, and the two finalizers by which owners wait.

The graph is made of every resource that can be watched, custom ones too. An owner that the graph does not know is asked
for at the API server before anything is deleted: a graph that is behind must not cost anyone an object.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

from e2e.cluster.api import ApiClient, ApiError, Object, path
from e2e.cluster.controllers.loop import Mirrors, Queue, delete_if_there, fetch
from e2e.cluster.controllers.resources import Resource, Resources

log = logging.getLogger(__name__)

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
SETTLE = 1.0  # seconds after a CRD has changed: by then the API server serves its objects
_NEVER_OWNED = {"events", "componentstatuses"}


@dataclass(frozen=True, slots=True)
class _Node:
    """An object of the graph."""

    resource: Resource
    obj: Object

    @property
    def uid(self) -> str:
        return str(self.obj["metadata"]["uid"])

    @property
    def owners(self) -> list[Object]:
        return self.obj["metadata"].get("ownerReferences") or []

    @property
    def url(self) -> str:
        metadata = self.obj["metadata"]
        namespace = metadata.get("namespace", "") if self.resource.namespaced else ""
        return path(self.resource.group_version, self.resource.name, namespace=namespace, name=metadata["name"])

    def waits_by(self, finalizer: str) -> bool:
        metadata = self.obj["metadata"]
        return "deletionTimestamp" in metadata and finalizer in (metadata.get("finalizers") or ())


class GarbageCollector:
    def __init__(self, api: ApiClient, mirrors: Mirrors, *, resources: Resources) -> None:
        self._api = api
        self._resources = resources
        self._mirrors = mirrors
        self._nodes: dict[str, _Node] = {}
        self._dependents: dict[str, set[str]] = defaultdict(set)
        self._kinds: dict[tuple[str, str], Resource] = {}
        self._queue = Queue()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._discover(), name="gc discovery")
            while True:
                _, uid = await self._queue.next()
                try:
                    await self._look(uid)
                except (ApiError, aiohttp.ClientError, OSError, TimeoutError) as error:
                    log.info("gc: again uid=%s because=%s", uid, error)
                    self._queue.add_after(("", uid), 0.5)

    async def _discover(self) -> None:
        while True:
            try:
                for resource in await self._resources.known():
                    self._follow(resource)
                await self._resources.changed.wait()
            except (ApiError, aiohttp.ClientError, OSError, TimeoutError) as error:
                log.info("gc: no discovery because=%s", error)
            await asyncio.sleep(SETTLE)

    def _follow(self, resource: Resource) -> None:
        key = (resource.group_version, resource.kind)
        if key in self._kinds or "watch" not in resource.verbs or resource.name in _NEVER_OWNED:
            return
        self._kinds[key] = resource
        mirror = self._mirrors.of(resource.group_version, resource.name)
        mirror.listen(lambda kind, obj: self._hear(resource, kind, obj))
        for obj in list(mirror.objects.values()):
            self._hear(resource, "ADDED", obj)

    def _hear(self, resource: Resource, kind: str, obj: Object) -> None:
        """Keep the graph, and look at the object itself, at those it owns, and at those that may wait for it."""
        node = _Node(resource, obj)
        for owner in self._owners_before(node.uid):
            self._dependents[owner].discard(node.uid)
            self._enqueue([owner])
        if kind == "DELETED":
            self._nodes.pop(node.uid, None)
            self._enqueue(self._dependents.pop(node.uid, ()))
            return
        self._nodes[node.uid] = node
        for reference in node.owners:
            self._dependents[reference["uid"]].add(node.uid)
        if node.owners or "deletionTimestamp" in obj["metadata"]:
            self._enqueue([node.uid])

    def _owners_before(self, uid: str) -> list[str]:
        known = self._nodes.get(uid)
        return [reference["uid"] for reference in known.owners] if known else []

    def _enqueue(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self._queue.add(("", uid))

    async def _look(self, uid: str) -> None:
        node = self._nodes.get(uid)
        if node is None:
            return
        if node.waits_by(ORPHAN):
            await self._orphan(node)
        elif node.waits_by(FOREGROUND):
            await self._delete_dependents(node)
        elif node.owners and "deletionTimestamp" not in node.obj["metadata"]:
            await self._delete_if_unowned(node)

    async def _delete_if_unowned(self, node: _Node) -> None:
        """Gone when every owner is gone; or with an owner that waits for it, when no other owner holds it."""
        states = [await self._owner_state(node, reference) for reference in node.owners]
        if "there" in states:
            return
        propagation = "Foreground" if "waiting" in states else "Background"
        await delete_if_there(self._api, node.url, uid=node.uid, propagation=propagation)

    async def _owner_state(self, node: _Node, reference: Object) -> str:
        known = self._nodes.get(reference["uid"])
        if known is not None:
            return "waiting" if known.waits_by(FOREGROUND) else "there"
        resource = self._kinds.get((reference["apiVersion"], reference["kind"]))
        if resource is None:
            return "there"  # of a kind that nobody knows: hands off
        namespace = node.obj["metadata"].get("namespace", "") if resource.namespaced else ""
        url = path(resource.group_version, resource.name, namespace=namespace, name=reference["name"])
        live = await fetch(self._api, url)
        return "there" if live is not None and live["metadata"]["uid"] == reference["uid"] else "gone"

    async def _delete_dependents(self, owner: _Node) -> None:
        """Foreground: delete dependents; when none is left that blocks, the owner may go."""
        blocking = False
        for uid in list(self._dependents.get(owner.uid, ())):
            dependent = self._nodes.get(uid)
            if dependent is None:
                continue
            if "deletionTimestamp" not in dependent.obj["metadata"]:
                await self._delete_if_unowned(dependent)
            references = [each for each in dependent.owners if each["uid"] == owner.uid]
            blocking |= any(each.get("blockOwnerDeletion") for each in references)
        if not blocking:
            await self._remove_finalizer(owner, FOREGROUND)

    async def _orphan(self, owner: _Node) -> None:
        for uid in list(self._dependents.get(owner.uid, ())):
            dependent = self._nodes.get(uid)
            if dependent is not None:
                left = [reference for reference in dependent.owners if reference["uid"] != owner.uid]
                metadata = {"uid": uid, "ownerReferences": left or None}
                await self._api.patch(dependent.url, {"metadata": metadata})
        await self._remove_finalizer(owner, ORPHAN)

    async def _remove_finalizer(self, node: _Node, finalizer: str) -> None:
        live = await fetch(self._api, node.url)
        if live is None or live["metadata"]["uid"] != node.uid:
            return
        metadata = live["metadata"]
        left = [each for each in metadata.get("finalizers") or () if each != finalizer]
        change = {"resourceVersion": metadata["resourceVersion"], "finalizers": left or None}
        try:
            await self._api.patch(node.url, {"metadata": change})
        except ApiError as error:
            if error.code != 404:
                raise
