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
        # Index → value → the keys found there, in the order in which they came (a dict for a set that keeps order).
        # No value has an empty set of keys.
        self._indexes: dict[str, dict[str, dict[str, None]]] = {name: {} for name in indexers}
        # What each object was filed under, so that it can be unfiled without asking the indexer about the old object again.
        self._filed: dict[str, dict[str, tuple[str, ...]]] = {}

    def get(self, key: str) -> ObjectT | None:
        return self._objects.get(key)

    def keys(self) -> tuple[str, ...]:
        return tuple(self._objects)

    def values(self) -> tuple[ObjectT, ...]:
        """A snapshot: it may be walked across an `await`."""
        return tuple(self._objects.values())

    def by_index(self, index: str, value: str) -> tuple[ObjectT, ...]:
        """The objects that the indexer files under `value`. Raises KeyError where there is no such index."""
        return tuple(self._objects[key] for key in self._indexes[index].get(value, ()))

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
        """Hold `objects` and nothing else.

        Deletions come first, with what was last known of what went. An object of the same version is no change.
        """
        wanted = {o.metadata.key: o for o in objects}
        values = {key: self._values(new) for key, new in wanted.items()}
        before, self._objects = self._objects, wanted
        self._indexes = {name: {} for name in self._indexers}
        self._filed = {}
        for key, filed in values.items():
            self._file(key, filed)
        return (*_deletions(before, wanted), *_upserts(before, wanted))

    def _values(self, new: ObjectT) -> dict[str, tuple[str, ...]]:
        return {name: tuple(indexer(new)) for name, indexer in self._indexers.items()}

    def _file(self, key: str, values: dict[str, tuple[str, ...]]) -> None:
        self._filed[key] = values
        for index, found in values.items():
            for value in found:
                self._indexes[index].setdefault(value, {})[key] = None

    def _unfile(self, key: str) -> None:
        for index, found in self._filed.pop(key, {}).items():
            for value in set(found):
                keys = self._indexes[index][value]
                del keys[key]
                if not keys:
                    del self._indexes[index][value]


def _deletions(before: Mapping[str, ObjectT], after: Mapping[str, ObjectT]) -> Iterator[Change[ObjectT]]:
    for key, old in before.items():
        new = after.get(key)
        if new is None or new.metadata.uid != old.metadata.uid:
            yield Change(old, None)


def _upserts(before: Mapping[str, ObjectT], after: Mapping[str, ObjectT]) -> Iterator[Change[ObjectT]]:
    for key, new in after.items():
        old = before.get(key)
        if old is None or old.metadata.uid != new.metadata.uid:
            yield Change(None, new)
        elif old.metadata.resource_version != new.metadata.resource_version:
            yield Change(old, new)
