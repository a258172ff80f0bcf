"""Sets of fields: which paths a value has, how two values differ, and the FieldsV1 form in which ownership is stored.

A path is a tuple of steps in FieldsV1's own spelling: `f:name` for a field, `k:{"name":"a"}` for the element of a list that is a
map, `v:"a"` for the member of a list that is a set. Atomic lists and maps are leaves: they are owned and compared whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from e2e.cluster.apiserver.shape import Shape
from e2e.cluster.apiserver.status import Json, Object

Path = tuple[str, ...]
FieldSet = frozenset[Path]


class UntypedElement(Exception):
    """An element of a list map leaves out a key, or a list map names an element twice."""


def children(value: Json, shape: Shape) -> Iterator[tuple[str, Json, Shape]] | None:
    """What a value consists of, as (step, value, shape); None for a leaf."""
    if isinstance(value, dict) and not shape.is_atomic_map:
        return ((f"f:{name}", inner, shape.field(name)) for name, inner in value.items())
    if isinstance(value, list) and shape.list_type != "atomic":
        items = shape.items
        return ((step_to(item, shape), item, items) for item in value)
    return None


def step_to(item: Json, shape: Shape) -> str:
    """The step from a list to one of its elements."""
    if shape.list_type == "set":
        return f"v:{_compact(item)}"
    if not isinstance(item, dict):
        raise UntypedElement("associative list with keys may not have non-map elements")
    key: Object = {}
    for name in shape.keys:
        value = item.get(name, shape.default_of_key(name))
        if value is None and len(shape.keys) == 1:
            raise UntypedElement(
                f'associative list with keys has an element that omits key field "{name}" (and doesn\'t have default value)'
            )
        if value is not None:
            key[name] = value
    return f"k:{_compact(key)}"


def _compact(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def claimed(value: Json, shape: Shape) -> FieldSet:
    """The paths that whoever applies `value` claims: its leaves, its list elements, and the keys of its free maps."""
    return frozenset(_claimed(value, shape, ()))


def _claimed(value: Json, shape: Shape, path: Path) -> Iterator[Path]:
    parts = children(value, shape)
    if parts is None:
        yield path
        return
    seen: set[str] = set()
    for step, inner, inner_shape in parts:
        if step in seen:
            raise UntypedElement(f"{spelled(path)}: duplicate entries for key {spelled((step,))}")
        seen.add(step)
        below = (*path, step)
        is_element = step[0] != "f"
        is_free_key = not is_element and step[2:] not in shape.fields
        if is_element or is_free_key or inner in ({}, None):
            yield below
        yield from _claimed(inner, inner_shape, below)


def all_paths(value: Json, shape: Shape, path: Path = ()) -> Iterator[Path]:
    """Every path of a value, inner ones too."""
    if path:
        yield path
    for step, inner, inner_shape in children(value, shape) or ():
        yield from all_paths(inner, inner_shape, (*path, step))


@dataclass(slots=True)
class Difference:
    added: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)

    @property
    def written(self) -> set[Path]:
        return self.added | self.modified


def compare(old: Json, new: Json, shape: Shape) -> Difference:
    difference = Difference()
    _compare(old, new, shape, (), difference)
    return difference


def _compare(old: Json, new: Json, shape: Shape, path: Path, into: Difference) -> None:
    before, after = children(old, shape), children(new, shape)
    if before is None or after is None:
        if old != new or isinstance(old, bool) != isinstance(new, bool):
            # A leaf became something else: what lay below it is gone, what lies below now is new.
            into.modified.add(path)
            into.removed.update(p for p in all_paths(old, shape, path) if p != path)
            into.added.update(p for p in all_paths(new, shape, path) if p != path)
        return
    was = {step: (value, inner) for step, value, inner in before}
    now = {step: (value, inner) for step, value, inner in after}
    for step in was.keys() - now.keys():
        into.removed.update(all_paths(*was[step], (*path, step)))
    for step in now.keys() - was.keys():
        into.added.update(all_paths(*now[step], (*path, step)))
    for step in was.keys() & now.keys():
        _compare(was[step][0], now[step][0], now[step][1], (*path, step), into)


def encode(paths: Iterable[Path]) -> Object:
    """As FieldsV1: a tree in which `.` marks an inner path that is itself a member."""
    tree: Object = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node["."] = {}
    return _without_marks_on_leaves(tree)


def _without_marks_on_leaves(tree: Object) -> Object:
    return {step: {} if inner.keys() == {"."} else _without_marks_on_leaves(inner) for step, inner in tree.items()}


def decode(tree: Object) -> FieldSet:
    return frozenset(_decode(tree, ()))


def _decode(tree: Object, path: Path) -> Iterator[Path]:
    if (not tree or "." in tree) and path:
        yield path
    for step, inner in tree.items():
        if step != ".":
            yield from _decode(inner, (*path, _normal(step)))


def _normal(step: str) -> str:
    """Keys and values spelled as `step_to` spells them, whoever wrote them."""
    if step[0] in "kv":
        return f"{step[:2]}{_compact(json.loads(step[2:]))}"
    return step


def spelled(path: Path) -> str:
    """As messages show it: `.spec.containers[name="a"].image`."""
    return "".join(_spelled_step(step) for step in path)


def _spelled_step(step: str) -> str:
    match step[0]:
        case "k":
            return "[" + ",".join(f"{name}={_compact(value)}" for name, value in json.loads(step[2:]).items()) + "]"
        case "v":
            return f"[={step[2:]}]"
        case _:
            return f".{step[2:]}"
