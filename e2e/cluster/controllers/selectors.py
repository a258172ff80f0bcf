"""Label selectors, node selectors, tolerations: does this match that? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def matches(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """A LabelSelector; an absent one matches nothing, an empty one everything."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or ()
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        requirement(expression, labels) for expression in expressions
    )


def requirement(expression: Object, values: Mapping[str, str]) -> bool:
    """One expression of a label or node selector."""
    key, operator, wanted = expression["key"], expression["operator"], expression.get("values") or []
    present = key in values
    match operator:
        case "In":
            return present and values[key] in wanted
        case "NotIn":
            return not present or values[key] not in wanted
        case "Exists":
            return present
        case "DoesNotExist":
            return not present
        case "Gt":
            return present and int(values[key]) > int(wanted[0])
        case "Lt":
            return present and int(values[key]) < int(wanted[0])
    return False


def as_query(selector: Object) -> str:
    """A LabelSelector as the `labelSelector` parameter of a list."""
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        values = ",".join(expression.get("values") or ())
        words = {
            "In": f"{expression['key']} in ({values})",
            "NotIn": f"{expression['key']} notin ({values})",
            "Exists": expression["key"],
            "DoesNotExist": f"!{expression['key']}",
        }
        parts.append(words[expression["operator"]])
    return ",".join(parts)


def node_fits(spec: Object, node: Object) -> bool:
    """nodeSelector and required node affinity, matchFields too."""
    labels = node["metadata"].get("labels") or {}
    selected = all(labels.get(key) == value for key, value in (spec.get("nodeSelector") or {}).items())
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return selected and (required is None or any(_term_fits(term, node) for term in required["nodeSelectorTerms"]))


def _term_fits(term: Object, node: Object) -> bool:
    """All expressions and all fields; a term with neither matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    labels = node["metadata"].get("labels") or {}
    named = {"metadata.name": node["metadata"]["name"]}
    return bool(expressions or fields) and (
        all(requirement(expression, labels) for expression in expressions) and all(requirement(field, named) for field in fields)
    )


def tolerates(spec: Object, taint: Object) -> bool:
    return any(tolerated(toleration, taint) for toleration in spec.get("tolerations") or ())


def tolerated(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if not toleration.get("key"):
        return bool(toleration.get("operator") == "Exists")
    if toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def untolerated(spec: Object, node: Object, *, effects: frozenset[str]) -> Object | None:
    """The first taint with one of these effects that the pod does not tolerate."""
    taints = (node.get("spec") or {}).get("taints") or ()
    return next((taint for taint in taints if taint["effect"] in effects and not tolerates(spec, taint)), None)
