"""Label and field selectors: from the text of a query, or a LabelSelector, to a predicate on objects.

Field selectors know the few fields that the real server indexes for each kind; another field is a bad request, not a miss.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from e2e.cluster.apiserver.status import Object, bad_request

Predicate = Callable[[Object], bool]

FIELDS: Mapping[str, tuple[str, ...]] = {
    "/pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "/nodes": ("spec.unschedulable",),
    "/namespaces": ("status.phase",),
    "/secrets": ("type",),
    "/services": ("spec.clusterIP", "spec.type"),
    "/events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    "apps/replicasets": ("status.replicas",),
    "batch/jobs": ("status.successful",),
}

_TERM = re.compile(r"\s*(!?)\s*([^\s=!,()]+)\s*(?:(==|=|!=)\s*([^\s,]*)|\s(in|notin)\s*\(([^)]*)\))?\s*(?:,|$)")


def labels_match(text: str) -> Predicate:
    """`a=b,c!=d,e in (f,g),h notin (i),j,!k`."""
    terms = [_label_term(match) for match in _scan(text)]
    return lambda obj: all(term(obj.get("metadata", {}).get("labels") or {}) for term in terms)


def _scan(text: str) -> list[re.Match[str]]:
    matches, at = [], 0
    while at < len(text.rstrip()):
        match = _TERM.match(text, at)
        if match is None:
            raise bad_request(f"unable to parse requirement: found '{text[at:]}'")
        matches.append(match)
        at = match.end()
    return matches


def _label_term(match: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    absent, key, operator, value, set_operator, members = match.groups()
    if absent:
        return lambda labels: key not in labels
    if set_operator:
        values = {member.strip() for member in members.split(",")}
        wanted = set_operator == "in"
        return lambda labels: (labels.get(key) in values) is wanted
    if operator is None:
        return lambda labels: key in labels
    return lambda labels: (labels.get(key) == value) is (operator != "!=")


def label_selector_matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """A LabelSelector as webhooks and policies carry it: none and empty both match all."""
    if not selector:
        return True
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_expression_matches(expression, labels) for expression in selector.get("matchExpressions") or ())


def _expression_matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case other:
            raise bad_request(f'"{other}" is not a valid label selector operator')


def fields_match(text: str, *, resource: str, selectable: tuple[str, ...] = ()) -> Predicate:
    """`metadata.name=a,spec.nodeName!=b`; `selectable` are the further fields that a CRD names."""
    known = ("metadata.name", "metadata.namespace", *FIELDS.get(resource, ()), *selectable)
    terms: list[tuple[str, bool, str]] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part.strip())
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, value = match.groups()
        if path not in known:
            raise bad_request(f"field label not supported: {path}")
        terms.append((path, operator != "!=", value))
    return lambda obj: all((field_value(obj, path) == value) is equal for path, equal, value in terms)


def field_value(obj: Object, path: str) -> str:
    """The value as field selectors compare it: text, and empty where the field is unset."""
    if path == "source":
        path = "source.component"
    node: Any = obj
    for step in path.split("."):
        node = node.get(step) if isinstance(node, dict) else None
    if isinstance(node, bool):
        return str(node).lower()
    if path in ("spec.unschedulable", "spec.hostNetwork") and node is None:
        return "false"
    return "" if node is None else str(node)


def named_by(text: str) -> str:
    """The name that a field selector pins, which authorization and watches of single objects use."""
    names = [part.partition("=")[2].lstrip("=") for part in text.split(",") if part.startswith("metadata.name=")]
    return names[0] if len(names) == 1 else ""
