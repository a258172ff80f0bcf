"""The OpenAPI v2 document in protobuf, as kubectl asks for it when it is given a `v1` List: it checks the items itself.

Only what that check reads is written: names, types, references, what is required. The field numbers are those of gnostic's
`openapi.v2`. It knows no `allOf`, so a reference that stands in one stands alone here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from e2e.cluster.apiserver.status import Object

ASKED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

_KIND = "x-kubernetes-group-version-kind"
_ANYTHING = ("x-kubernetes-preserve-unknown-fields", "nullable")
"""What may be more than its schema says is not described."""


def encode(document: Object) -> bytes:
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    return _text(1, document["swagger"]) + _part(2, info) + _part(8, b"") + _part(9, _named(document["definitions"]))


def _named(schemas: Object) -> bytes:
    return b"".join(_part(1, _text(1, name) + _part(2, _schema(schema))) for name, schema in schemas.items())


def _schema(schema: Object) -> bytes:
    if isinstance(whole := schema.get("allOf"), list) and len(whole) == 1:
        return _schema(whole[0])
    if reference := schema.get("$ref"):
        return _text(1, reference)
    extensions = _part(31, _text(1, _KIND) + _part(2, _text(2, json.dumps(schema[_KIND])))) if _KIND in schema else b""
    if any(schema.get(mark) is True for mark in _ANYTHING):
        return extensions
    return b"".join((_text(2, schema.get("format", "")), _texts(19, schema.get("required", ())), _structure(schema), extensions))


def _structure(schema: Object) -> bytes:
    match schema.get("type"):
        case "object" if (properties := schema.get("properties")) is not None:
            return _type("object") + _part(25, _named(properties))
        case "object":
            values = schema.get("additionalProperties")
            return _type("object") + (_part(21, _part(1, _schema(values))) if isinstance(values, dict) else b"")
        case "array":
            return _type("array") + _part(23, _part(1, _schema(schema.get("items") or {})))
        case str(scalar):
            return _type(scalar)
    return b""


def _type(name: str) -> bytes:
    return _part(22, _text(1, name))


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_text(number, value) for value in values)


def _text(number: int, value: str) -> bytes:
    return _part(number, value.encode()) if value else b""


def _part(number: int, content: bytes) -> bytes:
    """A field with a length, as are all of these."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
