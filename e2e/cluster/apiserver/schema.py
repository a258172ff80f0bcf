"""Custom resources against their structural schemas: pruning, defaults, validation, in the real server's words.

An update is ratcheted as the real server does it: what an object already said, and says again unchanged, is not held against it.
"""

from __future__ import annotations

import copy
import datetime
import json
import re
from collections.abc import Iterator
from typing import Any

from e2e.cluster.apiserver import cel
from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.shape import Shape, resolved
from e2e.cluster.apiserver.status import (
    FieldError,
    Json,
    Object,
    duplicate,
    forbidden_field,
    invalid,
    omitted,
    required,
    too_few,
    too_long,
    too_many,
    type_invalid,
    unsupported,
)

UNCHECKED = FieldError(
    "<nil>",
    "FieldValueInvalid",
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
)
BLOCKING = ("FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid")

_MISSING: Any = object()


def pruned(value: Json, shape: Shape, unknown: list[str], path: str = "") -> Json:
    """`value` without the fields that the schema does not name; their paths are appended to `unknown`."""
    match value:
        case dict():
            known, keep_all = shape.fields, _keeps_unknown(shape)
            embedded = ("apiVersion", "kind", "metadata") if shape.schema.get("x-kubernetes-embedded-resource") else ()
            result: Object = {}
            for name, inner in value.items():
                at = f"{path}.{name}" if path else name
                if name in known or _additional(shape):
                    result[name] = pruned(inner, shape.field(name), unknown, at)
                elif keep_all or name in embedded:
                    result[name] = inner
                else:
                    unknown.append(at)
            return result
        case list():
            items = shape.items
            return [pruned(item, items, unknown, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def _keeps_unknown(shape: Shape) -> bool:
    return bool(shape.schema.get("x-kubernetes-preserve-unknown-fields")) or shape.schema.get("additionalProperties") is True


def _additional(shape: Shape) -> bool:
    return isinstance(shape.schema.get("additionalProperties"), dict)


def default(value: Json, shape: Shape) -> None:
    """Fill in what is missing. A null where null is not allowed counts as missing."""
    match value:
        case dict():
            for name, schema in shape.fields.items():
                inner = shape.field(name)
                wanted = schema.get("default", _MISSING)
                if wanted is not _MISSING and (name not in value or (value[name] is None and not schema.get("nullable"))):
                    value[name] = copy.deepcopy(wanted)
                if name in value and value[name] is None and not schema.get("nullable"):
                    del value[name]
                if name in value:
                    default(value[name], inner)
            if _additional(shape):
                for name in value.keys() - shape.fields.keys():
                    default(value[name], shape.field(name))
        case list():
            for item in value:
                default(item, shape.items)


def problems(resource: Resource, body: Object, old: Object | None, shape: Shape) -> Iterator[FieldError]:
    schema = resource.schema or {}
    # The metadata is checked as every object's is, by `metadata`.
    inner = Shape({**schema, "properties": {k: v for k, v in shape.fields.items() if k != "metadata"}}, shape.definitions)
    content = {name: value for name, value in body.items() if name != "metadata"}
    before = _MISSING if old is None else {name: value for name, value in old.items() if name != "metadata"}
    found = [*_value_problems(content, inner, "", before), *_list_problems(content, inner, "", before)]
    yield from found
    if any(error.reason in BLOCKING for error in found):
        yield UNCHECKED
    else:
        named = {k: v for k, v in body["metadata"].items() if k in ("name", "generateName")}
        seen = {**content, "metadata": named}
        previous = before if before is _MISSING else {**before, "metadata": named}
        rules = Shape({**schema, "properties": dict(shape.fields)}, shape.definitions)
        yield from _rule_problems(seen, rules, "", previous)


def _child(path: str, name: str, shape: Shape) -> str:
    """Fields are written with dots, keys of a map in brackets."""
    if name not in shape.fields:
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def _before(old: Json, name: str) -> Json:
    return old.get(name, _MISSING) if isinstance(old, dict) else _MISSING


def _old_item(old: Json, item: Json, shape: Shape) -> Json:
    """The element of the old list that this one follows: by key in a list map, by equality else."""
    if not isinstance(old, list):
        return _MISSING
    if shape.list_type == "map" and isinstance(item, dict):
        key = [item.get(name) for name in shape.keys]
        return next((o for o in old if isinstance(o, dict) and [o.get(name) for name in shape.keys] == key), _MISSING)
    return item if item in old else _MISSING


def _value_problems(value: Json, shape: Shape, path: str, old: Json) -> Iterator[FieldError]:
    if old is not _MISSING and value == old and isinstance(value, bool) == isinstance(old, bool):
        return
    schema = shape.schema
    if value is None and schema.get("nullable"):
        return
    if wrong := _type_problem(value, shape, path):
        yield wrong
        return
    if "enum" in schema and value not in schema["enum"]:
        yield unsupported(path, value, schema["enum"])
    match value:
        case str():
            yield from _text_problems(value, schema, path)
        case bool():
            pass
        case int() | float():
            yield from _number_problems(value, schema, path)
        case list():
            yield from _array_problems(value, shape, path, old)
        case dict():
            yield from _object_problems(value, shape, path, old)
    yield from _combined_problems(value, shape, path)


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "number": (int, float),
    "integer": (int,),
}


def _type_problem(value: Json, shape: Shape, path: str) -> FieldError | None:
    wanted = "integer,string" if shape.schema.get("x-kubernetes-int-or-string") else shape.type
    if not wanted or any(_is_of_type(value, choice) for choice in wanted.split(",")):
        return None
    found = _type_name(value)
    return type_invalid(path, found, f'{_shown(path)} must be of type {wanted}: "{found}"')


def _is_of_type(value: Json, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    return isinstance(value, _JSON_TYPES[wanted]) or (wanted == "integer" and isinstance(value, float) and value.is_integer())


def _type_name(value: Json) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _shown(path: str) -> str:
    return f"{path} in body" if path else "<nil> in body"


def _text_problems(value: str, schema: Object, path: str) -> Iterator[FieldError]:
    if (limit := schema.get("maxLength")) is not None and len(value) > limit:
        yield too_long(path, limit)
    if (least := schema.get("minLength")) is not None and len(value) < least:
        yield invalid(path, value, f"{_shown(path)} should be at least {least} chars long")
    if (pattern := schema.get("pattern")) is not None and not cel.matches(value, pattern):
        yield invalid(path, value, f"{_shown(path)} should match '{pattern}'")
    if (form := schema.get("format")) and not _has_format(value, form):
        yield invalid(path, value, f'{_shown(path)} must be of type {form}: "{value}"')


def _has_format(value: str, form: str) -> bool:
    match form:
        case "date-time":
            try:
                moment = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                return False
            return moment.tzinfo is not None and "T" in value.upper()
        case "uuid":
            return re.fullmatch(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}", value) is not None
        case "duration":
            return re.fullmatch(r"[+-]?(\d+(\.\d*)?(h|m|s|ms|us|µs|ns))+|0", value) is not None
    return True


def _number_problems(value: float, schema: Object, path: str) -> Iterator[FieldError]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and (value < least or (schema.get("exclusiveMinimum") and value == least)):
        bound = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield invalid(path, value, f"{_shown(path)} should be {bound} {least:g}")
    if most is not None and (value > most or (schema.get("exclusiveMaximum") and value == most)):
        bound = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield invalid(path, value, f"{_shown(path)} should be {bound} {most:g}")
    if (factor := schema.get("multipleOf")) and value % factor:
        yield invalid(path, value, f"{_shown(path)} should be a multiple of {factor:g}")
    width = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
    if width and not -(2**width) <= value < 2**width:
        yield invalid(
            path, value, f'Must validate one and only one schema: {_shown(path)} must be of type {schema["format"]}: "{value}"'
        )


def _array_problems(value: list[Json], shape: Shape, path: str, old: Json) -> Iterator[FieldError]:
    schema = shape.schema
    if (most := schema.get("maxItems")) is not None and len(value) > most:
        yield too_many(path, len(value), most)
    if (least := schema.get("minItems")) is not None and len(value) < least:
        yield invalid(path, len(value), f"{_shown(path)} should have at least {least} items")
    for index, item in enumerate(value):
        yield from _value_problems(item, shape.items, f"{path}[{index}]", _old_item(old, item, shape))


def _object_problems(value: Object, shape: Shape, path: str, old: Json) -> Iterator[FieldError]:
    schema = shape.schema
    if (most := schema.get("maxProperties")) is not None and len(value) > most:
        yield too_many(path, len(value), most)
    if (least := schema.get("minProperties")) is not None and len(value) < least:
        yield too_few(path, len(value), least)
    for name in schema.get("required") or ():
        if name not in value:
            yield required(f"{path}.{name}" if path else name)
    for name in sorted(value):
        if name in shape.fields or _additional(shape):
            # Here the keys of maps are written like fields, unlike in the errors of lists and rules.
            at = f"{path}.{name}" if path else name
            yield from _value_problems(value[name], shape.field(name), at, _before(old, name))


def _combined_problems(value: Json, shape: Shape, path: str) -> Iterator[FieldError]:
    """allOf, anyOf, oneOf and not, which only narrow what the schema around them says."""
    schema = shape.schema

    def holds(part: Object) -> bool:
        inner = Shape(resolved(part, shape.definitions), shape.definitions)
        return not any(_value_problems(value, inner, path, _MISSING))

    for part in schema.get("allOf") or ():
        yield from _value_problems(value, Shape(part, shape.definitions), path, _MISSING)
    if (parts := schema.get("anyOf")) and not any(holds(part) for part in parts):
        yield invalid(path, value, f"{_shown(path)} must validate at least one schema (anyOf)")
    if (parts := schema.get("oneOf")) and sum(holds(part) for part in parts) != 1:
        yield invalid(path, value, f"{_shown(path)} must validate one and only one schema (oneOf)")
    if (part := schema.get("not")) and holds(part):
        yield invalid(path, value, f"{_shown(path)} must not validate the schema (not)")


def _list_problems(value: Json, shape: Shape, path: str, old: Json) -> Iterator[FieldError]:
    """Lists that are sets or maps hold nothing twice."""
    if old is not _MISSING and value == old:
        return
    match value:
        case list():
            seen: set[str] = set()
            for index, item in enumerate(value):
                name = _element_name(item, shape)
                if name is not None and name in seen:
                    shown = item if shape.list_type == "set" else {key: item.get(key) for key in shape.keys}
                    yield duplicate(f"{path}[{index}]", shown)
                seen.add(name or "")
                yield from _list_problems(item, shape.items, f"{path}[{index}]", _old_item(old, item, shape))
        case dict():
            for name, inner in value.items():
                yield from _list_problems(inner, shape.field(name), _child(path, name, shape), _before(old, name))


def _element_name(item: Json, shape: Shape) -> str | None:
    match shape.list_type:
        case "set":
            return json.dumps(item, sort_keys=True)
        case "map" if isinstance(item, dict):
            return json.dumps([item.get(key, shape.default_of_key(key)) for key in shape.keys])
    return None


def _rule_problems(value: Json, shape: Shape, path: str, old: Json) -> Iterator[FieldError]:
    """x-kubernetes-validations, from the outside in."""
    unchanged = old is not _MISSING and value == old
    for rule in shape.schema.get("x-kubernetes-validations") or ():
        yield from _rule_problem(rule, value, shape, path, old, unchanged=unchanged)
    match value:
        case dict():
            for name in sorted(value):
                yield from _rule_problems(value[name], shape.field(name), _child(path, name, shape), _before(old, name))
        case list():
            for index, item in enumerate(value):
                yield from _rule_problems(item, shape.items, f"{path}[{index}]", _old_item(old, item, shape))


def _rule_problem(rule: Object, value: Json, shape: Shape, path: str, old: Json, *, unchanged: bool) -> Iterator[FieldError]:
    program = cel.compiled(rule["rule"])
    is_transition = program.uses("oldSelf")
    # A rule about a transition needs something to come from; a rule about a state that was there before is ratcheted.
    if (is_transition and old is _MISSING) or (unchanged and not is_transition):
        return
    before = None if old is _MISSING else cel.value_of(old, shape)
    values = {"self": cel.value_of(value, shape), "oldSelf": before}
    where = f"{path}{rule['fieldPath']}".lstrip(".") if rule.get("fieldPath") else path
    about = (rule.get("message") or rule["rule"]).strip()
    try:
        if program.evaluate(values) is True:
            return
        detail = _message(rule, values)
    except cel.EvaluationError as error:
        yield omitted(path, f"{error} evaluating rule: {about}", kind=shape.type)
        return
    match rule.get("reason", "FieldValueInvalid"):
        case "FieldValueForbidden":
            yield forbidden_field(where, detail)
        case "FieldValueRequired":
            yield required(where, detail)
        case "FieldValueDuplicate":
            yield duplicate(where, value)
        case _ if isinstance(value, (dict, list)):
            yield FieldError(where, "FieldValueInvalid", f"Invalid value: {detail}")
        case _:
            yield invalid(where, value, detail)


def _message(rule: Object, values: Object) -> str:
    if expression := rule.get("messageExpression"):
        try:
            text = cel.compiled(expression).evaluate(values)
        except cel.EvaluationError:
            text = ""
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text.strip()
    return str(rule.get("message") or f"failed rule: {rule['rule']}").strip()
