"""Server-side apply, and who owns which field.

Every write leaves its fields in `metadata.managedFields`: an update owns what it changed, an apply owns what it says. An apply
merges what it says into the object; what its manager said before and says no longer is removed, unless another owns it; what
another owns and has different is a conflict, unless forced.

The walk over values and fields is in `fieldsets`; this module holds the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from e2e.cluster.apiserver import fieldsets, metadata
from e2e.cluster.apiserver.fieldsets import FieldSet, Path
from e2e.cluster.apiserver.request import Call, Target
from e2e.cluster.apiserver.shape import Shape
from e2e.cluster.apiserver.status import ApiError, Json, Object, apply_conflict
from e2e.cluster.apiserver.types import Types

NEVER_OWNED = {("f:apiVersion",), ("f:kind",), ("f:metadata",)} | {
    ("f:metadata", f"f:{name}")
    for name in (
        "name",
        "namespace",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "uid",
    )
}
BEFORE_FIRST_APPLY = "before-first-apply"


@dataclass(frozen=True, slots=True)
class Manager:
    """Who writes: one name may own fields twice, by applying and by updating."""

    name: str
    operation: str
    api_version: str
    subresource: str

    @property
    def identity(self) -> tuple[str, ...]:
        """An applier is the same over all versions of the API."""
        version = self.api_version if self.operation == "Update" else ""
        return (self.name, self.operation, version, self.subresource)


@dataclass(frozen=True, slots=True)
class Claim:
    manager: Manager
    time: str
    fields: FieldSet

    def without(self, paths: set[Path] | FieldSet) -> Claim:
        return Claim(self.manager, self.time, self.fields - paths)


Claims = dict[tuple[str, ...], Claim]


def track(types: Types, target: Target, call: Call, old: Object | None, new: Object) -> None:
    """Write into `new` who owns its fields after an update that turned `old` into it."""
    shape = types.shape(target.resource)
    # A client may hand claims over (kubectl does, from client-side to server-side apply): what it sends counts, if it sends any.
    given = new["metadata"].get("managedFields")
    claims = _read(given if given is not None else (old or new)["metadata"].get("managedFields"))
    change = fieldsets.compare(old or {}, new, shape)
    written = _ownable(change.written, target)
    claims = {identity: claim.without(change.written | change.removed) for identity, claim in claims.items()}
    if written:
        manager = Manager(call.manager, "Update", target.resource.api_version, target.subresource)
        mine = claims[manager.identity].fields if manager.identity in claims else frozenset()
        claims[manager.identity] = Claim(manager, metadata.now(), mine | written)
    _write(new, claims)


def merge(types: Types, target: Target, call: Call, live: Object, intent: Object) -> Object:
    """The object that applying `intent` to `live` gives, with its owners; `live` is without fields at a creation."""
    shape = types.shape(target.resource)
    claims = _read(live["metadata"].get("managedFields"))
    if not claims:
        claims = _claims_before(live, shape, target)
    manager = Manager(call.manager, "Apply", target.resource.api_version, target.subresource)
    try:
        said = _ownable(fieldsets.claimed(intent, shape), target)
        merged: Object = _merged(live, intent, shape)
    except fieldsets.UntypedElement as error:
        raise untyped(target, intent, str(error)) from error
    before = claims.pop(manager.identity, None)
    owned = frozenset().union(said, *(claim.fields for claim in claims.values()))
    if before:
        merged = _pruned(merged, shape, before.fields, owned)
    change = fieldsets.compare(live, merged, shape)
    contested = {identity: claim.fields & change.written for identity, claim in claims.items() if claim.fields & change.written}
    if contested and not call.force:
        raise _conflict({claims[identity].manager: paths for identity, paths in contested.items()})
    claims = {identity: claim.without(change.written | change.removed) for identity, claim in claims.items()}
    time = before.time if before and before.fields == said and not change.written and not change.removed else metadata.now()
    claims[manager.identity] = Claim(manager, time, said)
    _write(merged, claims)
    return merged


def untyped(target: Target, intent: Object, why: str) -> ApiError:
    resource = target.resource
    place = f"{metadata.of(intent).get('namespace', '')}/{target.name}; {resource.group}/{resource.version}, Kind={resource.kind}"
    return ApiError(500, "", f"failed to create typed patch object ({place}): {why}")


def _claims_before(live: Object, shape: Shape, target: Target) -> Claims:
    """What an object has that nobody is known to own belongs to a manager of its own."""
    present = _ownable(set(fieldsets.all_paths(live, shape)), target)
    if not present or "uid" not in live["metadata"]:
        return {}
    manager = Manager(BEFORE_FIRST_APPLY, "Update", target.resource.api_version, "")
    return {manager.identity: Claim(manager, metadata.now(), present)}


def _ownable(paths: set[Path] | FieldSet, target: Target) -> FieldSet:
    """Without what nobody owns, and what this path of the API does not write anyway."""
    if target.subresource == "status":
        return frozenset(path for path in paths if path[:1] == ("f:status",))
    drops_status = target.resource.has_status and not target.subresource
    return frozenset(path for path in paths if path and path not in NEVER_OWNED and not (drops_status and path[0] == "f:status"))


def _merged(live: Json, intent: Json, shape: Shape) -> Json:
    if isinstance(live, dict) and isinstance(intent, dict) and not shape.is_atomic_map:
        result = dict(live)
        for name, value in intent.items():
            result[name] = _merged(live[name], value, shape.field(name)) if name in live else value
        return result
    if isinstance(live, list) and isinstance(intent, list) and shape.list_type != "atomic":
        return _merged_list(live, intent, shape)
    return intent


def _merged_list(live: list[Json], intent: list[Json], shape: Shape) -> list[Json]:
    """The order is the intent's for what it names; the others stay behind the element that they followed."""
    there = {fieldsets.step_to(item, shape): item for item in live}
    said = {fieldsets.step_to(item, shape): item for item in intent}
    result: list[Json] = []
    waiting = list(said)
    for step, item in there.items():
        if step not in said:
            result.append(item)
        elif step in waiting:
            # All that the intent puts before this shared element comes before it here as well.
            upto = waiting.index(step) + 1
            result += [_element(there, said, name, shape) for name in waiting[:upto]]
            del waiting[:upto]
    return result + [_element(there, said, name, shape) for name in waiting]


