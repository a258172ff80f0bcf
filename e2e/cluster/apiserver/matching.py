"""What admission webhooks and policies have in common: which requests concern them, and the request as they see it."""

from __future__ import annotations

import copy
import uuid
from typing import Any

from e2e.cluster.apiserver import cel
from e2e.cluster.apiserver.admission import Attributes
from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.selectors import label_selector_matches
from e2e.cluster.apiserver.status import Object
from e2e.cluster.apiserver.store import Key, Store

_OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


def rule_covers(rule: Object, attributes: Attributes) -> bool:
    """RuleWithOperations; of all versions of a resource, only the requested one is looked at (there is one of each here)."""
    target = attributes.target
    operations, groups, versions = (rule.get(name) or () for name in ("operations", "apiGroups", "apiVersions"))
    if "*" not in operations and attributes.operation not in operations:
        return False
    if "*" not in groups and target.resource.group not in groups:
        return False
    if "*" not in versions and target.resource.version not in versions:
        return False
    is_namespaced = target.resource.namespaced
    if rule.get("scope", "*") not in ("*", "Namespaced" if is_namespaced else "Cluster"):
        return False
    return any(_resource_matches(pattern, target.resource, target.subresource) for pattern in rule.get("resources") or ())


def _resource_matches(pattern: str, resource: Resource, subresource: str) -> bool:
    plural, slash, sub = pattern.partition("/")
    if plural not in ("*", resource.plural):
        return False
    return (not subresource) if not slash else sub == "*" or sub == subresource


def request_of(attributes: Attributes) -> Object:
    """The AdmissionRequest, which match conditions see as `request` too."""
    target, call = attributes.target, attributes.call
    resource = target.resource
    body = resource.subresource(target.subresource) or resource
    kind = {"group": body.group, "version": body.version, "kind": body.kind}
    plural = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    request: dict[str, Any] = {
        "uid": str(uuid.uuid4()),
        "kind": kind,
        "resource": plural,
        "requestKind": kind,
        "requestResource": plural,
        "name": attributes.name,
        "namespace": target.namespace or (attributes.name if resource.storage == "/namespaces" else ""),
        "operation": attributes.operation,
        "userInfo": call.user.info(),
        "object": copy.deepcopy(attributes.object),
        "oldObject": attributes.old,
        "dryRun": call.dry_run,
    }
    if options := _OPTIONS.get(attributes.operation):
        request["options"] = {"kind": options, "apiVersion": "meta.k8s.io/v1", "fieldManager": call.manager}
    if target.subresource:
        request["subResource"] = request["requestSubResource"] = target.subresource
    return {name: value for name, value in request.items() if value != ""}


def is_selected(store: Store, settings: Object, attributes: Attributes) -> bool:
    """Whether the namespace and the object are what `namespaceSelector` and `objectSelector` select."""
    if not _namespace_matches(store, settings.get("namespaceSelector"), attributes):
        return False
    selector = settings.get("objectSelector")
    bodies = [body for body in (attributes.object, attributes.old) if body is not None]
    return not selector or any(label_selector_matches(selector, _labels(body)) for body in bodies)


def _namespace_matches(store: Store, selector: Object | None, attributes: Attributes) -> bool:
    target = attributes.target
    if not selector:
        return True
    if target.resource.storage == "/namespaces":
        return label_selector_matches(selector, _labels(attributes.object or attributes.old or {}))
    if not target.namespace:
        return True
    entry = store.get(Key("/namespaces", "", target.namespace))
    return entry is not None and label_selector_matches(selector, _labels(entry.object))


def _labels(body: Object) -> Object:
    return (body.get("metadata") or {}).get("labels") or {}


def condition_holds(condition: Object, attributes: Attributes) -> bool:
    program = cel.compiled(condition["expression"], ("object", "oldObject", "request"))
    values = {"object": attributes.object, "oldObject": attributes.old, "request": request_of(attributes)}
    return program.evaluate(values) is True
