"""Kubernetes Events: the story that `kubectl describe` tells below an object.

Recording one never fails, never waits and never harms what it tells of: it puts a note into a bounded box, and a task in
the background writes the notes down. The same thing said again raises a count instead of making another event. An object
that has too much to say is cut short, and when the API server stays away, notes are lost in the end; conditions are the
place for what must be known.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from ..api.meta import ObjectMeta, Projection, now
from ..api.resources import Resource
from . import errors
from .client import KubeClient

log = logging.getLogger(__name__)

CAPACITY: Final = 1000
"""Notes that wait, and as many events that are remembered so as to count them up."""
BURST: Final = 25
REFILL: Final = 300.0
"""Events per object: so many at once, then one more in so many seconds (client-go, EventSourceObjectSpamFilter)."""
MESSAGE_LIMIT: Final = 1024
"""Bytes (core/v1 validation, NoteLengthLimit)."""
ATTEMPTS: Final = 6
FIRST_DELAY: Final = 0.5
"""Seconds before the second attempt; doubled each time. About fifteen in all."""
FLUSH: Final = 2.0
"""Seconds at the end for what is still to be written."""


class ObjectReference(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What an event is about (core/v1 ObjectReference)."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""

    @classmethod
    def of(cls, resource: Resource[Any], metadata: ObjectMeta) -> ObjectReference:
        return cls(
            api_version=resource.api_version,
            kind=resource.kind,
            name=metadata.name,
            namespace=metadata.namespace,
            uid=metadata.uid,
            resource_version=metadata.resource_version,
        )


class _Event(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


EVENTS: Final = Resource("", "v1", "events", "Event", True, _Event)

_Subject: TypeAlias = tuple[str, str, str, str]
_Key: TypeAlias = tuple[_Subject, str, str, str]


@dataclass(slots=True)
class _Note:
    """What is to be written: a new event, or so many more of one that exists."""

    reference: ObjectReference
    type: str
    reason: str
    message: str
    first: str
    last: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class _Written:
    """An event that exists, as far as we know; the server forgets events after an hour."""

    name: str
    namespace: str
    count: int


@dataclass(slots=True)
class _Allowance:
    """A token bucket."""

    left: float
    at: float

    def take(self, at: float) -> bool:
        self.left = min(float(BURST), self.left + (at - self.at) / REFILL)
        self.at = at
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(slots=True)
class Notes:
    """The box of notes, bounded in every direction. Pure but for the clock that it is given."""

    clock: Callable[[], float]
    pending: OrderedDict[_Key, _Note] = field(default_factory=OrderedDict)
    written: OrderedDict[_Key, _Written] = field(default_factory=OrderedDict)
    allowances: OrderedDict[_Subject, _Allowance] = field(default_factory=OrderedDict)
    dropped: int = 0

    def add(self, note: _Note) -> bool:
        """Whether it was taken. One that says what a waiting one says is counted with it."""
        key = _key(note)
        if not self._allowed(key[0]):
            return False
        if waiting := self.pending.get(key):
            waiting.times += 1
            waiting.last = note.last
            return True
        if len(self.pending) >= CAPACITY:
            self.dropped += 1
            return False
        self.pending[key] = note
        return True

    def next(self) -> tuple[_Note, _Written | None] | None:
        """The oldest note, taken out, and the event that says the same already."""
        if not self.pending:
            return None
        key, note = self.pending.popitem(last=False)
        return note, self.written.get(key)

    def wrote(self, note: _Note, event: _Written) -> None:
        _remember(self.written, _key(note), event)

    def _allowed(self, subject: _Subject) -> bool:
        at = self.clock()
        allowance = self.allowances.get(subject) or _Allowance(float(BURST), at)
        _remember(self.allowances, subject, allowance)
        return allowance.take(at)


_K = TypeVar("_K")
_V = TypeVar("_V")


def _remember(kept: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    """Keeps what was used last, and forgets what was not used for longest."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > CAPACITY:
        kept.popitem(last=False)


