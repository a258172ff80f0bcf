"""A cache of one collection that keeps itself up to date, and tells its handlers what changed.

Handlers are called at once, after the store and its indexes have changed: whoever is told of a change finds it there. So they
must be quick, and cannot await: a handler enqueues a key, and the work is done elsewhere. One that raises loses that one
notification, for itself alone.

Promises: the changes of one object come in order, none is told twice, and the last state of each object is told. Not promised: any
order across objects; that every state in between is seen; that an object still is as it was told when a reconcile looks at it.

Objects are shared by all who look and are never changed, by anyone. What is not needed of them is dropped before they are
kept, best by the source's decoder and else by `transform`; so they are projections, and no one may write one back whole.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NoReturn, TypeAlias

from .backoff import Backoff, Chance
from .metrics import UNMEASURED, InformerMetrics
from .source import ObjectT, Source
from .store import NO_INDEXERS, Change, Indexer, Store, View
from .watcher import Applied, Arrived, Begun, Completed, Effect, Removed, Unread, Watcher, Watching, Withdrawn

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Change[ObjectT]], None]
"""Only enqueues."""


class Registration(Generic[ObjectT]):
    """A handler's place in an informer's list."""

    def __init__(self, informer: Informer[ObjectT], handler: Handler[ObjectT]) -> None:
        self._informer = informer
        self._handler = handler
        self._active = True

    def remove(self) -> None:
        """Not one more notification. Removing twice is harmless."""
        self._active = False
        self._informer._registrations.pop(self, None)

    def tell(self, change: Change[ObjectT]) -> None:
        if not self._active:
            return
        try:
            self._handler(change)
        except Exception:  # the edge: a handler's fault is its own, and must not cost the others theirs
            log.exception("a handler failed and missed a change", extra={"informer": self._informer.name, "key": change.key})


class Informer(Generic[ObjectT]):
    """List, watch, cache, tell. Do `add_handler` at any time, `run` once, and read `store` whenever."""

    def __init__(
        self,
        source: Source[ObjectT],
        *,
        name: str,
        indexers: Mapping[str, Indexer[ObjectT]] = NO_INDEXERS,
        transform: Callable[[ObjectT], ObjectT] | None = None,
        streaming: bool = True,
        backoff: Backoff | None = None,
        chance: Chance = random.random,
        metrics: InformerMetrics = UNMEASURED,
    ) -> None:
        self.name = name
        self._transform = transform
        self._metrics = metrics
        self._store: Store[ObjectT] = Store(indexers={index: self._guarded(index, indexer) for index, indexer in indexers.items()})
        # A list that is on its way, filed as it comes: that is not to be done in one go. It replaces the store when it is
        # complete, and not before.
        self._arriving: Store[ObjectT] = self._store.empty()
        # In order of registration.
        self._registrations: dict[Registration[ObjectT], None] = {}
        self._synced = asyncio.Event()
        self._watcher = Watcher(
            source, name=name, emit=self._take, streaming=streaming, backoff=backoff, chance=chance, metrics=metrics
        )

    @property
    def store(self) -> View[ObjectT]:
        return self._store

    @property
    def has_synced(self) -> bool:
        """The first list is in the store, and the handlers that there were have seen all of it."""
        return self._synced.is_set()

    async def synced(self) -> None:
        await self._synced.wait()

    @property
    def watching(self) -> bool:
        """Nothing is known to be missing: no list is due."""
        return isinstance(self._watcher.state, Watching)

    def add_handler(self, handler: Handler[ObjectT]) -> Registration[ObjectT]:
        """Tell `handler` all that is in the store, before this returns, and from then on every change."""
        if inspect.iscoroutinefunction(handler):
            raise TypeError(f"{self.name}: a handler enqueues and returns; it cannot be a coroutine function")
        registration = Registration(self, handler)
        self._registrations[registration] = None
        for present in self._store.values():
            registration.tell(Change(None, present, initial=True))
        return registration

    async def run(self) -> NoReturn:
        """Keep the store up to date until cancelled."""
        await self._watcher.run()

    def _take(self, effect: Effect[ObjectT]) -> None:
        match effect:
            case Begun():
                self._arriving = self._store.empty()
            case Arrived(objects):
                for arrived in objects:
                    self._arriving.upsert(self._projected(arrived))
            case Unread(keys):
                for last in filter(None, map(self._store.get, keys)):
                    self._arriving.upsert(last)
            case Withdrawn(gone):
                self._arriving.remove(gone.metadata.key)
            case Completed():
                self._replace()
            case Applied(new):
                self._tell(self._store.upsert(self._projected(new)))
            case Removed(gone):
                self._tell(self._store.remove(gone.metadata.key))

    def _replace(self) -> None:
        arrived, self._arriving = self._arriving, self._store.empty()
        self._metrics.listed(self.name, objects=len(arrived))
        self._tell(self._store.become(arrived, initial=not self._synced.is_set()))
        self._synced.set()

    def _tell(self, changes: Iterable[Change[ObjectT]]) -> None:
        # Those who come while this goes on find the store as it already is: the changes are not for them.
        registrations = tuple(self._registrations)
        for change in changes:
            for registration in registrations:
                registration.tell(change)

    def _projected(self, arrived: ObjectT) -> ObjectT:
        if self._transform is None:
            return arrived
        try:
            return self._transform(arrived)
        except Exception:  # the edge: an object too large is better than one that seems to be gone
            log.exception("kept an object untransformed", extra={"informer": self.name, "key": arrived.metadata.key})
            return arrived

    def _guarded(self, index: str, indexer: Indexer[ObjectT]) -> Indexer[ObjectT]:
        def values(of: ObjectT) -> Iterable[str]:
            try:
                return tuple(indexer(of))
            except Exception:  # the edge: one odd object must not keep all others out of the store
                log.exception(
                    "filed an object under nothing", extra={"informer": self.name, "index": index, "key": of.metadata.key}
                )
                return ()

        return values
