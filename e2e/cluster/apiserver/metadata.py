"""ObjectMeta: what the server writes into it, what a client may not change, and what makes it invalid."""

from __future__ import annotations

import datetime
import re
import secrets
import uuid
from collections.abc import Iterator

from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.status import FieldError, Json, Object, bad_request, duplicate, forbidden_field, invalid, required

SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SERVICE = r"[a-z]([-a-z0-9]*[a-z0-9])?"
QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end "
    f"with an alphanumeric character (e.g. 'example.com', regex used for validation is '{SUBDOMAIN}')"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    f"alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
)
SERVICE_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end "
    f"with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '{SERVICE}')"
)
QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{QUALIFIED}')"
)
LABEL_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
    f"an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{LABEL_VALUE}')"
)

ANNOTATIONS_LIMIT = 256 * 1024
"""Bytes of all annotations' keys and values together."""

_RANDOM_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Without vowels and look-alikes: generated names spell no words."""


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_seconds(delay: float) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=delay)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def generated_name(prefix: str) -> str:
    return prefix[:58] + "".join(secrets.choice(_RANDOM_ALPHABET) for _ in range(5))


def of(body: Object) -> Object:
    metadata = body.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise bad_request("metadata: must be an object")
    return metadata


def begin(body: Object, *, generation: bool) -> None:
    """Fill in what every new object gets, over whatever the client wrote there."""
    metadata = of(body)
    for name in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
        metadata.pop(name, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = now()
    if generation:
        metadata["generation"] = 1
    _drop_empty(metadata)


def carry_over(body: Object, old: Object) -> None:
    """On an update, keep what only the server sets."""
    metadata, was = of(body), old["metadata"]
    for name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"):
        if name in was:
            metadata[name] = was[name]
        elif name != "generateName":
            metadata.pop(name, None)
    metadata.pop("selfLink", None)
    _drop_empty(metadata)


def _drop_empty(metadata: Object) -> None:
    """Empty maps and lists are left out, as Go's omitempty does, so that two spellings of nothing compare equal."""
    for name in ("labels", "annotations", "finalizers", "ownerReferences", "managedFields", "generateName"):
        if name in metadata and not metadata[name]:
            del metadata[name]


def wants_update(old: Object, new: Object) -> bool:
    """Whether `new` says anything that `old` does not; when a field's manager wrote it is not worth a version."""
    return _without_times(old) != _without_times(new)


def _without_times(body: Object) -> Object:
    metadata = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
    if "managedFields" in metadata:
        metadata["managedFields"] = [
            {key: value for key, value in entry.items() if key != "time"} for entry in metadata["managedFields"]
        ]
    return body | {"metadata": metadata}


def spec_changed(old: Object, new: Object, *, has_status: bool) -> bool:
    """Whether the generation grows: something but metadata (and status, where that is apart) has changed."""
    ignored = {"metadata", "apiVersion", "kind"} | ({"status"} if has_status else set())
    return {k: v for k, v in old.items() if k not in ignored} != {k: v for k, v in new.items() if k not in ignored}


def problems(resource: Resource, body: Object) -> Iterator[FieldError]:
    metadata = body["metadata"]
    name = metadata.get("name") or ""
    if not name:
        yield required("metadata.name", "name or generateName is required")
    else:
        yield from _name_problems(resource, name)
    yield from _label_problems(metadata.get("labels") or {}, "metadata.labels")
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        yield from _qualified_problems(key.lower(), "metadata.annotations", key)
    size = sum(len(key.encode()) + len(str(value).encode()) for key, value in annotations.items())
    if size > ANNOTATIONS_LIMIT:
        yield FieldError("metadata.annotations", "FieldValueTooLong", f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes")
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        yield from _qualified_problems(finalizer, f"metadata.finalizers[{index}]", finalizer)
    yield from _owner_problems(metadata.get("ownerReferences") or ())


def _name_problems(resource: Resource, name: str) -> Iterator[FieldError]:
    path = "metadata.name"
    if resource.group == "rbac.authorization.k8s.io":
        if name in (".", "..") or "/" in name or "%" in name:
            yield invalid(path, name, "may not contain '/' or '%', or be '.' or '..'")
    elif resource.storage in ("/namespaces", "/services"):
        pattern, rule = (LABEL, LABEL_RULE) if resource.plural == "namespaces" else (SERVICE, SERVICE_RULE)
        if len(name) > 63:
            yield invalid(path, name, "must be no more than 63 characters")
        if not re.fullmatch(pattern, name):
            yield invalid(path, name, rule)
    else:
        if len(name) > 253:
            yield invalid(path, name, "must be no more than 253 characters")
        if not re.fullmatch(SUBDOMAIN, name):
            yield invalid(path, name, SUBDOMAIN_RULE)


def _label_problems(labels: Object, path: str) -> Iterator[FieldError]:
    for key, value in labels.items():
        yield from _qualified_problems(key, path, key)
        if len(value) > 63:
            yield invalid(path, value, "must be no more than 63 bytes")
        elif not re.fullmatch(LABEL_VALUE, value):
            yield invalid(path, value, LABEL_VALUE_RULE)


def _qualified_problems(text: str, path: str, shown: str) -> Iterator[FieldError]:
    prefix, slash, name = text.rpartition("/")
    if slash and not (len(prefix) <= 253 and re.fullmatch(SUBDOMAIN, prefix)):
        yield invalid(path, shown, f"prefix part {SUBDOMAIN_RULE}" if prefix else "prefix part must be non-empty")
    if not name:
        yield invalid(path, shown, "name part must be non-empty")
    elif len(name) > 63:
        yield invalid(path, shown, "name part must be no more than 63 bytes")
    if not re.fullmatch(QUALIFIED, name):
        yield invalid(path, shown, QUALIFIED_RULE)


def _owner_problems(owners: Json) -> Iterator[FieldError]:
    controllers = 0
    for index, owner in enumerate(owners):
        path = f"metadata.ownerReferences[{index}]"
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                yield invalid(f"{path}.{name}", owner.get(name) or "", f"{name} must not be empty")
        controllers += bool(owner.get("controller"))
    if controllers > 1:
        yield invalid("metadata.ownerReferences", "", "Only one reference can have Controller set to true")


def update_problems(old: Object, new: Object) -> Iterator[FieldError]:
    was, now_ = old["metadata"], new["metadata"]
    for name in ("name", "namespace"):
        if was.get(name) != now_.get(name):
            yield invalid(f"metadata.{name}", now_.get(name), "field is immutable")
    added = [f for f in now_.get("finalizers") or () if f not in (was.get("finalizers") or ())]
    if was.get("deletionTimestamp") and added:
        names = ", ".join(f'"{name}"' for name in added)
        detail = "no new finalizers can be added if the object is being deleted, found new finalizers []string{" + names + "}"
        yield forbidden_field("metadata.finalizers", detail)


def duplicate_names(items: Json, path: str, key: str = "name") -> Iterator[FieldError]:
    seen: set[Json] = set()
    for index, item in enumerate(items or ()):
        value = item.get(key)
        if value in seen:
            yield duplicate(f"{path}[{index}].{key}", value)
        seen.add(value)
