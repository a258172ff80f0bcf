"""The types of everything served, and what follows from them alone: unknown fields, defaults, validation.

Built-in kinds have schemas that `builtin_types` derives, and are read as Go reads them (`decoding`); custom kinds bring theirs, and
are held to them (`schema`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from e2e.cluster.apiserver import schema
from e2e.cluster.apiserver.builtin_types import model_name
from e2e.cluster.apiserver.decoding import Decoder, WrongType
from e2e.cluster.apiserver.request import Call
from e2e.cluster.apiserver.resources import Catalog, Resource
from e2e.cluster.apiserver.shape import UNKNOWN, Shape
from e2e.cluster.apiserver.status import ApiError, FieldError, Object, bad_request


class Types:
    def __init__(self, definitions: Mapping[str, Object], catalog: Catalog) -> None:
        self.definitions = definitions
        self._catalog = catalog
        self._shapes: dict[tuple[str, str, int], Shape] = {}

    def shape(self, resource: Resource) -> Shape:
        """The shape of the whole object, its metadata included."""
        key = (resource.api_version, resource.plural, resource.served_since)
        if key not in self._shapes:
            self._shapes[key] = self._make_shape(resource)
        return self._shapes[key]

    def _make_shape(self, resource: Resource) -> Shape:
        if resource.custom is None:
            definition = self.definitions.get(model_name(resource))
            return Shape(definition, self.definitions) if definition else UNKNOWN
        document = dict(resource.schema or {"x-kubernetes-preserve-unknown-fields": True})
        text = {"type": "string"}
        meta = {"metadata": {"$ref": "#/definitions/V1ObjectMeta"}, "apiVersion": text, "kind": text}
        document["properties"] = {**document.get("properties", {}), **meta}
        return Shape(document, self.definitions)

    def storage_version(self, resource: Resource) -> str:
        versions = self._catalog.of_group_resource(resource.group, resource.plural)
        stored = [r.version for r in versions if r.custom is not None and r.custom.get("storage")]
        return stored[0] if stored else resource.version

    def clean(self, resource: Resource, body: Object, call: Call) -> Object:
        """`body` without what its type does not know; says so as the request's fieldValidation asks."""
        cleaned, unknown = self._read(resource, body)
        if unknown and call.field_validation == "Strict":
            listed = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise _unreadable(resource, f"strict decoding error: {listed}")
        if call.field_validation == "Warn":
            for path in unknown:
                call.warn(f'unknown field "{path}"')
        return cleaned

    def undeclared(self, resource: Resource, body: Object) -> list[str]:
        """The paths of fields that the type does not have."""
        return self._read(resource, body)[1]

    def _read(self, resource: Resource, body: Object) -> tuple[Object, list[str]]:
        if resource.custom is not None:
            unknown: list[str] = []
            return schema.pruned(body, self.shape(resource), unknown), unknown
        decoder = Decoder()
        try:
            return decoder.read(body, self.shape(resource)), decoder.unknown
        except WrongType as error:
            raise _unreadable(resource, str(error)) from error

    def default(self, resource: Resource, body: Object) -> None:
        if resource.schema is not None:
            schema.default(body, self.shape(resource))

    def problems(self, resource: Resource, body: Object, old: Object | None) -> Iterator[FieldError]:
        if resource.schema is not None:
            yield from schema.problems(resource, body, old, self.shape(resource))


def _unreadable(resource: Resource, why: str) -> ApiError:
    return bad_request(f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {why}')
