"""The three patch types that change what is there: JSON patch, merge patch, strategic merge patch.

`decode` turns a request's body into a function from the old object to the new one, so that it can be tried again on a newer
object. Server-side apply is a different animal and lives in `apply`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import yaml

from e2e.cluster.apiserver.shape import Shape
from e2e.cluster.apiserver.status import ApiError, Json, Object, bad_request, unsupported_media_type

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_TYPES = ("application/apply-patch+yaml", "application/apply-patch+json")
ALL_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_TYPES[0])

Patch = Callable[[Object], Object]


def decode(content_type: str, body: bytes, shape: Shape, *, is_custom: bool = False) -> Patch:
    match content_type:
        case "application/json-patch+json":
            operations = _decoded(body, list)
            return lambda old: json_patch(old, operations)
        case "application/merge-patch+json":
            change = _decoded(body, dict)
            return lambda old: merge_patch(old, change)
        case "application/strategic-merge-patch+json" if not is_custom:
            change = _decoded(body, dict)
            return lambda old: strategic_merge(old, change, shape)
    raise unsupported_media_type(ALL_TYPES if not is_custom else (JSON_PATCH, MERGE_PATCH, APPLY_TYPES[0]))


def decode_apply(body: bytes) -> Object:
    try:
        content = yaml.safe_load(body) if not body.lstrip().startswith(b"{") else msgspec.json.decode(body)
    except (yaml.YAMLError, msgspec.DecodeError) as error:
        raise bad_request(f"error decoding YAML: {error}") from error
    if not isinstance(content, dict):
        raise bad_request("error decoding YAML: an object is expected")
    return content


def _decoded(body: bytes, expected: type[Any]) -> Any:
    try:
        content = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise bad_request(f"error decoding patch: {error}") from error
    if not isinstance(content, expected):
        raise bad_request(f"error decoding patch: a JSON {'array' if expected is list else 'object'} is expected")
    return content


def merge_patch(old: Json, change: Json) -> Json:
    """RFC 7386: null removes, objects merge, all else replaces."""
    if not isinstance(change, dict):
        return change
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in change.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def json_patch(old: Object, operations: Iterable[Object]) -> Object:
    """RFC 6902. A test that fails, or a path that is not there, is an unprocessable request."""
    document: Json = copy.deepcopy(old)
    for operation in operations:
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ApiError(422, "Invalid", "the server rejected our request due to an error in our request") from error
    if not isinstance(document, dict):
        raise bad_request("the patched object is not an object")
    return document


def _operate(document: Json, operation: Object) -> Json:
    path = pointer(operation["path"])
    match operation["op"]:
        case "add":
            return _put(document, path, copy.deepcopy(operation["value"]), insert=True)
        case "replace":
            # Of an object's field, the real server takes this for an addition where there is none.
            return _put(document, path, copy.deepcopy(operation["value"]), insert=False)
        case "remove":
            return _cut(document, path)
        case "copy":
            return _put(document, path, copy.deepcopy(lookup(document, pointer(operation["from"]))), insert=True)
        case "move":
            source = pointer(operation["from"])
            value = lookup(document, source)
            return _put(_cut(document, source), path, value, insert=True)
        case "test":
            if not _equal(_present(document, path), operation.get("value")):
                raise ValueError(f"testing path {operation['path']} value failed")
            return document
        case other:
            raise ValueError(f"unexpected kind: {other}")


def _equal(left: Json, right: Json) -> bool:
    # Python holds True and 1 for equal; JSON does not.
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(f"invalid JSON pointer: {text!r}")
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def lookup(document: Json, path: Iterable[str]) -> Json:
    for step in path:
        document = document[_index(document, step)] if isinstance(document, list) else document[step]
    return document


def _present(document: Json, path: list[str]) -> Json:
    """As `lookup`, but that a field which is not there is null to a test, as to the real server's."""
    holder = lookup(document, path[:-1])
    return holder.get(path[-1]) if path and isinstance(holder, dict) else lookup(document, path)


