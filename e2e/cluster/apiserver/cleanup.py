"""Tasks of the server's own that run beside requests: expired events, and what a deleted CustomResourceDefinition leaves.

The objects of a deleted definition are deleted, their own finalizers are waited for, and only then does the definition go: as long
as it is there, the owners of these finalizers can still read and write them.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime

from e2e.cluster.apiserver.definitions import CLEANUP_FINALIZER, STORAGE
from e2e.cluster.apiserver.request import Call, Target, User
from e2e.cluster.apiserver.rest import Registry
from e2e.cluster.apiserver.status import ApiError, Object
from e2e.cluster.apiserver.store import Conflict, Entry

SYSTEM = User(name="system:apiserver", groups=("system:masters",))
RETRY = 0.2
"""Seconds between two looks at what a deleted definition still holds."""


async def expire_events(registry: Registry, *, lifetime: float) -> None:
    """Remove events `lifetime` seconds after they were last seen; the real server keeps them for an hour."""
    store = registry.store
    while True:
        await asyncio.sleep(min(60.0, lifetime / 2))
        oldest = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=lifetime)
        limit = oldest.strftime("%Y-%m-%dT%H:%M:%SZ")
        for entry in store.all("/events"):
            if _last_seen(entry.object) < limit:
                store.remove(entry.key, expected=entry.version)


def _last_seen(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


async def finish_definitions(registry: Registry) -> None:
    """End the deleted definitions, those of an earlier run first."""
    store = registry.store
    with store.subscribe(STORAGE, since=store.version) as changes:
        while True:
            for entry in store.all(STORAGE):
                meta = entry.object["metadata"]
                if meta.get("deletionTimestamp") and CLEANUP_FINALIZER in (meta.get("finalizers") or ()):
                    await _finish(registry, entry)
            waiting = any(entry.object["metadata"].get("deletionTimestamp") for entry in store.all(STORAGE))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if waiting else None):
                    await changes.next()


async def _finish(registry: Registry, entry: Entry) -> None:
    spec = entry.object["spec"]
    storage = f"{spec['group']}/{spec['names']['plural']}"
    call = Call(user=SYSTEM)
    for resource in registry.catalog.of_group_resource(spec["group"], spec["names"]["plural"])[:1]:
        for custom in registry.store.all(storage):
            if not custom.object["metadata"].get("deletionTimestamp"):
                target = Target(verb="delete", resource=resource, namespace=custom.key.namespace, name=custom.key.name)
                with contextlib.suppress(ApiError):
                    await registry.delete(target, call, {})
    current = registry.store.get(entry.key)
    if registry.store.all(storage) or current is None:
        return
    body = current.thaw()
    body["metadata"]["finalizers"].remove(CLEANUP_FINALIZER)
    with contextlib.suppress(Conflict):
        if body["metadata"]["finalizers"]:
            registry.store.put(current.key, body, expected=current.version)
        else:
            registry.store.remove(current.key, expected=current.version)
