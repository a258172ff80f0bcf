"""From the store's changes to the events that one watcher sees.

A watch with a selector sees a set of objects: one that comes to match is ADDED, one that ceases to match is DELETED, whatever
happened to it in truth. `events` is that decision; the transport around it (frames, formats, time limits) is the server's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from e2e.cluster.apiserver.request import is_true, version_of
from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.selectors import Predicate
from e2e.cluster.apiserver.status import Object, list_options
from e2e.cluster.apiserver.store import Change, Entry, Store, Subscription

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Event:
    type: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Start:
    """What a watch begins with: the objects that are there, and the changes from then on."""

    initial: list[Entry]
    announces_end: bool
    version: int
    changes: Subscription


@contextmanager
def begin(store: Store, storage: str, namespace: str, query: dict[str, str]) -> Iterator[Start]:
    """Read the query and subscribe, with no await between the list and the subscription, hence no gap."""
    wanted = query.get("resourceVersion", "")
    version = version_of(wanted)
    streams_list = is_true(query.get("sendInitialEvents", ""))
    _check(query, streams_list)
    from_now = streams_list or version == 0
    initial = store.all(storage, namespace) if from_now and query.get("sendInitialEvents", "").lower() != "false" else []
    since = store.version if from_now else version
    with store.subscribe(storage, namespace, since=since) as changes:
        yield Start(initial, streams_list, since, changes)


def _check(query: dict[str, str], streams_list: bool) -> None:
    match = query.get("resourceVersionMatch", "")
    if "sendInitialEvents" in query and match != "NotOlderThan":
        raise list_options("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    if "sendInitialEvents" not in query and match:
        why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        raise list_options("resourceVersionMatch", why)
    if streams_list and not is_true(query.get("allowWatchBookmarks", "")):
        raise list_options("allowWatchBookmarks", "sendInitialEvents requires setting allowWatchBookmarks to true")


def event_of(change: Change, selects: Predicate) -> Event | None:
    was = change.before is not None and selects(change.before.object)
    now = change.after is not None and selects(change.after.object)
    match was, now:
        case False, True:
            return Event("ADDED", change.last)
        case True, True:
            return Event("MODIFIED", change.last)
        case True, False:
            return Event("DELETED", _as_it_was(change))
        case _:
            return None


def _as_it_was(change: Change) -> Entry:
    """What a watcher loses sight of is shown as it last matched, at the version at which it ceased to."""
    if change.after is None or change.before is None:
        return change.last
    body = change.before.thaw()
    body["metadata"]["resourceVersion"] = str(change.version)
    return Entry(change.key, change.version, b"", body)


def bookmark(resource: Resource, version: int, *, initial_end: bool = False) -> Object:
    metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial_end:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
