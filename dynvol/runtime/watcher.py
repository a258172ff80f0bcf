"""The watcher: list, watch, and what to do when either fails, so that what comes out is one unbroken story of a collection.

It is a machine. `step(state, outcome)` says, without doing anything, what follows from what was heard: the next state, which *is*
the next request, and the effects. `Watcher` is the thin shell that makes the requests, waits out the pauses and passes on the rest.

The story is told in effects. A list: `Begun`, then `Arrived` many times, then `Completed`; only then does it count. Between lists:
`Applied` and `Removed`. The watcher keeps no objects and knows nothing of caches. It is never done: there is no error that ends it.

The rules are those of client-go's reflector (`tools/cache/reflector.go`), and differ in this:

- a page that could not be had is asked for again, rather than the list from its start;
- a version that expires before it was of any use is backed off, since a server that forgets so quickly is not well;
- a watch that said nothing at all to its end, not even by a bookmark, is followed by a list. kube-apiserver accepts a watch from
  a version that it has yet to come to (a data store that was restored), and is silent until then; a list it refuses;
- a server that knows nothing of streaming lists is found out (by a bookmark without the mark, or by silence) and not asked again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, NoReturn, TypeAlias

from .backoff import Backoff, Chance
from .errors import Expired, SourceError, StreamingListUnsupported, Throttled, TooLargeVersion, Unavailable
from .metrics import UNMEASURED, InformerMetrics
from .source import Added, Bookmark, Deleted, Event, Modified, ObjectT, Page, Source, Unreadable

log = logging.getLogger(__name__)

ANY_VERSION = "0"
"""Whatever the server has at hand: cheap, and perhaps a little old. Good enough for a first look."""

MOST_RECENT = ""
"""The state as of the request. Costs the data store a read."""

PAGE_SIZE = 500
NO_LIMIT = 0

WATCH_TIMEOUT = 300.0
"""Seconds after which the server is asked to end a watch, or up to twice that, by chance: restarts must not fall together."""

WATCH_GRACE = 15.0
"""Seconds over the server's timeout after which a watch is taken for dead: its connection may be, with nobody to tell us."""

LIST_DEADLINE = 60.0
"""Seconds that one page may take; the API server's own limit."""

STREAM_SILENCE = 10.0
"""Seconds that a streaming list may say nothing. The server waits at most 3 s for its cache before it refuses."""

TOO_SHORT = 1.0
"""A watch that ends sooner than this, in seconds, with nothing said, was of no use."""


# What to ask for next.


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a list."""

    version: str
    token: str = ""
    limit: int = PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Streaming:
    """A watch that begins with all that there is. It counts when the server says that this was all."""

    version: str


@dataclass(frozen=True, slots=True)
class Watching:
    """A watch for what comes after `version`, on the stream that is open or else on a new one."""

    version: str
    streams: bool = False
    """The server can stream lists; so that is how to list again."""
    fresh: bool = True
    """Nothing has come since the list."""


State: TypeAlias = Listing | Streaming | Watching


# What came of it.


@dataclass(frozen=True, slots=True)
class Listed(Generic[ObjectT]):
    page: Page[ObjectT]


@dataclass(frozen=True, slots=True)
class Received(Generic[ObjectT]):
    event: Event[ObjectT]


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream is over, and nobody complained."""

    after: float
    """Seconds since it was asked for."""
    heard: bool
    """Whether anything came, be it a bookmark."""


@dataclass(frozen=True, slots=True)
class Failed:
    error: Exception


Outcome: TypeAlias = Listed[ObjectT] | Received[ObjectT] | Ended | Failed


# What follows for others.


@dataclass(frozen=True, slots=True)
class Begun:
    """A list begins. What an earlier one brought and did not complete is void."""


