"""The types of everything served, and what follows from them alone: unknown fields, defaults, validation.

Built-in kinds have schemas that `builtin_types` derives; custom kinds bring theirs. Built-in kinds are checked as Go's decoder
checks them (a number is not a text, an unknown field is dropped); custom kinds as their structural schema says, which is in
`schema`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from e2e.cluster.apiserver import schema
from e2e.cluster.apiserver.builtin_types import model_name
from e2e.cluster.apiserver.request import Call
from e2e.cluster.apiserver.resources import Catalog, Resource
from e2e.cluster.apiserver.shape import UNKNOWN, Shape
from e2e.cluster.apiserver.status import FieldError, Json, Object, bad_request

_GO_TYPES = {"string": "string", "integer": "int64", "number": "float64", "boolean": "bool"}


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
        unknown: list[str] = []
        if resource.custom is None:
            cleaned: Object = _decoded(body, self.shape(resource), "", resource, unknown)
        else:
            cleaned = schema.pruned(body, self.shape(resource), unknown)
        if unknown and call.field_validation == "Strict":
            listed = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise _unreadable(resource, f"strict decoding error: {listed}")
        if call.field_validation == "Warn":
            for path in unknown:
                call.warn(f'unknown field "{path}"')
        return cleaned

    def default(self, resource: Resource, body: Object) -> None:
        if resource.schema is not None:
            schema.default(body, self.shape(resource))

    def problems(self, resource: Resource, body: Object, old: Object | None) -> Iterator[FieldError]:
        if resource.schema is not None:
            yield from schema.problems(resource, body, old, self.shape(resource))


def _unreadable(resource: Resource, why: str) -> Exception:
    return bad_request(f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {why}')


def _decoded(value: Json, shape: Shape, path: str, resource: Resource, unknown: list[str]) -> Json:
    """What Go's decoder makes of `value`: nulls and unknown fields are gone, a wrong type is an error."""
    if shape.schema.get("x-kubernetes-int-or-string") and not isinstance(value, (int, str)):
        raise _unreadable(resource, f"json: cannot unmarshal into Go struct field {path} of type intstr.IntOrString")
    if not shape.is_known or (shape.type == "" and not shape.fields):
        return value
    match shape.type, value:
        case "object", dict():
            return _decoded_fields(value, shape, path, resource, unknown)
        case "array", list():
            items = shape.items
            return [_decoded(item, items, f"{path}[{index}]", resource, unknown) for index, item in enumerate(value)]
        case "string", str():
            return value
        case "string", int() | float() if shape.schema.get("x-quantity") and not isinstance(value, bool):
            return str(value)
        case "boolean", bool():
            return value
        case "integer", int() if not isinstance(value, bool):
            return value
        case "integer", float() if value.is_integer():
            return int(value)
        case "number", int() | float() if not isinstance(value, bool):
            return value
    shown = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}[type(value)]
    wanted = _GO_TYPES.get(shape.type, shape.type)
    raise _unreadable(resource, f"json: cannot unmarshal {shown} into Go struct field {path.lstrip('.')} of type {wanted}")


def _decoded_fields(value: Object, shape: Shape, path: str, resource: Resource, unknown: list[str]) -> Object:
    result: Object = {}
    known, open_ended = shape.fields, shape.takes_any_field
    for name, inner in value.items():
        if inner is None:
            continue
        at = f"{path}.{name}" if path else name
        if known and name not in known and not open_ended:
            unknown.append(at)
            continue
        result[name] = _decoded(inner, shape.field(name), at, resource, unknown)
    return result
