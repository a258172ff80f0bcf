"""The objects that an informer knows, by key and by index.

Whoever reads it gets the very objects that the informer holds: they are shared and must not be changed. The write half is the
informer's alone. A store knows nothing of versions, of order, or of who is told what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeAlias

from .source import ObjectT

Indexer: TypeAlias = Callable[[ObjectT], Iterable[str]]
"""The values under which an object is to be found: none, one or many. It is pure: it is asked once per object."""

NO_INDEXERS: Mapping[str, Callable[[object], Iterable[str]]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Change(Generic[ObjectT]):
    """One object came (`old` is None), changed, or went (`new` is None). Both are of the same uid."""

    old: ObjectT | None
    new: ObjectT | None
    initial: bool = False
    """It was there before anyone looked: part of the first list, or of what a late handler is told at first."""

    @property
    def key(self) -> str:
        present = self.new if self.new is not None else self.old
        assert present is not None, "a change is of something"
        return present.metadata.key


class View(Generic[ObjectT]):
    """The read half of a store."""

    def __init__(self, *, indexers: Mapping[str, Indexer[ObjectT]] = NO_INDEXERS) -> None:
        self._indexers = dict(indexers)
        self._objects: dict[str, ObjectT] = {}
        # Index → value → the keys found there, in the order in which they came (a dict for a set that keeps order). Most values
        # have one: then it stands by itself, since a dict for each would weigh as much as the objects. No value has no key.
        self._indexes: dict[str, dict[str, str | dict[str, None]]] = {name: {} for name in indexers}
        # What each object was filed under, index by index, so that it can be unfiled without asking the indexers about the old
        # object again. Tuples, not a dict each: there is one for every object.
        self._filed: dict[str, tuple[tuple[str, ...], ...]] = {}

    def get(self, key: str) -> ObjectT | None:
        return self._objects.get(key)

    def keys(self) -> tuple[str, ...]:
        return tuple(self._objects)

    def values(self) -> tuple[ObjectT, ...]:
        """A snapshot: it may be walked across an `await`."""
        return tuple(self._objects.values())

    def by_index(self, index: str, value: str) -> tuple[ObjectT, ...]:
        """The objects that the indexer files under `value`. Raises KeyError where there is no such index."""
        found = self._indexes[index].get(value, ())
        return (self._objects[found],) if isinstance(found, str) else tuple(self._objects[key] for key in found)

    def index_values(self, index: str) -> tuple[str, ...]:
        """The values under which there is anything."""
        return tuple(self._indexes[index])

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[ObjectT]:
        return iter(self.values())


class Store(View[ObjectT]):
    """Both halves. Each write says what it changed; a write that raises has changed nothing."""

    def upsert(self, new: ObjectT) -> tuple[Change[ObjectT], ...]:
        """Two changes where the object was deleted and made anew unseen: that looks like an update, but it is another object."""
        values = self._values(new)
        key = new.metadata.key
        old = self._objects.get(key)
        self._unfile(key)
        self._objects[key] = new
        self._file(key, values)
        if old is not None and old.metadata.uid != new.metadata.uid:
            return Change(old, None), Change(None, new)
        return (Change(old, new),)

    def remove(self, key: str) -> tuple[Change[ObjectT], ...]:
        old = self._objects.pop(key, None)
        if old is None:
            return ()
        self._unfile(key)
        return (Change(old, None),)

    def replace(self, objects: Iterable[ObjectT]) -> tuple[Change[ObjectT], ...]:
        """Hold `objects` and nothing else; what changed is as `become` says."""
        arrived = self.empty()
        for new in objects:
            arrived.upsert(new)
        return tuple(self.become(arrived))

    def empty(self) -> Store[ObjectT]:
        """Another store with the same indexers, for objects that come one by one and are to replace all of these at once."""
        return Store(indexers=self._indexers)

    def become(self, other: Store[ObjectT], *, initial: bool = False) -> Iterator[Change[ObjectT]]:
        """Hold what `other` holds, filed as it is there, and nothing else. `other` is of no use afterwards.

        The changes can be asked for one by one; the store is as it will be before the first. Deletions come first, with what was
        last known of what went. An object of the same version is no change.
        """
        before, self._objects = self._objects, other._objects
        self._indexes, self._filed = other._indexes, other._filed
        return _changes(before, dict(self._objects), initial=initial)

    def _values(self, new: ObjectT) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(indexer(new)) for indexer in self._indexers.values())

    def _file(self, key: str, values: tuple[tuple[str, ...], ...]) -> None:
        self._filed[key] = values
        for index, found in zip(self._indexes.values(), values, strict=True):
            for value in found:
                match index.get(value):
                    case None:
                        index[value] = key
                    case dict() as keys:
                        keys[key] = None
                    case other if other != key:
                        index[value] = {other: None, key: None}

    def _unfile(self, key: str) -> None:
        if key not in self._filed:
            return
        for index, found in zip(self._indexes.values(), self._filed.pop(key), strict=True):
            for value in set(found):
                keys = index[value]
                if isinstance(keys, dict) and len(keys) > 1:
                    del keys[key]
                else:
                    del index[value]


def _changes(before: Mapping[str, ObjectT], after: Mapping[str, ObjectT], *, initial: bool) -> Iterator[Change[ObjectT]]:
    for key, old in before.items():
        present = after.get(key)
        if present is None or present.metadata.uid != old.metadata.uid:
            yield Change(old, None, initial)
    for key, new in after.items():
        known = before.get(key)
        if known is None or known.metadata.uid != new.metadata.uid:
            yield Change(None, new, initial)
        elif known.metadata.resource_version != new.metadata.resource_version:
            yield Change(known, new, initial)
