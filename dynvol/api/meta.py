"""Object metadata and conditions, as far as dynvol reads them.

Every type of this package is a projection: it decodes the fields that are used and drops the rest (managedFields first), so it
must never be PUT back. Writes are patches or server-side applies.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec


class Projection(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """Base of all decoded API types: immutable, camelCase on the wire, unknown fields dropped.

    Nothing immutable that came from JSON can be part of a cycle, so the garbage collector need not look at it: with 5,000 pods in a
    cache its passes would stop the process for a tenth of a second.
    """


class OwnerReference(Projection, frozen=True):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class ObjectMeta(Projection, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def key(self) -> str:
        """`namespace/name`, or `name` for what is cluster-scoped: the key of stores and queues."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def deleting(self) -> bool:
        return self.deletion_timestamp is not None


class Condition(Projection, frozen=True):
    """One entry of `status.conditions` (metav1.Condition)."""

    type: str
    status: str
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


def now() -> str:
    """The wall clock as the API writes it: RFC 3339, UTC, whole seconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(moment: str) -> float:
    """By the wall clocks of the API server and of this machine. What the API gives is well-formed; anything else is now."""
    try:
        then = datetime.datetime.fromisoformat(moment)
    except ValueError:
        return 0.0
    return (datetime.datetime.now(datetime.UTC) - then).total_seconds()


def with_transition_times(wanted: Sequence[Condition], *, had: Sequence[Condition], at: str) -> tuple[Condition, ...]:
    """Conditions to write: `last_transition_time` moves to `at` only where the status differs from what was there."""
    before = {c.type: c for c in had}

    def stamped(condition: Condition) -> Condition:
        old = before.get(condition.type)
        kept = old is not None and old.status == condition.status and old.last_transition_time
        return msgspec.structs.replace(condition, last_transition_time=old.last_transition_time if old and kept else at)

    return tuple(stamped(c) for c in wanted)
