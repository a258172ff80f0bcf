"""What happens to an object between a request and the store: create, update, patch, delete, list.

One path for every resource. A write goes through these steps, in the order in which the real server takes them:

1. the client's fields that only the server sets are overwritten, and the part that a subresource may not touch is put back;
2. defaults; 3. mutating admission, and defaults again; 4. validation; 5. validating admission;
6. field ownership; 7. the store, which refuses if the object has changed meanwhile.

An update that lost that race is tried again from step 1 if the client did not insist on a version. What a kind adds to the
steps is its `Kind` in `kinds`. Authorization has happened before; formats and connections are the server's.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from e2e.cluster.apiserver import apply, definitions, events, kinds, metadata, patch
from e2e.cluster.apiserver.admission import Admission, Attributes
from e2e.cluster.apiserver.request import Call, Target, version_of
from e2e.cluster.apiserver.resources import SHARED_STORAGE, Catalog, Resource
from e2e.cluster.apiserver.selectors import Predicate, fields_match, labels_match
from e2e.cluster.apiserver.status import (
    ApiError,
    Object,
    already_exists,
    bad_request,
    conflict,
    expired,
    invalid,
    list_options,
    method_not_allowed,
    modified,
    not_found,
    success,
    too_large_version,
    unprocessable,
)
from e2e.cluster.apiserver.store import Conflict, Entry, Key, Store
from e2e.cluster.apiserver.types import Types

RETRIES = 8
"""How often an update that names no version is tried against a changing object, or a generated name against taken ones."""

ACTS = ("binding", "eviction")
"""Subresources that change or end their object, and are admitted as what they are."""

Transform = Callable[[Object], Object]


@dataclass(frozen=True, slots=True)
class Page:
    entries: list[Entry]
    version: int
    continue_token: str = ""
    remaining: int = 0


class Registry:
    def __init__(self, store: Store, catalog: Catalog, admission: Admission, types: Types) -> None:
        self.store = store
        self.catalog = catalog
        self.types = types
        self._admission = admission

    def key(self, target: Target) -> Key:
        return Key(storage_of(target.resource), target.namespace, target.name)

    def get(self, target: Target) -> Entry:
        entry = self.store.get(self.key(target))
        if entry is None:
            raise not_found(target.resource.subject, target.name)
        return entry

    def show(self, entry: Entry, resource: Resource) -> bytes:
        """The object as JSON in the version that was asked for."""
        if entry.raw and entry.object.get("apiVersion") == resource.api_version:
            return entry.raw
        return msgspec.json.encode(self.convert(entry.object, resource))

    def convert(self, body: Object, resource: Resource) -> Object:
        if resource.storage in SHARED_STORAGE:
            return events.from_core(body)
        if body.get("apiVersion") == resource.api_version:
            return body
        return body | {"apiVersion": resource.api_version}

    def page(self, target: Target, query: Mapping[str, str]) -> Page:
        limit, token = int(query.get("limit") or 0), query.get("continue", "")
        selects = selection(target, query)
        entries, version, after = self._listed(target, query, token)
        matching = [entry for entry in entries if (after is None or entry.key > after) and selects(entry.object)]
        if not limit or len(matching) <= limit:
            return Page(matching, version)
        last = matching[limit - 1].key
        # Counting what is left would be wrong under a selector; the real server leaves it out there, too.
        filtered = query.get("labelSelector") or query.get("fieldSelector")
        return Page(matching[:limit], version, _continue_token(version, last), 0 if filtered else len(matching) - limit)

    def _listed(self, target: Target, query: Mapping[str, str], token: str) -> tuple[list[Entry], int, Key | None]:
        storage, wanted = storage_of(target.resource), version_of(query.get("resourceVersion", ""))
        if token:
            if wanted:
                raise bad_request("specifying resource version is not allowed when using continue")
            version, after = _parse_continue_token(token, storage)
            if version < 0:
                return self.store.all(storage, target.namespace), self.store.version, after
            try:
                return self.store.all_at(version, storage, target.namespace), version, after
            except ApiError as error:
                error.metadata = {"continue": _continue_token(-1, after)}
                raise
        if query.get("resourceVersionMatch") and not query.get("resourceVersion"):
            raise list_options("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
        if wanted > self.store.version:
            raise too_large_version(wanted, self.store.version)
        match query.get("resourceVersionMatch", ""):
            case "Exact":
                return self.store.all_at(wanted, storage, target.namespace), wanted, None
            case "" | "NotOlderThan":
                return self.store.all(storage, target.namespace), self.store.version, None
            case other:
                raise bad_request(f'resourceVersionMatch: Unsupported value: "{other}"')

    async def create(self, target: Target, call: Call, body: Object) -> Object:
        body = self._incoming(target, body, call)
        metadata.of(body).pop("managedFields", None)
        self._place(target, body)
        return await self._create(target, call, body, is_apply=False)

    async def _create(self, target: Target, call: Call, body: Object, *, is_apply: bool) -> Object:
        """As in the real server, mutating admission sees an object without uid, and without name if that is still to be made."""
        resource = target.resource
        self._refuse_ending(resource)
        given = body["metadata"].get("name") or target.name
        self._default(resource, body)
        attributes = Attributes(operation="CREATE", target=target, call=call, object=body, old=None)
        body = await self._admission.mutate(attributes)
        for _ in range(RETRIES):
            attempt = body if given else copy.deepcopy(body)
            await self._admit_new(attributes, attempt, is_apply=is_apply)
            name = attempt["metadata"]["name"]
            if call.dry_run:
                self._refuse_taken(target, name)
                return self._outgoing(attempt, resource)
            try:
                entry = self.store.put(Key(storage_of(resource), target.namespace, name), attempt, expected=0)
            except Conflict:
                if given:
                    break
                continue
            return self._outgoing(entry.object, resource)
        raise already_exists(resource.subject, name)

    def _refuse_ending(self, resource: Resource) -> None:
        if resource.custom is None:
            return
        definition = self.store.get(Key(definitions.STORAGE, "", f"{resource.plural}.{resource.group}"))
        if definition is not None and definition.object["metadata"].get("deletionTimestamp"):
            raise method_not_allowed("create not allowed while custom resource definition is terminating")

    def _refuse_taken(self, target: Target, name: str) -> None:
        if self.store.get(Key(storage_of(target.resource), target.namespace, name)):
            raise already_exists(target.resource.subject, name)

    async def _admit_new(self, attributes: Attributes, body: Object, *, is_apply: bool) -> None:
        target, resource = attributes.target, attributes.target.resource
        kind = kinds.of(resource)
        metadata.begin(body, generation=kind.has_generation)
        if not body["metadata"].get("name") and (prefix := body["metadata"].get("generateName")):
            body["metadata"]["name"] = metadata.generated_name(prefix)
        if resource.has_status:
            body.pop("status", None)
        self._default(resource, body)
        kind.prepare_create(body)
        self._validate(resource, body, None)
        await self._admission.validate(attributes.with_object(body))
        if not is_apply:
            apply.track(self.types, target, attributes.call, None, body)

    async def update(self, target: Target, call: Call, body: Object) -> Object:
        body = self._incoming(target, body, call)
        if not target.subresource and (name := metadata.of(body).get("name")) != target.name:
            raise bad_request(f"the name of the object ({name or ''}) does not match the name on the URL ({target.name})")
        self._place(target, body)
        return await self._change(target, call, lambda _: copy.deepcopy(body), insisted=_version_in(body, target))

    async def patch(self, target: Target, call: Call, content_type: str, body: bytes) -> Object:
        if content_type in patch.APPLY_TYPES:
            return await self._apply(target, call, patch.decode_apply(body))
        is_custom = target.resource.custom is not None
        change = patch.decode(content_type, body, self.types.shape(target.resource), is_custom=is_custom)

        def transform(old: Object) -> Object:
            resource = target.resource
            new = change(self._outgoing(old, resource))
            return self._incoming(target, new, call)

        return await self._change(target, call, transform, is_patch=True)

    async def _apply(self, target: Target, call: Call, intent: Object) -> Object:
        if metadata.of(intent).get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if undeclared := self.types.undeclared(target.resource, intent):
            raise apply.untyped(target, intent, f".{undeclared[0]}: field not declared in schema")
        body = self._incoming(target, intent, call)
        self._place(target, body)

        def transform(old: Object) -> Object:
            return apply.merge(self.types, target, call, old, copy.deepcopy(body))

        if self.store.get(self.key(target)) is None:
            if target.subresource:
                raise not_found(target.resource.subject, target.name)
            if body["metadata"].get("uid") or body["metadata"].get("resourceVersion"):
                raise conflict(target.resource.subject, target.name, "uid mismatch: the provided object does not exist")
            empty = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": {}}
            return await self._create(target, call, transform(empty), is_apply=True)
        insisted = _version_in(body, target)
        return await self._change(target, call, transform, insisted=insisted, is_apply=True)

    async def change(self, target: Target, call: Call, transform: Transform) -> Object:
        """An act of the server's own on an object, as by a subresource; tried again if the object changes meanwhile."""
        return await self._change(target, call, transform)

    async def _change(
        self,
        target: Target,
        call: Call,
        transform: Transform,
        *,
        insisted: int = 0,
        is_patch: bool = False,
        is_apply: bool = False,
    ) -> Object:
        """Bring `transform` to the object; `insisted` is the version it must be at, 0 for any."""
        resource = target.resource
        for _ in range(RETRIES):
            entry = self.get(target)
            if insisted and insisted != entry.version:
                raise modified(resource.subject, target.name)
            new = transform(entry.thaw())
            if is_patch and (version := _version_in(new, target)) and version != entry.version:
                raise modified(resource.subject, target.name)
            changed = await self._admit_changed(target, call, entry, new, is_apply=is_apply)
            if changed is None or call.dry_run:
                return self._outgoing(changed or entry.object, resource)
            try:
                return self._outgoing(self._commit(entry, changed), resource)
            except Conflict:
                if insisted:
                    break
        raise modified(resource.subject, target.name)

    async def _admit_changed(self, target: Target, call: Call, entry: Entry, new: Object, *, is_apply: bool) -> Object | None:
        """The object as it should be stored, or None if nothing would change."""
        resource, old, kind = target.resource, entry.object, kinds.of(target.resource)
        self._refuse_another(target, old, new)
        metadata.carry_over(new, old)
        new = kinds.restrict(target, old, new)
        self._default(resource, new)
        kind.prepare_update(new, old, target.subresource)
        attributes = Attributes(operation="UPDATE", target=target, call=call, object=new, old=old)
        new = await self._mutated(attributes)
        self._default(resource, new)
        new["metadata"].pop("resourceVersion", None)
        if kind.has_generation and metadata.spec_changed(old, new, has_status=resource.has_status):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if target.subresource != "binding":
            self._validate(resource, new, old)
        await self._validated(attributes.with_object(new))
        if not is_apply:
            apply.track(self.types, target, call, old, new)
        return new if metadata.wants_update(old, new) else None

    def _refuse_another(self, target: Target, old: Object, new: Object) -> None:
        """An update is meant for the object of the uid that it names; a patch that names another would change it, which it cannot.
        One of a custom resource's status changes no metadata, so what it says of the uid is not looked at."""
        named, found = metadata.of(new).get("uid"), old["metadata"]["uid"]
        if not named or named == found:
            return
        if target.verb == "update":
            why = f"Precondition failed: UID in precondition: {named}, UID in object meta: {found}"
            raise conflict(target.resource.subject, target.name, f"StorageError: invalid object, AdditionalErrorMsg: {why}")
        if not (target.subresource == "status" and target.resource.custom is not None):
            raise unprocessable(target.resource.subject, target.name, [invalid("metadata.uid", named, "field is immutable")])

    def _commit(self, entry: Entry, new: Object) -> Object:
        """Store, or remove what is being deleted and waits for nothing any more."""
        resource = entry.key.resource
        if kinds.may_go(resource, new):
            return self.store.remove(entry.key, expected=entry.version).object
        return self.store.put(entry.key, new, expected=entry.version).object

    async def delete(self, target: Target, call: Call, options: Object) -> Object:
        """The object, if it stays for a while (grace period, finalizers); else a Status."""
        resource = target.resource
        for _ in range(RETRIES):
            entry = self.get(target)
            self._check_preconditions(target, entry, options)
            attributes = Attributes(operation="DELETE", target=target, call=call, object=None, old=entry.object)
            await self._mutated(attributes)
            await self._validated(attributes)
            body, remains = kinds.deleting(resource, entry.thaw(), options)
            if call.dry_run:
                return self._outgoing(body, resource) if remains else success(resource.subject, target.name)
            try:
                if not remains:
                    self.store.remove(entry.key, expected=entry.version)
                    return success(resource.subject, target.name, uid=entry.object["metadata"]["uid"])
                if metadata.wants_update(entry.object, body):
                    entry = self.store.put(entry.key, body, expected=entry.version)
                return self._outgoing(entry.object, resource)
            except Conflict:
                continue
        raise modified(resource.subject, target.name)

    async def delete_collection(self, target: Target, call: Call, options: Object, query: Mapping[str, str]) -> list[Object]:
        page = self.page(target, query)
        for entry in page.entries:
            single = Target(verb="delete", resource=target.resource, namespace=entry.key.namespace, name=entry.key.name)
            try:
                await self.delete(single, call, options)
            except ApiError as error:
                if error.code != 404:
                    raise
        return [self._outgoing(entry.object, target.resource) for entry in page.entries]

    async def admit_act(self, target: Target, call: Call, body: Object, *, operation: str) -> None:
        """Ask admission about a subresource that is an act: what is stored after it (a bound pod) is not asked about again."""
        self.get(target)
        attributes = Attributes(operation=operation, target=target, call=call, object=body, old=None)
        await self._admission.mutate(attributes)
        await self._admission.validate(attributes)

    async def _mutated(self, attributes: Attributes) -> Object:
        if attributes.target.subresource in ACTS:
            return attributes.object or {}
        return await self._admission.mutate(attributes)

    async def _validated(self, attributes: Attributes) -> None:
        if attributes.target.subresource not in ACTS:
            await self._admission.validate(attributes)

    def _check_preconditions(self, target: Target, entry: Entry, options: Object) -> None:
        wanted, found = options.get("preconditions") or {}, entry.object["metadata"]
        # The real server names the kind here, where it names the resource elsewhere.
        subject = replace(target.resource.subject, resource=target.resource.kind)
        for field, label, fate in (
            ("uid", "UID", "deleted and then recreated"),
            ("resourceVersion", "ResourceVersion", "modified"),
        ):
            if wanted.get(field) and wanted[field] != found[field]:
                why = f"the {label} in the precondition ({wanted[field]}) does not match the {label} in record ({found[field]})"
                raise conflict(subject, target.name, f"{why}. The object might have been {fate}")

    def _incoming(self, target: Target, body: Object, call: Call) -> Object:
        """The client's object, of the right kind, in the stored version, without fields that the schema does not know."""
        resource = target.resource
        expected = (resource.api_version, resource.kind)
        found = (body.setdefault("apiVersion", expected[0]), body.setdefault("kind", expected[1]))
        if found != expected:
            raise bad_request(
                f"{found[1]} in version {found[0]!r} cannot be handled as a {resource.kind}: "
                f"expected {resource.kind} in version {resource.api_version!r}"
            )
        body = self.types.clean(resource, body, call)
        if resource.storage in SHARED_STORAGE:
            return events.to_core(body)
        if resource.custom is not None:
            return body | {"apiVersion": f"{resource.group}/{self.types.storage_version(resource)}"}
        return body

    def _outgoing(self, body: Object, resource: Resource) -> Object:
        return self.convert(body, resource)

    def _place(self, target: Target, body: Object) -> None:
        meta = metadata.of(body)
        if target.resource.namespaced:
            if (given := meta.get("namespace")) and given != target.namespace:
                why = "the namespace of the provided object does not match the namespace sent on the request"
                raise bad_request(why)
            meta["namespace"] = target.namespace
        else:
            meta.pop("namespace", None)
        if target.name and not target.subresource and not meta.get("name"):
            meta["name"] = target.name

    def _default(self, resource: Resource, body: Object) -> None:
        self.types.default(resource, body)
        kinds.of(resource).default(body)

    def _validate(self, resource: Resource, body: Object, old: Object | None) -> None:
        errors = list(metadata.problems(resource, body))
        if old is not None:
            errors += metadata.update_problems(old, body)
        errors += self.types.problems(resource, body, old)
        errors += kinds.of(resource).problems(body, old)
        if errors:
            raise unprocessable(resource.subject, body["metadata"].get("name") or "", errors)


