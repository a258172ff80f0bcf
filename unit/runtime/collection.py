"""An API server in miniature: one collection, with versions and a history, that can be told to misbehave.

It keeps the rules that the runtime relies on (`dynvol.runtime.source`), so that a test can say what happens in the world and
look at what an informer makes of it. It also writes down what it was asked, and when.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from dynvol.runtime.errors import Expired, StreamingListUnsupported, TooLargeVersion
from dynvol.runtime.source import Added, Bookmark, Deleted, Event, Modified, Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    name: str
    namespace: str = ""
    uid: str = "uid-1"
    resource_version: str = "1"

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Thing:
    metadata: Meta
    owners: tuple[str, ...] = ()
    ballast: str = ""


def thing(name: str = "a", *, version: str = "1", uid: str = "uid-1", namespace: str = "", owners: tuple[str, ...] = ()) -> Thing:
    return Thing(Meta(name=name, namespace=namespace, uid=uid, resource_version=version), owners)


@dataclass(frozen=True, slots=True)
class ListAsked:
    version: str
    limit: int
    token: str
    at: float


@dataclass(frozen=True, slots=True)
class WatchAsked:
    version: str
    timeout: float
    initial_events: bool
    at: float


Stream = asyncio.Queue[Event[Thing] | Exception | None]


@dataclass
class Collection:
    """Implements `dynvol.runtime.source.Source`."""

    streams_lists: bool = True
    version: int = 100
    objects: dict[str, Thing] = field(default_factory=dict)
    asked: list[ListAsked | WatchAsked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._uids = itertools.count(1)
        self._history: list[tuple[int, Event[Thing]]] = []
        self._forgotten = 0
        self._faults: list[tuple[str, Exception]] = []
        self._streams: list[Stream] = []
        self._silent = False
        self._clean_ends = 0

    # What happens in the world.

    def put(self, name: str, *, owners: tuple[str, ...] = ()) -> Thing:
        self.version += 1
        old = self.objects.get(name)
        uid = old.metadata.uid if old is not None else f"uid-{next(self._uids)}"
        new = Thing(Meta(name=name, uid=uid, resource_version=str(self.version)), owners)
        self.objects[name] = new
        self._happened(Modified(new) if old is not None else Added(new))
        return new

    def delete(self, name: str) -> None:
        self.version += 1
        old = self.objects.pop(name)
        self._happened(Deleted(replace(old, metadata=replace(old.metadata, resource_version=str(self.version)))))

    def _happened(self, event: Event[Thing]) -> None:
        self._history.append((self.version, event))
        self.tell(event)

    # How the server behaves.

    def tell(self, event: Event[Thing]) -> None:
        """Send an event to all who watch, whether or not it happened."""
        for stream in self._streams:
            stream.put_nowait(event)

    def bookmark(self) -> None:
        self.version += 1
        self.tell(Bookmark(str(self.version)))

    def cut(self, error: Exception | None = None) -> None:
        """End all watches, cleanly or with an error."""
        for stream in self._streams:
            stream.put_nowait(error)

    def forget(self) -> None:
        """Compact: no watch can begin, and no page be had, from before now."""
        self._forgotten = self.version

    def fail(self, call: str, *errors: Exception) -> None:
        """Answer the next calls of `list` or `watch` so."""
        self._faults.extend((call, error) for error in errors)

    def fall_silent(self) -> None:
        """Send nothing more, and never end a watch: a connection that is dead."""
        self._silent = True

    def end_at_once(self, times: int) -> None:
        """End the next watches as soon as they begin."""
        self._clean_ends = times

    @property
    def watchers(self) -> int:
        return len(self._streams)

    @property
    def lists(self) -> list[ListAsked]:
        return [a for a in self.asked if isinstance(a, ListAsked)]

    @property
    def watches(self) -> list[WatchAsked]:
        return [a for a in self.asked if isinstance(a, WatchAsked)]

    # The Source.

    async def list(self, *, resource_version: str, limit: int, continue_token: str = "") -> Page[Thing]:
        self.asked.append(ListAsked(resource_version, limit, continue_token, asyncio.get_running_loop().time()))
        self._trip("list")
        if continue_token:
            at, _, start = continue_token.partition("@")
            if int(at) < self._forgotten:
                raise Expired(f"token of {at}")
        elif resource_version and int(resource_version) > self.version:
            raise TooLargeVersion(resource_version)
        begin = int(start) if continue_token else 0
        names = sorted(self.objects)
        end = begin + limit if limit else len(names)
        items = tuple(self.objects[name] for name in names[begin:end])
        token = f"{self.version}@{end}" if end < len(names) else ""
        return Page(items=items, resource_version=str(self.version), continue_token=token)

    @asynccontextmanager
    async def watch(
        self, *, resource_version: str, timeout: float, initial_events: bool = False
    ) -> AsyncIterator[AsyncIterator[Event[Thing]]]:
        self.asked.append(WatchAsked(resource_version, timeout, initial_events, asyncio.get_running_loop().time()))
        self._trip("watch")
        if initial_events and not self.streams_lists:
            raise StreamingListUnsupported("sendInitialEvents is forbidden")
        if resource_version and int(resource_version) > self.version:
            raise TooLargeVersion(resource_version)
        if not initial_events and int(resource_version) < self._forgotten:
            raise Expired(resource_version)
        stream: Stream = asyncio.Queue()
        if self._clean_ends:
            self._clean_ends -= 1
            stream.put_nowait(None)
        elif initial_events:
            for present in self.objects.values():
                stream.put_nowait(Added(present))
            stream.put_nowait(Bookmark(str(self.version), initial_events_end=True))
        else:
            for version, event in self._history:
                if version > int(resource_version):
                    stream.put_nowait(event)
        self._streams.append(stream)
        try:
            yield self._events(stream, timeout)
        finally:
            self._streams.remove(stream)

    async def _events(self, stream: Stream, timeout: float) -> AsyncIterator[Event[Thing]]:
        end = asyncio.get_running_loop().call_later(timeout, stream.put_nowait, None)
        try:
            while True:
                said = await stream.get()
                if self._silent:
                    await asyncio.Event().wait()
                if said is None:
                    return
                if isinstance(said, Exception):
                    raise said
                yield said
        finally:
            end.cancel()

    def _trip(self, call: str) -> None:
        for index, (what, error) in enumerate(self._faults):
            if what == call:
                del self._faults[index]
                raise error


class OldServer(Collection):
    """To it, a watch with initial events is a watch from now on."""

    @asynccontextmanager
    async def watch(
        self, *, resource_version: str, timeout: float, initial_events: bool = False
    ) -> AsyncIterator[AsyncIterator[Event[Thing]]]:
        async with super().watch(resource_version=resource_version or str(self.version), timeout=timeout) as events:
            yield events
