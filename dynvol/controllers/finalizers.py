"""Finalizers: put on before any side effect, taken off under a test of the version that was decided upon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from dynvol.api.meta import ObjectMeta
from dynvol.api.resources import Resource
from dynvol.kube.client import KubeClient, Operations
from dynvol.kube.errors import Conflict, NotFound

from .namesakes import Superseded


class _Object(Protocol):
    @property
    def metadata(self) -> ObjectMeta: ...


T = TypeVar("T", bound=_Object)


_ATTEMPTS: Final = 4
"""A claim's status has many writers, so a version from the cache is often an old one; a fresh look settles it."""


async def add_finalizer(client: KubeClient, resource: Resource[T], obj: T, finalizer: str) -> None:
    """Makes sure that `obj` waits for us when it is deleted.

    Raises Superseded if it went, or is going without waiting for us; Conflict if it changes faster than it can be read.
    """
    current = obj
    for _ in range(_ATTEMPTS):
        meta = current.metadata
        if finalizer in meta.finalizers:
            return
        if meta.deleting:
            raise Superseded(f"{meta.key} is being deleted")
        try:
            await _write(client, resource, meta, [*meta.finalizers, finalizer])
            return
        except Conflict as conflict:
            lost = conflict
            current = await _fresh(client, resource, meta)
        except NotFound as gone:
            raise Superseded(f"{meta.key} went") from gone
    raise lost


async def remove_finalizer(client: KubeClient, resource: Resource[T], obj: T, finalizer: str) -> None:
    """Lets `obj` go. Raises Conflict when anything about it changed since it was read, NotFound when it went."""
    meta = obj.metadata
    if finalizer in meta.finalizers:
        await _write(client, resource, meta, [f for f in meta.finalizers if f != finalizer])


async def drop_finalizer(client: KubeClient, resource: Resource[T], obj: T, finalizer: str) -> None:
    """Lets `obj` go, whatever else changed since it was read. Raises Invalid when its finalizers did, NotFound when it went."""
    meta = obj.metadata
    if finalizer in meta.finalizers:
        await client.json_patch(resource, meta.name, without(meta, finalizer), namespace=meta.namespace)


def without(meta: ObjectMeta, finalizer: str) -> Operations:
    """The JSON patch that takes a finalizer off this very object, if it is still where it was."""
    place = f"/metadata/finalizers/{meta.finalizers.index(finalizer)}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": place, "value": finalizer},
        {"op": "remove", "path": place},
    ]


async def _fresh(client: KubeClient, resource: Resource[T], meta: ObjectMeta) -> T:
    """The object as it is now. Raises Superseded if that is another one, or none."""
    try:
        found = await client.get(resource, meta.name, namespace=meta.namespace)
    except NotFound as gone:
        raise Superseded(f"{meta.key} went") from gone
    if found.metadata.uid != meta.uid:
        raise Superseded(f"{meta.key} was made anew")
    return found


async def _write(client: KubeClient, resource: Resource[T], meta: ObjectMeta, finalizers: Sequence[str]) -> None:
    # A merge patch that names the version is refused with a conflict when it is no longer the present one.
    body = {"metadata": {"resourceVersion": meta.resource_version, "uid": meta.uid, "finalizers": list(finalizers)}}
    await client.merge_patch(resource, meta.name, body, namespace=meta.namespace)