def storage_of(resource: Resource) -> str:
    return SHARED_STORAGE.get(resource.storage, resource.storage)


def selection(target: Target, query: Mapping[str, str]) -> Predicate:
    """The predicate that a list's or watch's selectors make together."""
    custom = target.resource.custom or {}
    selectable = tuple(entry["jsonPath"].lstrip(".") for entry in custom.get("selectableFields") or ())
    parts: list[Predicate] = []
    if text := query.get("labelSelector"):
        parts.append(labels_match(text))
    if text := query.get("fieldSelector"):
        parts.append(fields_match(text, resource=storage_of(target.resource), selectable=selectable))
    return lambda body: all(part(body) for part in parts)


def _version_in(body: Object, target: Target) -> int:
    """The version that a client insists on; some resources make it say one."""
    text = metadata.of(body).get("resourceVersion") or ""
    if not text and kinds.of(target.resource).needs_version and target.verb == "update":
        error = invalid("metadata.resourceVersion", 0, "must be specified for an update")
        raise unprocessable(target.resource.subject, target.name, [error])
    if text and not text.isdecimal():
        raise bad_request(f'invalid resource version "{text}"')
    return int(text or 0)


def _continue_token(version: int, last: Key | None) -> str:
    content: dict[str, Any] = {"v": version}
    if last is not None:
        content["after"] = [last.namespace, last.name]
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def _parse_continue_token(token: str, storage: str) -> tuple[int, Key]:
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = content["after"]
        return int(content["v"]), Key(storage, namespace, name)
    except (ValueError, KeyError, TypeError) as error:
        raise expired(f"continue key is not valid: {error}") from error
