"""The forms in which a client may have an object: whole, its metadata only, or as rows of a Table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from e2e.cluster.apiserver import table
from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.status import Object, not_acceptable

META = "meta.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Accepted:
    """One acceptable media type: `kind` is empty for the object as it is."""

    kind: str = ""
    group: str = ""
    version: str = ""
    is_yaml: bool = False


def accepted(header: str) -> Accepted:
    """The first offer that can be met; kubectl offers Table, then plain JSON."""
    for offer in (header or "*/*").split(","):
        media, *parameters = (part.strip() for part in offer.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media in ("application/yaml", "application/json", "application/*", "*/*"):
            kind = values.get("as", "")
            if kind in ("", "Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList"):
                return Accepted(kind, values.get("g", ""), values.get("v", ""), media == "application/yaml")
    raise not_acceptable()


class Rendering:
    """Turns a resource's objects into bytes, in the form that one request accepts."""

    def __init__(self, resource: Resource, wanted: Accepted, *, include: str, show: Callable[[Object], bytes]) -> None:
        self.resource = resource
        self._kind = wanted.kind
        self._include = include or "Metadata"
        self._show = show
        self._header_is_due = True

    @property
    def is_table(self) -> bool:
        return self._kind == "Table"

    def one(self, body: Object) -> bytes:
        match self._kind:
            case "Table":
                return self._table([body], {"resourceVersion": body["metadata"].get("resourceVersion", "")})
            case "PartialObjectMetadata":
                return msgspec.json.encode(_partial(body))
            case _:
                return self._show(body)

    def many(self, bodies: Iterable[Object], list_meta: Object) -> bytes:
        if self.is_table:
            return self._table(bodies, list_meta)
        if self._kind.startswith("PartialObjectMetadata"):
            items = [_partial(body) for body in bodies]
            header: Object = {"kind": "PartialObjectMetadataList", "apiVersion": META, "metadata": list_meta}
            return msgspec.json.encode(header | {"items": items})
        kind = self.resource.list_kind or f"{self.resource.kind}List"
        header = {"kind": kind, "apiVersion": self.resource.api_version, "metadata": list_meta}
        shown = b",".join(self._show(body) for body in bodies)
        return msgspec.json.encode(header)[:-1] + b',"items":[' + shown + b"]}"

    def event(self, event_type: str, body: Object) -> bytes:
        """One line of a watch. Of a table, only the first event brings the column definitions."""
        rendered = self.one(body) if event_type != "BOOKMARK" or not self.is_table else self._bookmark_table(body)
        return b'{"type":"' + event_type.encode() + b'","object":' + rendered + b"}\n"

    def _bookmark_table(self, body: Object) -> bytes:
        rows = [{"cells": [], "object": body | {"kind": "PartialObjectMetadata", "apiVersion": META}}]
        return msgspec.json.encode(_table_of([], rows, body["metadata"]))

    def _table(self, bodies: Iterable[Object], list_meta: Object) -> bytes:
        columns = table.columns(self.resource) if self._header_is_due else []
        self._header_is_due = False
        rows = [{"cells": table.cells(self.resource, body), "object": self._row_object(body)} for body in bodies]
        return msgspec.json.encode(_table_of(columns, rows, list_meta))

    def _row_object(self, body: Object) -> Object | None:
        match self._include:
            case "None":
                return None
            case "Object":
                return body
            case _:
                return _partial(body)


def _partial(body: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": body["metadata"]}


def _table_of(columns: list[Object], rows: list[Object], metadata: Object) -> Object:
    head: Object = {"kind": "Table", "apiVersion": META, "metadata": metadata}
    return head | {"columnDefinitions": columns, "rows": rows}
