"""CustomResourceDefinitions: what makes one valid, what it says of itself, and the resources that it adds to the catalog.

A definition is served as soon as it is stored: the conditions that the real server's controllers set a moment later are written in
the same step. What follows its deletion is in `cleanup`.
"""

from __future__ import annotations

from collections.abc import Iterator

from e2e.cluster.apiserver import cel, metadata
from e2e.cluster.apiserver.resources import Resource, Subresource
from e2e.cluster.apiserver.status import FieldError, Object, forbidden_field, invalid, required

STORAGE = "apiextensions.k8s.io/customresourcedefinitions"
CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


def default(body: Object) -> None:
    spec = body.setdefault("spec", {})
    names = spec.setdefault("names", {})
    names.setdefault("singular", str(names.get("kind", "")).lower())
    names.setdefault("listKind", f"{names.get('kind', '')}List")
    spec.setdefault("conversion", {"strategy": "None"})


def prepare_create(body: Object) -> None:
    finalizers = body["metadata"].setdefault("finalizers", [])
    if CLEANUP_FINALIZER not in finalizers:
        finalizers.append(CLEANUP_FINALIZER)
    body["status"] = _status(body, {})


def prepare_update(body: Object, old: Object, subresource: str) -> None:
    if not subresource:
        body["status"] = _status(body, old.get("status") or {})


def _status(body: Object, was: Object) -> Object:
    """Accepted and established, since when it first was; and every version that objects may still be stored at."""
    spec = body["spec"]
    stored = list(was.get("storedVersions") or ())
    stored += [v["name"] for v in spec.get("versions") or () if v.get("storage") and v["name"] not in stored]
    moment = metadata.now()
    conditions = was.get("conditions") or [
        {
            "type": "NamesAccepted",
            "status": "True",
            "reason": "NoConflicts",
            "message": "no conflicts found",
            "lastTransitionTime": moment,
        },
        {
            "type": "Established",
            "status": "True",
            "reason": "InitialNamesAccepted",
            "message": "the initial names have been accepted",
            "lastTransitionTime": moment,
        },
    ]
    return {"acceptedNames": spec.get("names", {}), "conditions": conditions, "storedVersions": stored}


def resources_of(body: Object) -> tuple[Resource, ...]:
    """What the definition serves; the version that clients should prefer comes first."""
    spec, names = body["spec"], body["spec"]["names"]
    return tuple(
        Resource(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            list_kind=names.get("listKind", ""),
            singular=names.get("singular", ""),
            namespaced=spec["scope"] == "Namespaced",
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            has_status="status" in (version.get("subresources") or {}),
            subresources=_subresources(spec, names, version),
            schema=(version.get("schema") or {}).get("openAPIV3Schema"),
            custom=version,
        )
        for version in sorted(spec["versions"], key=lambda version: _stability(version["name"]))
        if version.get("served")
    )


def _subresources(spec: Object, names: Object, version: Object) -> tuple[Subresource, ...]:
    if "status" not in (version.get("subresources") or {}):
        return ()
    return (Subresource(name="status", kind=names["kind"], group=spec["group"], version=version["name"]),)


def _stability(version: str) -> tuple[int, str]:
    """v1 before v1beta1 before v1alpha1."""
    return (2 if "alpha" in version else 1 if "beta" in version else 0, version)


def problems(body: Object, old: Object | None) -> Iterator[FieldError]:
    spec = body["spec"]
    names, versions = spec["names"], spec.get("versions") or []
    for field in ("plural", "kind"):
        if not names.get(field):
            yield required(f"spec.names.{field}")
    expected = f"{names.get('plural')}.{spec.get('group')}"
    if body["metadata"]["name"] != expected:
        yield invalid("metadata.name", body["metadata"]["name"], 'must be spec.names.plural+"."+spec.group')
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        yield required("spec.scope")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield invalid("spec.versions", versions, "must have exactly one version marked as storage version")
    if old is not None:
        for path, before, after in (
            ("spec.scope", old["spec"].get("scope"), spec.get("scope")),
            ("spec.names.kind", old["spec"]["names"].get("kind"), names.get("kind")),
        ):
            if before != after:
                yield invalid(path, after, "field is immutable")
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}].schema.openAPIV3Schema"
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if schema is None:
            yield required(path, "schemas are required")
            continue
        if schema.get("type") != "object":
            yield invalid(f"{path}.type", schema.get("type", ""), "must be object at the root")
        yield from _schema_problems(schema, path, is_root=True)


def _schema_problems(schema: Object, path: str, *, is_root: bool = False) -> Iterator[FieldError]:
    """What a structural schema demands of every node, and rules that compile."""
    untyped = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not schema.get("type") and not untyped:
        yield required(f"{path}.type", "must not be empty for specified object fields")
    if schema.get("properties") and isinstance(schema.get("additionalProperties"), dict):
        yield forbidden_field(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    yield from _list_map_problems(schema, path)
    for index, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
        at = f"{path}.x-kubernetes-validations[{index}]"
        for field in ("rule", "messageExpression"):
            if rule.get(field):
                try:
                    cel.compiled(rule[field])
                except cel.CompileError as error:
                    yield invalid(f"{at}.{field}", rule[field], str(error))
    for name, inner in (schema.get("properties") or {}).items():
        # The root's metadata may be restricted, but not described.
        if not (is_root and name == "metadata"):
            yield from _schema_problems(inner, f"{path}.properties[{name}]")
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from _schema_problems(schema[part], f"{path}.{part}")
    if schema.get("type") == "array" and not schema.get("items"):
        yield required(f"{path}.items", "must be specified")


def _list_map_problems(schema: Object, path: str) -> Iterator[FieldError]:
    if schema.get("x-kubernetes-list-type") != "map":
        return
    keys, items = schema.get("x-kubernetes-list-map-keys") or (), schema.get("items") or {}
    if not keys:
        yield required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
    for key in keys:
        field = (items.get("properties") or {}).get(key)
        if field is None:
            why = "entries must all be names of item properties"
            yield invalid(f"{path}.x-kubernetes-list-map-keys", list(keys), why)
        elif key not in (items.get("required") or ()) and "default" not in field:
            at = f"{path}.items.properties[{key}].default"
            yield required(at, "a key of the list map must have a default or be required")