def _element(there: Mapping[str, Json], said: Mapping[str, Json], step: str, shape: Shape) -> Json:
    return _merged(there[step], said[step], shape.items) if step in there else said[step]


def _pruned(value: Json, shape: Shape, before: FieldSet, owned: FieldSet) -> Json:
    """Without what the manager said before and nobody says now. What others own below it stays, and keeps its way up."""
    kept = {path[:length] for path in owned for length in range(1, len(path) + 1)}
    gone = {path for path in before if path not in kept}
    touched = {path[:length] for path in gone for length in range(len(path))}
    return _cut(value, shape, (), gone, touched, kept) if gone else value


def _cut(value: Json, shape: Shape, path: Path, gone: set[Path], touched: set[Path], kept: set[Path]) -> Json:
    """A copy of `value` without the paths `gone`; only what lies on the way to one of these (`touched`) is looked into."""
    parts = fieldsets.children(value, shape)
    if path not in touched or parts is None:
        return value
    is_map = isinstance(value, dict)
    result_map: Object = {}
    result_list: list[Json] = []
    for step, inner, inner_shape in parts:
        at = (*path, step)
        if at in gone:
            continue
        rest = _cut(inner, inner_shape, at, gone, touched, kept)
        # A struct that was there only for what is gone now goes with it.
        if rest in ({}, []) and inner not in ({}, []) and at not in kept:
            continue
        if is_map:
            result_map[step[2:]] = rest
        else:
            result_list.append(rest)
    return result_map if is_map else result_list


def _conflict(contested: Mapping[Manager, FieldSet]) -> ApiError:
    causes: list[Object] = []
    lines: list[str] = []
    for manager, paths in sorted(contested.items(), key=lambda pair: pair[0].name):
        shown = _shown(manager)
        lines.append(f"conflicts with {shown}:")
        for path in sorted(paths):
            spelled = fieldsets.spelled(path)
            lines.append(f"- {spelled}")
            causes.append({"reason": "FieldManagerConflict", "message": f"conflict with {shown}", "field": spelled})
    if len(causes) == 1:
        return apply_conflict(f"Apply failed with 1 conflict: {causes[0]['message']}: {causes[0]['field']}", causes)
    return apply_conflict(f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines), causes)


def _shown(manager: Manager) -> str:
    text = f'"{manager.name}"'
    if manager.subresource:
        text += f' with subresource "{manager.subresource}"'
    return f"{text} using {manager.api_version}" if manager.operation == "Update" else text


def _read(entries: list[Object] | None) -> Claims:
    claims: Claims = {}
    for entry in entries or ():
        if not entry.get("operation"):
            # One empty entry is how a client asks to have all claims forgotten.
            continue
        manager = Manager(entry.get("manager", ""), entry["operation"], entry.get("apiVersion", ""), entry.get("subresource", ""))
        claims[manager.identity] = Claim(manager, entry.get("time", ""), fieldsets.decode(entry.get("fieldsV1") or {}))
    return claims


def _write(body: Object, claims: Claims) -> None:
    entries = [
        {
            "manager": claim.manager.name,
            "operation": claim.manager.operation,
            "apiVersion": claim.manager.api_version,
            "time": claim.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fieldsets.encode(claim.fields),
            **({"subresource": claim.manager.subresource} if claim.manager.subresource else {}),
        }
        for claim in sorted(claims.values(), key=lambda c: (c.manager.operation, c.time, c.manager.name))
        if claim.fields
    ]
    if entries:
        body["metadata"]["managedFields"] = entries
    else:
        body["metadata"].pop("managedFields", None)
