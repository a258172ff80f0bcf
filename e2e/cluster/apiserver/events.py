"""Events are served by two groups from one storage: "" says `message`, events.k8s.io says `note`, and so on.

Stored is the core form, which kubectl reads. Events expire; see `expiry` in `server`.
"""

from __future__ import annotations

from e2e.cluster.apiserver.status import Object

CORE_TO_NEW = {
    "message": "note",
    "involvedObject": "regarding",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
NEW_TO_CORE = {new: core for core, new in CORE_TO_NEW.items()}


def from_core(body: Object) -> Object:
    """As events.k8s.io/v1 shows it."""
    return {CORE_TO_NEW.get(name, name): value for name, value in body.items()} | {"apiVersion": "events.k8s.io/v1"}


def to_core(body: Object) -> Object:
    """As it is stored."""
    return {NEW_TO_CORE.get(name, name): value for name, value in body.items()} | {"apiVersion": "v1"}