def _key(note: _Note) -> _Key:
    of = note.reference
    return (of.kind, of.namespace, of.name, of.uid), note.type, note.reason, note.message


class EventRecorder:
    """Writes events while its `async with` block lasts; what is recorded before waits, what is recorded after is lost."""

    def __init__(
        self, client: KubeClient, *, component: str = "dynvol", instance: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`component` and `instance` (a node, a pod) are shown as the event's source."""
        self._client = client
        self._source = {"component": component} | ({"host": instance} if instance else {})
        self._reporter = {"reportingComponent": component, "reportingInstance": instance or component}
        self._notes = Notes(clock)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks = asyncio.TaskGroup()
        self._writer: asyncio.Task[None] | None = None

    def normal(self, reference: ObjectReference, reason: str, message: str) -> None:
        """`reason` is CamelCase and stable; `message` is a sentence for people, without secrets."""
        self._record(reference, "Normal", reason, message)

    def warning(self, reference: ObjectReference, reason: str, message: str) -> None:
        """As `normal`, for what somebody may have to look after."""
        self._record(reference, "Warning", reason, message)

    async def __aenter__(self) -> EventRecorder:
        await self._tasks.__aenter__()
        self._writer = self._tasks.create_task(self._write_all(), name="events")
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH):
                    await self._idle.wait()
        finally:
            if self._writer is not None:
                self._writer.cancel()
            # What the block raised is not the group's affair; it would come out wrapped.
            await self._tasks.__aexit__(None, None, None)

    def _record(self, reference: ObjectReference, type_: str, reason: str, message: str) -> None:
        text = message.encode()[:MESSAGE_LIMIT].decode(errors="ignore")
        at = now()
        if self._notes.add(_Note(reference, type_, reason, text, first=at, last=at)):
            self._idle.clear()
            self._wake.set()

    async def _write_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while found := self._notes.next():
                await self._write(*found)
            if self._notes.dropped:
                log.warning("events were lost: there were more than could be written", extra={"lost": self._notes.dropped})
                self._notes.dropped = 0
            self._idle.set()

    async def _write(self, note: _Note, before: _Written | None) -> None:
        delay = FIRST_DELAY
        for attempt in range(ATTEMPTS):
            try:
                self._notes.wrote(note, await self._count_up(note, before) if before else await self._create(note))
                return
            except errors.NotFound:
                if before is None:
                    break  # The namespace is gone, and the object with it.
                before = None  # The server has forgotten the event: make it anew.
            except errors.KubeError as error:
                if not error.retryable or isinstance(error, errors.Forbidden) or attempt == ATTEMPTS - 1:
                    log.warning("an event is lost", extra={"reason": note.reason, "error": str(error)})
                    return
                await asyncio.sleep(delay)
                delay *= 2
            except Exception:
                log.exception("an event is lost", extra={"reason": note.reason})
                return

    async def _create(self, note: _Note) -> _Written:
        namespace = note.reference.namespace or "default"
        # As client-go names them; the hexadecimal digits tell two about one object apart.
        name = f"{note.reference.name[:230].rstrip('.-')}.{secrets.token_hex(8)}"
        body = {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": note.reference,
            "type": note.type,
            "reason": note.reason,
            "message": note.message,
            "count": note.times,
            "firstTimestamp": note.first,
            "lastTimestamp": note.last,
            "source": self._source,
        }
        await self._client.create(EVENTS, body | self._reporter, namespace=namespace)
        return _Written(name, namespace, note.times)

    async def _count_up(self, note: _Note, before: _Written) -> _Written:
        count = before.count + note.times
        body = {"count": count, "lastTimestamp": note.last}
        await self._client.merge_patch(EVENTS, before.name, body, namespace=before.namespace)
        return _Written(before.name, before.namespace, count)
