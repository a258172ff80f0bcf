"""Where events come from: the Protocol that the runtime's watcher needs, and that a client of some API provides.

The words are those of Kubernetes' list and watch, because their promises are: a list has a version; a watch from that version gives
every change after it, once, in order; and a server may forget versions, and says so. Nothing here knows how that travels.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar


class Metadata(Protocol):
    """The part of an object's metadata that the runtime reads."""

    @property
    def name(self) -> str: ...

    @property
    def namespace(self) -> str:
        """Empty for what is cluster-scoped."""

    @property
    def uid(self) -> str:
        """Tells an object from an earlier one of the same name."""

    @property
    def resource_version(self) -> str: ...

    @property
    def key(self) -> str:
        """`namespace/name`, or `name` for what is cluster-scoped."""


class Object(Protocol):
    """Anything that lives in an API. The runtime never changes one; nor may anyone who gets it from a store."""

    @property
    def metadata(self) -> Metadata: ...


ObjectT = TypeVar("ObjectT", bound=Object)
ObjectT_co = TypeVar("ObjectT_co", bound=Object, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[ObjectT_co]):
    """One answer to a list."""

    items: tuple[ObjectT_co, ...]
    resource_version: str
    """The version of the list as a whole: where a watch takes over."""
    continue_token: str = ""
    """Empty on the last page."""
    remaining: int | None = None
    unreadable: tuple[str, ...] = ()
    """Keys of what is in the list and does not decode. To leave them out without a word would be to say that they are gone."""


@dataclass(frozen=True, slots=True)
class Added(Generic[ObjectT_co]):
    object: ObjectT_co


@dataclass(frozen=True, slots=True)
class Modified(Generic[ObjectT_co]):
    object: ObjectT_co


@dataclass(frozen=True, slots=True)
class Deleted(Generic[ObjectT_co]):
    object: ObjectT_co
    """As it last was, with the version of its deletion."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """The server has nothing to tell up to `resource_version`."""

    resource_version: str
    initial_events_end: bool = False
    """The annotation `k8s.io/initial-events-end`: all that was there at the start has been sent."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What the source could not make sense of: an unknown event type, or an object that does not decode."""

    detail: str
    """For the log: never the body."""
    resource_version: str = ""
    """If that much could be read."""
    key: str = ""
    """Likewise."""


Event: TypeAlias = Added[ObjectT_co] | Modified[ObjectT_co] | Deleted[ObjectT_co] | Bookmark | Unreadable


class Source(Protocol[ObjectT_co]):
    """A collection of objects that can be listed and watched.

    Both calls raise `errors.SourceError` and its kin, and may be cancelled at any time. Neither retries: the watcher does,
    and knows when not to.
    """

    async def list(self, *, resource_version: str, limit: int, continue_token: str = "") -> Page[ObjectT_co]:
        """One page of at most `limit` objects (0: all of them), not older than `resource_version`.

        The version `"0"` means whatever the server has at hand, `""` the most recent state. With a `continue_token`, which
        comes from the page before, the token settles the version, and `resource_version` is not to be sent.
        """

    def watch(
        self, *, resource_version: str, timeout: float, initial_events: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Event[ObjectT_co]]]:
        """The changes after `resource_version`, bookmarks among them, until the server ends them after `timeout` seconds or before.

        With `initial_events`, what exists comes first, as `Added`, and ends with a `Bookmark` that says so; the version is then
        the oldest state that will do, with `""` for the most recent. A server that cannot raises `StreamingListUnsupported`.

        A stream that breaks off, half-way through a line too, ends or raises `Unavailable`; it never yields half an object. An
        error that the server reports inside the stream is raised from the iterator.
        """
