"""Built-in objects as Go's decoder reads them: nulls and unknown fields are dropped, a wrong type is an error.

The two forms of a path differ as they do there: unknown fields are told with indices (`spec.containers[0].x`), type errors without,
behind the innermost Go struct (`Container.spec.containers.image`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from e2e.cluster.apiserver.shape import Shape
from e2e.cluster.apiserver.status import Json, Object

_GO_TYPES = {"string": "string", "integer": "int64", "number": "float64", "boolean": "bool", "array": "[]", "object": "map"}
_JSON_TYPES = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}


class WrongType(Exception):
    """A value that Go could not put where it stands."""


@dataclass(slots=True)
class Decoder:
    unknown: list[str] = field(default_factory=list)
    """The paths of fields that the type does not have."""

    def read(self, value: Json, shape: Shape, path: str = "", struct: str = "") -> Json:
        """`value` as it is stored; `struct` is the Go type of the innermost object around it."""
        if shape.schema.get("x-kubernetes-int-or-string"):
            return value if isinstance(value, (int, str)) else self._refuse(value, "intstr.IntOrString", path, struct)
        if not shape.type:
            return value
        match shape.type, value:
            case "object", dict():
                return self._read_fields(value, shape, path, str(shape.schema.get("x-go-type", struct)))
            case "array", list():
                items = shape.items
                return [self.read(item, items, f"{path}[{index}]", struct) for index, item in enumerate(value)]
            case "boolean", bool():
                return value
            case _, bool():
                pass
            case ("string", str()) | ("integer", int()) | ("number", int() | float()):
                return value
            case "string", int() | float() if shape.schema.get("x-quantity"):
                return str(value)
            case "integer", float() if value.is_integer():
                return int(value)
        return self._refuse(value, _GO_TYPES[shape.type], path, struct)

    def _read_fields(self, value: Object, shape: Shape, path: str, struct: str) -> Object:
        result: Object = {}
        known, open_ended = shape.fields, shape.takes_any_field
        for name, inner in value.items():
            if inner is None:
                continue
            at = f"{path}.{name}" if path else name
            if name in known:
                result[name] = self.read(inner, shape.field(name), at, struct)
            elif open_ended or not known:
                # The key of a map is no part of what Go calls the field.
                result[name] = self.read(inner, shape.field(name), path, struct)
            else:
                self.unknown.append(at)
        return result

    def _refuse(self, value: Json, wanted: str, path: str, struct: str) -> Json:
        found = _JSON_TYPES[type(value)]
        without_indices = re.sub(r"\[\d+\]", "", path)
        raise WrongType(f"json: cannot unmarshal {found} into Go struct field {struct}.{without_indices} of type {wanted}")
