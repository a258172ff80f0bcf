"""Which resources the API server has just now: for the garbage collector and the namespace controller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from e2e.cluster.api import ApiClient, ApiError, Mirror, Object


@dataclass(frozen=True, slots=True)
class Resource:
    group_version: str
    name: str
    kind: str
    namespaced: bool
    verbs: frozenset[str]


class Resources:
    """The discovered resources, asked for again only when a CRD has changed since."""

    def __init__(self, api: ApiClient, *, definitions: Mirror) -> None:
        self._api = api
        self._known: list[Resource] | None = None
        self.changed = asyncio.Event()
        definitions.listen(lambda kind, obj: self._forget())

    def _forget(self) -> None:
        self._known = None
        self.changed.set()

    async def known(self) -> list[Resource]:
        while self._known is None:
            self.changed.clear()
            found = await discover(self._api)
            if not self.changed.is_set():
                self._known = found
        return self._known


async def discover(api: ApiClient) -> list[Resource]:
    """Every resource that can be listed and deleted. A group that cannot be asked is left out."""
    versions = ["v1"]
    groups = (await api.get("/apis")).get("groups") or ()
    versions += [group["preferredVersion"]["groupVersion"] for group in groups]
    found: list[Resource] = []
    for version in versions:
        try:
            answer = await api.get("/api/v1" if version == "v1" else f"/apis/{version}")
        except ApiError:
            continue
        found += [_resource(version, entry) for entry in answer.get("resources") or () if "/" not in entry["name"]]
    return [resource for resource in found if {"list", "delete"} <= resource.verbs]


def _resource(version: str, entry: Object) -> Resource:
    return Resource(version, entry["name"], entry["kind"], entry["namespaced"], frozenset(entry["verbs"]))
