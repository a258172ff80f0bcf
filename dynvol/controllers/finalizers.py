"""Finalizers: put on before any side effect, taken off under a test of the version that was decided upon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from dynvol.api.meta import ObjectMeta
from dynvol.api.resources import Resource
from dynvol.kube.client import KubeClient, Operations
from dynvol.kube.errors import Conflict, Invalid, NotFound

from .namesakes import Superseded


class _Object(Protocol):
    @property
    def metadata(self) -> ObjectMeta: ...


T = TypeVar("T", bound=_Object)


_ATTEMPTS: Final = 4
"""All nodes that a claim reaches put the same finalizer on at the same time; a fresh look shows that one of them has."""


async def add_finalizer(client: KubeClient, resource: Resource[T], obj: T, finalizer: str) -> None:
    """Makes sure that `obj` waits for us when it is deleted.

    Raises Superseded if it went, or is going without waiting for us; Conflict or Invalid if its finalizers change faster than they
    can be read.
    """
    current = obj
    for _ in range(_ATTEMPTS):
        meta = current.metadata
        if finalizer in meta.finalizers:
            return
        if meta.deleting:
            raise Superseded(f"{meta.key} is being deleted")
        try:
            await client.json_patch(resource, meta.name, _with(meta, finalizer), namespace=meta.namespace)
            return
        except (Conflict, Invalid) as refused:
            lost = refused
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


def _with(meta: ObjectMeta, finalizer: str) -> Operations:
    """The JSON patch that puts a finalizer on this very object, if the others are still those that it had.

    It tests them and not the version: that changes with each node's word in a claim's status, and few would get through while as
    many write it.
    """
    place = "/metadata/finalizers"
    same = {"op": "test", "path": "/metadata/uid", "value": meta.uid}
    if not meta.finalizers:
        return [same, {"op": "test", "path": place, "value": None}, {"op": "add", "path": place, "value": [finalizer]}]
    others = {"op": "test", "path": place, "value": list(meta.finalizers)}
    return [same, others, {"op": "add", "path": f"{place}/-", "value": finalizer}]


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
