"""What this process wrote and its cache does not show yet.

A cache runs a little behind the API, and so behind one's own writes. A reconcile that looks at it right after it made something
finds that missing, and makes it again; or finds the old state, and undoes what it did. Names that follow from the key turn the
second making into a conflict, which is harmless. For all else: note what was written, and do not decide before the cache shows it.

    if left := expectations.unmet(key):
        return RequeueAfter(left)
    …
    expectations.wrote(key, await client.create(…))

The wait has an end. A write may never show (deleted by another in between two lists), and to be stuck is worse than to be
wrong once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Generic

from .backoff import Clock, loop_time
from .informer import Informer
from .source import ObjectT
from .store import Change

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Expected:
    uid: str
    version: str
    """What was written; empty: that it was deleted."""
    until: float


class Expectations(Generic[ObjectT]):
    """The unmet expectations of a controller about the objects of one informer, by the reconcile's key and the object's."""

    def __init__(self, informer: Informer[ObjectT], *, patience: float = 30.0, clock: Clock = loop_time) -> None:
        self._informer = informer
        self._patience = patience
        self._clock = clock
        # Object's key → reconcile's key → what is awaited. Nothing is empty.
        self._awaited: dict[str, dict[str, _Expected]] = {}
        informer.add_handler(self._changed)

    def wrote(self, key: str, written: ObjectT) -> None:
        """`key`'s reconcile made or changed an object, and this was the answer. A second write of it replaces the first."""
        meta = written.metadata
        shown = self._informer.store.get(meta.key)
        if shown is None or not _reaches(shown.metadata.resource_version, meta.resource_version):
            self._await(key, meta.key, _Expected(meta.uid, meta.resource_version, self._clock() + self._patience))

    def deleted(self, key: str, gone: ObjectT) -> None:
        """`key`'s reconcile deleted an object that nothing holds back. Not for one that a finalizer or a grace period keeps."""
        meta = gone.metadata
        shown = self._informer.store.get(meta.key)
        if shown is not None and shown.metadata.uid == meta.uid:
            self._await(key, meta.key, _Expected(meta.uid, "", self._clock() + self._patience))

    def unmet(self, key: str) -> float:
        """Seconds until `key`'s last expectation is given up, if the cache does not meet them all before; 0: it has."""
        left = 0.0
        for object_key in [o for o, awaited in self._awaited.items() if key in awaited]:
            remaining = self._awaited[object_key][key].until - self._clock()
            if remaining <= 0.0:
                log.warning(
                    "gave up waiting for the cache to show a write", extra={"informer": self._informer.name, "key": object_key}
                )
                self._drop(object_key, key)
            left = max(left, remaining)
        return left

    def forget(self, key: str) -> None:
        """`key` is gone, and so is whatever was expected for it."""
        for object_key in [o for o, awaited in self._awaited.items() if key in awaited]:
            self._drop(object_key, key)

    def _await(self, key: str, object_key: str, expected: _Expected) -> None:
        self._awaited.setdefault(object_key, {})[key] = expected

    def _changed(self, change: Change[ObjectT]) -> None:
        for key, expected in list(self._awaited.get(change.key, {}).items()):
            if _meets(change, expected):
                self._drop(change.key, key)

    def _drop(self, object_key: str, key: str) -> None:
        awaited = self._awaited[object_key]
        del awaited[key]
        if not awaited:
            del self._awaited[object_key]


def _meets(change: Change[ObjectT], expected: _Expected) -> bool:
    # Whatever was awaited of an object, its end meets it. An earlier object of the same name may end first: that is not it.
    if change.new is None:
        return change.old is not None and change.old.metadata.uid == expected.uid
    if not expected.version:
        return change.new.metadata.uid != expected.uid
    return _reaches(change.new.metadata.resource_version, expected.version)


def _reaches(shown: str, written: str) -> bool:
    """Versions of one resource compare as numbers (which Kubernetes promises since 1.35). What are no numbers can only be equal."""
    if shown.isdecimal() and written.isdecimal():
        return int(shown) >= int(written)
    return shown == written
