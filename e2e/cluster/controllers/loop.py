"""The loop that every controller here has: keys that need a look, one worker, retries.

A reconcile reads what it decides on from the API server itself, and the mirrors only say when to look: so no decision
is ever taken on a stale cache, at the price of a few requests, which a proving ground can pay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

import aiohttp

from e2e.cluster.api import ApiClient, ApiError, Key, Mirror, Object, path

log = logging.getLogger(__name__)

FIRST_RETRY, LAST_RETRY = 0.05, 5.0


class Controller(Protocol):
    """What a controller is: it names what it watches, which keys an object concerns, and what to do for a key.

    `reconcile` returns seconds after which the key wants another look, or None. It is never called twice at a time.
    """

    @property
    def watches(self) -> Iterable[tuple[str, str]]:
        """(group and version, resource) of what wakes this controller."""

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]: ...

    async def reconcile(self, key: Key) -> float | None: ...


class Mirrors:
    """The mirrors that controllers share: one for each resource."""

    def __init__(self, api: ApiClient, tasks: asyncio.TaskGroup) -> None:
        self._api = api
        self._tasks = tasks
        self._known: dict[tuple[str, str], Mirror] = {}

    def of(self, group_version: str, resource: str) -> Mirror:
        key = (group_version, resource)
        if key not in self._known:
            self._known[key] = Mirror(self._api, path(group_version, resource))
            self._tasks.create_task(self._known[key].run(), name=f"mirror {resource}")
        return self._known[key]


class Queue:
    """Keys that need a look, each at most once; a delayed key is never late because of a retry of another."""

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._some = asyncio.Event()

    def add(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._keys[key] = None
        self._some.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """The earlier of two delays counts."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        known = self._timers.get(key)
        if key in self._keys or (known and known.when() <= due):
            return
        if known:
            known.cancel()
        self._timers[key] = loop.call_at(due, self.add, key)

    async def next(self) -> Key:
        while not self._keys:
            self._some.clear()
            await self._some.wait()
        key = next(iter(self._keys))
        del self._keys[key]
        return key

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()


@asynccontextmanager
async def _queue() -> AsyncIterator[Queue]:
    queue = Queue()
    try:
        yield queue
    finally:
        queue.close()


async def run(controller: Controller, mirrors: Mirrors) -> None:
    """Feed a controller for ever. An error is retried with back-off, and never ends the loop."""
    name = type(controller).__name__
    async with _queue() as queue:
        for group_version, resource in controller.watches:
            _feed(controller, queue, mirrors.of(group_version, resource), resource)
        failures: dict[Key, int] = {}
        while True:
            key = await queue.next()
            try:
                again = await controller.reconcile(key)
                failures.pop(key, None)
            except (ApiError, aiohttp.ClientError, OSError, TimeoutError) as error:
                failures[key] = failures.get(key, 0) + 1
                again = min(LAST_RETRY, FIRST_RETRY * 2 ** min(failures[key], 10))
                log.info("%s: again in %.2f s key=%s because=%s", name, again, key, error)
            except Exception:
                log.exception("%s: failed key=%s", name, key)
                again = LAST_RETRY
            if again is not None:
                queue.add_after(key, again)


def _feed(controller: Controller, queue: Queue, mirror: Mirror, resource: str) -> None:
    """A key is concerned by what an object was as well as by what it is: labels and owners may have changed."""
    before: dict[str, list[Key]] = {}

    def hear(kind: str, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        keys = list(controller.concerns(resource, obj))
        for key in {*keys, *before.get(uid, ())}:
            queue.add(key)
        if kind == "DELETED":
            before.pop(uid, None)
        else:
            before[uid] = keys

    mirror.listen(hear)
    for obj in list(mirror.objects.values()):
        hear("ADDED", obj)


def owner_key(obj: Object, kind: str) -> Iterator[Key]:
    """The key of the controlling owner, if it is of that kind."""
    owner = controller_of(obj)
    if owner and owner["kind"] == kind:
        yield obj["metadata"]["namespace"], owner["name"]


def controller_of(obj: Object) -> Object | None:
    references = obj["metadata"].get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def owned_by(owner: Object, obj: Object) -> bool:
    reference = controller_of(obj)
    return bool(reference and reference["uid"] == owner["metadata"]["uid"])


def owner_reference(owner: Object, api_version: str, kind: str) -> Object:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


async def fetch(api: ApiClient, url: str) -> Object | None:
    """An object, or None where there is none."""
    try:
        return await api.get(url)
    except ApiError as error:
        if error.code == 404:
            return None
        raise


async def delete_if_there(api: ApiClient, url: str, *, uid: str, propagation: str = "Background") -> None:
    """Delete that very object; one that is gone, or has been replaced, is none of ours."""
    options = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
    try:
        await api.delete(url, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
    except ApiError as error:
        if error.code not in {404, 409}:
            raise
