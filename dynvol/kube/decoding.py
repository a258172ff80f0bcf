"""From the API server's bytes to projections and events. Pure: no I/O but a line in the log for what makes no sense.

A projection names the few fields that are used, and msgspec makes no object for the others: that is what lets a node
process look at 5,000 pods without feeling it. One object that does not fit its projection harms no other: in a list it is
left out, in a watch it becomes `Unreadable`. Its content goes into no message; msgspec says which field was of which type.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from ..api.resources import Resource
from ..runtime.source import Added, Bookmark, Deleted, Event, Modified, ObjectT, Page, Unreadable
from . import errors
from .nesting import shallow

log = logging.getLogger(__name__)

T = TypeVar("T")

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"


class _ListMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(name="continue", default="")
    remaining_item_count: int | None = None


class _List(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    metadata: _ListMeta = _ListMeta()
    items: tuple[T, ...] | None
    """Go writes a slice that was never made as null. No `items` at all is no list."""


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    object: msgspec.Raw


class _Meta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Bare(msgspec.Struct, frozen=True, kw_only=True):
    """What every object has, whatever else is wrong with it."""

    metadata: _Meta = _Meta()


_raw_list: Final = msgspec.json.Decoder(_List[msgspec.Raw])
_event: Final = msgspec.json.Decoder(_Event)
_bare: Final = msgspec.json.Decoder(_Bare)
_status: Final = msgspec.json.Decoder(errors.Status)


@functools.cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    """Making a decoder takes longer than using it."""
    return msgspec.json.Decoder(type_)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    """Raises `msgspec.DecodeError`, and nothing else for anything that comes."""
    try:
        try:
            return decoder.decode(body)
        except RecursionError:
            return decoder.decode(shallow(bytes(body)))
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def decode_object(body: bytes | msgspec.Raw, resource: Resource[T]) -> T:
    """Raises `msgspec.DecodeError`."""
    found: T = _decode(_decoder(resource.type), body)  # type: ignore[arg-type]  # a type is hashable
    return found


def decode_page(body: bytes, resource: Resource[ObjectT]) -> Page[ObjectT]:
    """Raises `msgspec.DecodeError` where the body is no list at all; an item that does not fit is logged and left out."""
    try:
        found: _List[ObjectT] = _decode(_decoder(_List[resource.type]), body)  # type: ignore[name-defined]
        return _page(found.metadata, found.items or ())
    except msgspec.ValidationError:
        raw = _decode(_raw_list, body)
        return _page(raw.metadata, tuple(_fitting(raw.items or (), resource)))


def _page(metadata: _ListMeta, items: tuple[ObjectT, ...]) -> Page[ObjectT]:
    return Page(
        items=items,
        resource_version=metadata.resource_version,
        continue_token=metadata.continue_token,
        remaining=metadata.remaining_item_count,
    )


def _fitting(items: Sequence[msgspec.Raw], resource: Resource[T]) -> Iterator[T]:
    for item in items:
        try:
            yield decode_object(item, resource)
        except msgspec.DecodeError as error:
            log.warning("left out of a list", extra=_about(item) | {"resource": resource.plural, "error": str(error)})


def _about(body: msgspec.Raw) -> dict[str, str]:
    metadata = _metadata(body)
    return {"namespace": metadata.namespace, "object": metadata.name}


def decode_event(line: bytes, resource: Resource[ObjectT]) -> Event[ObjectT]:
    """One line of a watch. Raises `ApiError` for an ERROR event."""
    try:
        event = _decode(_event, line)
    except msgspec.DecodeError as error:
        return Unreadable(f"an event of {resource.plural}: {error}")
    match event.type:
        case "ADDED":
            return _change(Added, event.object, resource)
        case "MODIFIED":
            return _change(Modified, event.object, resource)
        case "DELETED":
            return _change(Deleted, event.object, resource)
        case "BOOKMARK":
            return _bookmark(event.object)
        case "ERROR":
            raise errors.from_status(_reported(event.object), request=f"watch {resource.plural}")
        case _:
            return Unreadable(f"an event of {resource.plural} of unknown type", _metadata(event.object).resource_version)


def _change(
    kind: type[Added[ObjectT]] | type[Modified[ObjectT]] | type[Deleted[ObjectT]], body: msgspec.Raw, resource: Resource[ObjectT]
) -> Event[ObjectT]:
    try:
        return kind(decode_object(body, resource))
    except msgspec.DecodeError as error:
        bare = _metadata(body)
        return Unreadable(f"{resource.plural} {bare.namespace}/{bare.name}: {error}", bare.resource_version)


def _bookmark(body: msgspec.Raw) -> Bookmark | Unreadable:
    bare = _metadata(body)
    if not bare.resource_version:
        return Unreadable("a bookmark without a version")
    ends = (bare.annotations or {}).get(INITIAL_EVENTS_END) == "true"
    return Bookmark(bare.resource_version, initial_events_end=ends)


def _metadata(body: msgspec.Raw) -> _Meta:
    try:
        return _decode(_bare, body).metadata
    except msgspec.DecodeError:
        return _Meta()


def _reported(body: msgspec.Raw) -> errors.Status:
    try:
        return _decode(_status, body)
    except msgspec.DecodeError:
        return errors.Status(reason="Unknown", message="an error that is not a Status")
