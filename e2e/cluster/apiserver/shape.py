"""How a value is put together, read from OpenAPI: which lists are maps by a key, which maps are atomic.

Patches, server-side apply and pruning all walk values beside their shapes. A schema here is OpenAPI v3 with Kubernetes'
extensions; `$ref` names a definition of the same library. A value that no schema describes has the shape `UNKNOWN`, in which
maps merge and lists are atomic, as the real server deduces them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from e2e.cluster.apiserver.status import Json, Object

ListType = Literal["atomic", "set", "map"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A node of a schema, with what is needed to follow its references."""

    schema: Object
    definitions: Mapping[str, Object]

    @property
    def is_known(self) -> bool:
        return bool(self.schema)

    @property
    def type(self) -> str:
        return str(self.schema.get("type", ""))

    @property
    def fields(self) -> Mapping[str, Object]:
        return self.schema.get("properties") or {}

    @property
    def takes_any_field(self) -> bool:
        """Whether names outside `properties` are data, not mistakes."""
        schema = self.schema
        if schema.get("x-kubernetes-preserve-unknown-fields") or not schema:
            return True
        return bool(schema.get("additionalProperties")) or schema.get("type") not in ("object", None)

    @property
    def is_atomic_map(self) -> bool:
        return self.schema.get("x-kubernetes-map-type") == "atomic"

    @property
    def list_type(self) -> ListType:
        return self.schema.get("x-kubernetes-list-type", "atomic")  # type: ignore[no-any-return]

    @property
    def keys(self) -> tuple[str, ...]:
        """The fields that together name an element of a list that is a map."""
        return tuple(self.schema.get("x-kubernetes-list-map-keys") or ())

    @property
    def merge_key(self) -> str:
        """The one field that names an element to strategic merge patch; empty where the list is replaced whole."""
        return str(self.schema.get("x-kubernetes-patch-merge-key", ""))

    @property
    def patch_strategies(self) -> frozenset[str]:
        return frozenset(filter(None, self.schema.get("x-kubernetes-patch-strategy", "").split(",")))

    def field(self, name: str) -> Shape:
        schema = self.fields.get(name)
        if schema is None:
            extra = self.schema.get("additionalProperties")
            schema = extra if isinstance(extra, dict) else {}
        return self._at(schema)

    @property
    def items(self) -> Shape:
        items = self.schema.get("items")
        return self._at(items if isinstance(items, dict) else {})

    def default_of_key(self, name: str) -> Json:
        """What a list-map key counts as where an element leaves it out: its default."""
        return self.items.field(name).schema.get("default")

    def _at(self, schema: Object) -> Shape:
        return Shape(resolved(schema, self.definitions), self.definitions)


def resolved(schema: Object, definitions: Mapping[str, Object]) -> Object:
    """`schema`, or what it refers to, with what it adds to that (a description, a merge key)."""
    if "$ref" not in schema:
        return schema
    name = str(schema["$ref"]).rpartition("/")[2]
    return {**definitions[name], **{key: value for key, value in schema.items() if key != "$ref"}}


UNKNOWN = Shape({}, {})