@dataclass(frozen=True, slots=True)
class Arrived(Generic[ObjectT]):
    """Part of the list."""

    objects: tuple[ObjectT, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn(Generic[ObjectT]):
    """Deleted while the list was on its way."""

    object: ObjectT


@dataclass(frozen=True, slots=True)
class Unread:
    """Part of the list, by key, but not readable. They are there: whatever was known of them still holds."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    """That was the list. What was not in it is gone."""


@dataclass(frozen=True, slots=True)
class Applied(Generic[ObjectT]):
    """Made or changed. Which of the two, a watch cannot be trusted to know."""

    object: ObjectT


@dataclass(frozen=True, slots=True)
class Removed(Generic[ObjectT]):
    object: ObjectT


@dataclass(frozen=True, slots=True)
class Paused:
    """Wait before the next request: as long as the back-off says, and not less than `at_least` seconds."""

    at_least: float = 0.0


Effect: TypeAlias = (
    Begun | Arrived[ObjectT] | Withdrawn[ObjectT] | Unread | Completed | Applied[ObjectT] | Removed[ObjectT] | Paused
)
Step: TypeAlias = tuple[State, tuple[Effect[ObjectT], ...]]


def begin(*, streaming: bool) -> State:
    return Streaming(MOST_RECENT) if streaming else Listing(ANY_VERSION)


def step(state: State, outcome: Outcome[ObjectT]) -> Step[ObjectT]:
    """What follows from `outcome`, which is the answer to `state`."""
    match outcome:
        case Listed(page):
            assert isinstance(state, Listing), "a page is the answer to a list"
            return _listed(state, page)
        case Received(event):
            return _streamed(state, event) if isinstance(state, Streaming) else _watched(state, event)
        case Ended():
            return _ended(state, outcome)
        case Failed(error):
            return _failed(state, error)


def _listed(state: Listing, page: Page[ObjectT]) -> Step[ObjectT]:
    effects: tuple[Effect[ObjectT], ...] = (Arrived(page.items),)
    if page.unreadable:
        effects = (*effects, Unread(page.unreadable))
    if not state.token:
        effects = (Begun(), *effects)
    if page.continue_token:
        return replace(state, token=page.continue_token), effects
    return Watching(page.resource_version), (*effects, Completed())


def _streamed(state: Streaming, event: Event[ObjectT]) -> Step[ObjectT]:
    # The version stays until the bookmark: what exists is sent in no order of versions.
    match event:
        case Added(new) | Modified(new):
            return state, (Arrived((new,)),)
        case Deleted(old):
            return state, (Withdrawn(old),)
        case Unreadable(key=key):
            return state, (Unread((key,)),) if key else ()
        case Bookmark(version, initial_events_end=True):
            return Watching(version, streams=True), (Completed(),)
        case Bookmark():
            # kube-apiserver sends no bookmark before the one with the mark (`cacher/cache_watcher.go`): this server knows of none.
            return _list_instead(state), ()


def _watched(state: State, event: Event[ObjectT]) -> Step[ObjectT]:
    assert isinstance(state, Watching), "an event is the answer to a watch"
    match event:
        case Added(new) | Modified(new):
            return _at(state, new.metadata.resource_version), (Applied(new),)
        case Deleted(old):
            return _at(state, old.metadata.resource_version), (Removed(old),)
        case Bookmark(version) | Unreadable(resource_version=version):
            return _at(state, version), ()


def _at(state: Watching, version: str) -> Watching:
    return replace(state, version=version or state.version, fresh=False)


def _ended(state: State, end: Ended) -> Step[ObjectT]:
    match state:
        case Listing():
            # The stream that was given up for this list.
            return state, ()
        case Streaming():
            return state, (Paused(),)
        case Watching() if end.heard:
            return state, ()
        case Watching() if end.after < TOO_SHORT:
            return state, (Paused(),)
        case Watching() if end.after >= WATCH_TIMEOUT:
            return _list_again(state, state.version), ()
        case Watching():
            return state, ()


def _failed(state: State, error: Exception) -> Step[ObjectT]:
    match error:
        case Throttled(retry_after=seconds):
            return state, (Paused(seconds),)
        case Unavailable():
            return state, (Paused(),)
    match state:
        case Listing():
            return _list_failed(state, error)
        case Streaming():
            return _stream_failed(state, error)
        case Watching():
            return _watch_failed(state, error)


def _list_failed(state: Listing, error: Exception) -> Step[ObjectT]:
    match error:
        case Expired() if state.token:
            return Listing(state.version, limit=NO_LIMIT), ()
        case Expired() | TooLargeVersion() if state.version != MOST_RECENT:
            return Listing(MOST_RECENT), ()
        case _:
            return replace(state, token=""), (Paused(),)


def _stream_failed(state: Streaming, error: Exception) -> Step[ObjectT]:
    match error:
        case StreamingListUnsupported():
            return _list_instead(state), ()
        case Expired() | TooLargeVersion() if state.version != MOST_RECENT:
            return Streaming(MOST_RECENT), ()
        case _:
            return _list_instead(state), (Paused(),)


def _watch_failed(state: Watching, error: Exception) -> Step[ObjectT]:
    match error:
        case Expired():
            # The list is asked for with the version that expired: "not older than" it, which the server's cache can answer.
            return _list_again(state, state.version), (Paused(),) if state.fresh else ()
        case TooLargeVersion():
            return _list_again(state, MOST_RECENT), (Paused(),) if state.fresh else ()
        case _:
            return _list_again(state, state.version), (Paused(),)


def _list_again(state: Watching, version: str) -> State:
    if state.streams:
        return Streaming(version)
    return _list_from(version)


def _list_instead(state: Streaming) -> Listing:
    # Not `ANY_VERSION` where a version is known: another replica may be behind it, and the cache would go back in time.
    return _list_from(state.version) if state.version != MOST_RECENT else Listing(ANY_VERSION)


def _list_from(version: str) -> Listing:
    # With a version and a limit, kube-apiserver asks its data store; with a version alone, its cache, which is what it is for.
    return Listing(version, limit=PAGE_SIZE if version == MOST_RECENT else NO_LIMIT)


class Watcher(Generic[ObjectT]):
    """Follows a source for ever. `emit` is called with every effect but the pauses, at once and in order; it must not raise."""

    def __init__(
        self,
        source: Source[ObjectT],
        *,
        name: str,
        emit: Callable[[Effect[ObjectT]], None],
        streaming: bool = True,
        backoff: Backoff | None = None,
        chance: Chance = random.random,
        metrics: InformerMetrics = UNMEASURED,
    ) -> None:
        self._source = source
        self._name = name
        self._emit = emit
        self._state: State = begin(streaming=streaming)
        self._chance = chance
        self._backoff = backoff if backoff is not None else Backoff(chance=chance)
        self._metrics = metrics

    @property
    def state(self) -> State:
        return self._state

    async def run(self) -> NoReturn:
        while True:
            outcome = await self._ask()
            if (pause := self._advance(outcome)) is not None:
                await asyncio.sleep(max(self._backoff.next(), pause.at_least))

    async def _ask(self) -> Outcome[ObjectT]:
        try:
            if isinstance(self._state, Listing):
                return Listed(await self._list(self._state))
            return await self._follow(self._state)
        except Exception as error:  # the edge: whatever a source may raise, the story has to go on
            self._report(error)
            return Failed(error)

    def _advance(self, outcome: Outcome[ObjectT]) -> Paused | None:
        pause = None
        self._state, effects = step(self._state, outcome)
        for effect in effects:
            if isinstance(effect, Paused):
                pause = effect
            else:
                self._emit(effect)
        return pause

    async def _list(self, wanted: Listing) -> Page[ObjectT]:
        async with asyncio.timeout(LIST_DEADLINE):
            return await self._source.list(resource_version=wanted.version, limit=wanted.limit, continue_token=wanted.token)

    async def _follow(self, wanted: Streaming | Watching) -> Outcome[ObjectT]:
        """Hear one stream to its end, or until it is no longer what is wanted."""
        clock = asyncio.get_running_loop().time
        began = clock()
        timeout = WATCH_TIMEOUT * (1.0 + self._chance())
        heard = False

        def limit() -> float:
            return clock() + STREAM_SILENCE if isinstance(self._state, Streaming) else began + timeout + WATCH_GRACE

        try:
            async with (
                asyncio.timeout_at(limit()) as patience,
                self._source.watch(
                    resource_version=wanted.version, timeout=timeout, initial_events=isinstance(wanted, Streaming)
                ) as events,
            ):
                async for event in events:
                    heard = True
                    self._receive(event)
                    if isinstance(self._state, Listing):
                        break
                    patience.reschedule(limit())
        except TimeoutError:
            if not patience.expired():
                raise
            if isinstance(self._state, Streaming):
                raise StreamingListUnsupported(
                    f"nothing came in {STREAM_SILENCE:.0f} s, and no end of the initial events"
                ) from None
        return Ended(clock() - began, heard)

    def _receive(self, event: Event[ObjectT]) -> None:
        self._metrics.event(self._name, type(event).__name__.lower())
        if isinstance(event, Unreadable):
            log.warning("skipped an event that cannot be read", extra={"informer": self._name, "detail": event.detail})
        self._advance(Received(event))

    def _report(self, error: Exception) -> None:
        self._metrics.failed(self._name, type(error).__name__)
        fields = {"informer": self._name, "asked": type(self._state).__name__.lower(), "error": f"{type(error).__name__}: {error}"}
        match error:
            case Expired() | TooLargeVersion() | StreamingListUnsupported():
                log.info("listing again", extra=fields)
            case SourceError() | TimeoutError():
                log.warning("list or watch failed", extra=fields)
            case _:
                log.error("list or watch failed unexpectedly", extra=fields, exc_info=error)