def _index(items: list[Json], step: str, *, insert: bool = False) -> int:
    if step == "-" and insert:
        return len(items)
    index = int(step)
    if not 0 <= index < len(items) + insert:
        raise IndexError(f"index {step} is out of bounds")
    return index


def _put(document: Json, path: list[str], value: Json, *, insert: bool) -> Json:
    if not path:
        return value
    parent, last = lookup(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        index = _index(parent, last, insert=insert)
        parent[index : index if insert else index + 1] = [value]
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise ValueError(f"nothing can be added below a {type(parent).__name__}")
    return document


def _cut(document: Json, path: list[str]) -> Json:
    parent, last = lookup(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        del parent[_index(parent, last)]
    else:
        del parent[last]
    return document


def strategic_merge(old: Json, change: Object, shape: Shape) -> Object:
    """Merge as Kubernetes' own kinds declare it: lists with a merge key by element, and the `$…` directives."""
    if change.get("$patch") == "replace":
        return {name: value for name, value in change.items() if name != "$patch"}
    result: Object = dict(old) if isinstance(old, dict) else {}
    orders: Object = {}
    for name, value in change.items():
        if name == "$retainKeys":
            continue
        if name.startswith("$setElementOrder/"):
            orders[name.partition("/")[2]] = value
        elif name.startswith("$deleteFromPrimitiveList/"):
            listed = name.partition("/")[2]
            if listed in result:
                result[listed] = [item for item in result[listed] if item not in value]
        elif value is None:
            result.pop(name, None)
        else:
            result[name] = _strategic_value(result.get(name), value, shape.field(name))
            if isinstance(value, dict) and value.get("$patch") == "delete":
                result.pop(name, None)
    for name, order in orders.items():
        if isinstance(result.get(name), list):
            result[name] = _ordered(result[name], order, shape.field(name).merge_key)
    if "$retainKeys" in change:
        result = {name: value for name, value in result.items() if name in change["$retainKeys"]}
    return result


def _strategic_value(old: Json, value: Json, shape: Shape) -> Json:
    if isinstance(value, dict):
        return strategic_merge(old, value, shape)
    if isinstance(value, list) and "merge" in shape.patch_strategies:
        kept = list(old) if isinstance(old, list) else []
        if shape.merge_key:
            return _merge_elements(kept, value, shape)
        return kept + [item for item in value if item not in kept]
    if isinstance(value, list):
        return [strategic_merge({}, item, shape.items) if isinstance(item, dict) else item for item in value]
    return value


def _merge_elements(old: list[Json], changes: list[Json], shape: Shape) -> list[Json]:
    key = shape.merge_key
    if any(item.get("$patch") == "replace" and len(item) == 1 for item in changes):
        return [item for item in changes if "$patch" not in item]
    result = list(old)
    for change in changes:
        if key not in change:
            raise bad_request(f"map: {change} does not contain declared merge key: {key}")
        at = next((index for index, item in enumerate(result) if item.get(key) == change[key]), None)
        if change.get("$patch") == "delete":
            result = [item for item in result if item.get(key) != change[key]]
        elif at is None:
            result.append(strategic_merge({}, change, shape.items))
        else:
            result[at] = strategic_merge(result[at], change, shape.items)
    return result


def _ordered(items: list[Json], order: list[Json], key: str) -> list[Json]:
    """The elements that the patch names, in its order; others keep their place behind the one that they followed."""
    names = [item.get(key) for item in order] if key else list(order)
    position = {name: index for index, name in enumerate(names)}

    def name_of(item: Json) -> Json:
        return item.get(key) if key else item

    named = sorted((item for item in items if name_of(item) in position), key=lambda item: position[name_of(item)])
    remaining = iter(named)
    return [next(remaining) if name_of(item) in position else item for item in items]
