"""Objects, their versions and the recent past, in one SQLite file.

One counter numbers every change of every resource, as etcd's revision does. Memory answers reads; SQLite is there to survive
`kill -9` of the process (not a power cut: it does not sync). The past that watches replay is bounded and is not kept over a
restart: who asks for more gets `Expired`, as from a compacted etcd. The store knows nothing about what an object means.

Everything here runs on the event loop and never awaits between reading and writing, which is what makes `put` atomic.
"""

from __future__ import annotations

import asyncio
import bisect
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import msgspec

from e2e.cluster.apiserver.status import Object, expired

HISTORY = 10_000
"""How many changes of the past can be replayed; etcd's default compaction keeps five minutes."""

BACKLOG = 5_000
"""A watcher that is this many changes behind is cut off, so that a stalled client cannot hold memory."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """`resource` is "group/plural": the versions of a kind share one storage."""

    resource: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of an object. `object` belongs to the store: read it, never change it; `thaw` gives a copy to work on."""

    key: Key
    version: int
    raw: bytes
    object: Object

    def thaw(self) -> Object:
        return msgspec.json.decode(self.raw)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Change:
    """`after` is None for a deletion, whose `last` carries the version of the deletion itself."""

    version: int
    key: Key
    before: Entry | None
    after: Entry | None
    last: Entry


class Conflict(Exception):
    """The object is not at the version that the caller has read."""


class Subscription:
    """The changes of one resource, from one version on, in order and without gaps."""

    __slots__ = ("_queue", "namespace", "resource", "since")

    def __init__(self, resource: str, namespace: str, since: int) -> None:
        self.resource = resource
        self.namespace = namespace
        self.since = since
        """Later than the present for a client that has seen a newer past; it waits until the versions have come so far."""
        self._queue: asyncio.Queue[Change | None] = asyncio.Queue()

    def wants(self, change: Change) -> bool:
        key = change.key
        return key.resource == self.resource and self.namespace in ("", key.namespace) and change.version > self.since

    def offer(self, change: Change) -> None:
        self._queue.put_nowait(change if self._queue.qsize() < BACKLOG else None)

    def cut(self) -> None:
        self._queue.put_nowait(None)

    @property
    def is_drained(self) -> bool:
        return self._queue.empty()

    async def next(self) -> Change | None:
        """None when the subscription was cut: the client has to begin anew."""
        return await self._queue.get()


class Store:
    def __init__(self, path: Path | str, *, history: int = HISTORY) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = OFF;
            CREATE TABLE IF NOT EXISTS object
                (resource TEXT, namespace TEXT, name TEXT, version INTEGER, body BLOB, PRIMARY KEY (resource, namespace, name))
                WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS revision (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER);
            INSERT OR IGNORE INTO revision VALUES (1, 1);
            """
        )
        self._objects: dict[str, dict[Key, Entry]] = {}
        self._subscriptions: set[Subscription] = set()
        self._observers: list[Callable[[Change], None]] = []
        self._history: deque[Change] = deque(maxlen=history)
        (self.version,) = self._database.execute("SELECT version FROM revision").fetchone()
        self._oldest = self.version
        for resource, namespace, name, version, body in self._database.execute("SELECT * FROM object"):
            key = Key(resource, namespace, name)
            self._objects.setdefault(resource, {})[key] = Entry(key, version, body, msgspec.json.decode(body))

    def close(self) -> None:
        self._database.close()

    def get(self, key: Key) -> Entry | None:
        return self._objects.get(key.resource, {}).get(key)

    def all(self, resource: str, namespace: str = "") -> list[Entry]:
        """In the order of namespace and name, which paging depends on."""
        entries = self._objects.get(resource, {}).values()
        return sorted((e for e in entries if namespace in ("", e.key.namespace)), key=attrgetter("key"))

    def all_at(self, version: int, resource: str, namespace: str = "") -> list[Entry]:
        """What `all` gave at a version of the past: the present, with the changes since then undone."""
        if version < self._oldest:
            raise expired("The provided continue parameter is too old to display a consistent list result.")
        entries = {entry.key: entry for entry in self.all(resource, namespace)}
        for change in reversed(list(self._since(version))):
            if change.key.resource != resource or namespace not in ("", change.key.namespace):
                continue
            if change.before is None:
                entries.pop(change.key, None)
            else:
                entries[change.key] = change.before
        return sorted(entries.values(), key=attrgetter("key"))

    def put(self, key: Key, body: Object, *, expected: int) -> Entry:
        """Write `body` if the object is still at version `expected` (0: if there is none). Sets its resourceVersion."""
        before = self._checked(key, expected)
        version = self.version + 1
        body["metadata"]["resourceVersion"] = str(version)
        raw = msgspec.json.encode(body)
        entry = Entry(key, version, raw, msgspec.json.decode(raw))
        with self._transaction(version):
            row = (key.resource, key.namespace, key.name, version, raw)
            self._database.execute("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?)", row)
        self._objects.setdefault(key.resource, {})[key] = entry
        self._publish(Change(version, key, before, entry, entry))
        return entry

    def remove(self, key: Key, *, expected: int) -> Entry:
        """Delete, and return the object as it was last, at the version of its deletion."""
        before = self._checked(key, expected)
        if before is None:
            raise Conflict(key)
        version = self.version + 1
        body = before.thaw()
        body["metadata"]["resourceVersion"] = str(version)
        last = Entry(key, version, msgspec.json.encode(body), body)
        with self._transaction(version):
            row = (key.resource, key.namespace, key.name)
            self._database.execute("DELETE FROM object WHERE resource = ? AND namespace = ? AND name = ?", row)
        del self._objects[key.resource][key]
        self._publish(Change(version, key, before, None, last))
        return last

    def compact(self) -> None:
        """Forget the past: every watch that is behind, or that resumes, finds it expired."""
        self._history.clear()
        self._oldest = self.version

    def observe(self, observer: Callable[[Change], None]) -> None:
        """Call `observer` within each change from now on, before the writer sees its answer."""
        self._observers.append(observer)

    def cut_watches(self) -> None:
        for subscription in self._subscriptions:
            subscription.cut()

    @contextmanager
    def subscribe(self, resource: str, namespace: str = "", *, since: int) -> Iterator[Subscription]:
        """Changes after version `since`, first those of the past; raises Expired where these are no longer known."""
        if since < self._oldest:
            raise expired(f"too old resource version: {since} ({self._oldest})")
        subscription = Subscription(resource, namespace, since)
        for change in self._since(since):
            if subscription.wants(change):
                subscription.offer(change)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _since(self, version: int) -> Iterator[Change]:
        start = bisect.bisect_right(self._history, version, key=attrgetter("version"))
        return (self._history[index] for index in range(start, len(self._history)))

    def _checked(self, key: Key, expected: int) -> Entry | None:
        entry = self.get(key)
        if (entry.version if entry else 0) != expected:
            raise Conflict(key)
        return entry

    @contextmanager
    def _transaction(self, version: int) -> Iterator[None]:
        self._database.execute("BEGIN")
        try:
            yield
            self._database.execute("UPDATE revision SET version = ?", (version,))
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        self.version = version

    def _publish(self, change: Change) -> None:
        if len(self._history) == self._history.maxlen:
            self._oldest = self._history[0].version
        self._history.append(change)
        for observer in self._observers:
            observer(change)
        for subscription in self._subscriptions:
            if subscription.wants(change):
                subscription.offer(change)
