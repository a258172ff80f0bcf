"""OpenAPI documents, as much of them as kubectl reads: schemas for `explain`, and which requests can validate fields.

From the parameter `fieldValidation` of a PATCH, kubectl learns that the server checks fields itself, and leaves it to that. Other
paths, parameters and answers are not described.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

import msgspec

from e2e.cluster.apiserver import swagger
from e2e.cluster.apiserver.builtin_types import model_name
from e2e.cluster.apiserver.resources import Catalog, Resource
from e2e.cluster.apiserver.status import Json, Object
from e2e.cluster.apiserver.types import Types

_API_VERSION = {
    "type": "string",
    "description": "The versioned schema that this object is written in: group and version of its kind.",
}
_KIND = {"type": "string", "description": "What this object is, in CamelCase. It cannot be changed."}
_METADATA = "What every object has: its name and namespace, labels and annotations, owners."


class Documents:
    """The documents of the present catalog; made when first asked for, and again when the catalog has changed."""

    def __init__(self, catalog: Catalog, types: Types) -> None:
        self._catalog = catalog
        self._types = types
        self._made: dict[str, bytes] = {}
        self._generation = -1

    def index(self) -> Object:
        """Where to find each group version, at an address that changes with its content."""
        paths = {}
        for group, version in self._group_versions():
            place = _place(group, version)
            digest = hashlib.sha256(self.of(group, version)).hexdigest()[:32].upper()
            paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={digest}"}
        return {"paths": paths}

    def of(self, group: str, version: str) -> bytes:
        """The OpenAPI v3 document of one group version; empty if there is none."""
        if (group, version) not in self._group_versions():
            return b""
        return self._cached(_place(group, version), lambda: msgspec.json.encode(self._document(group, version)))

    def swagger(self) -> bytes:
        """The OpenAPI v2 document of everything."""
        return self._cached("v2", lambda: msgspec.json.encode(self._swagger()))

    def swagger_protobuf(self) -> bytes:
        """The same, as much of it as kubectl reads."""
        return self._cached("v2 in protobuf", lambda: swagger.encode(self._swagger()))

    def _cached(self, name: str, make: Callable[[], bytes]) -> bytes:
        if self._generation != self._catalog.generation:
            self._made.clear()
            self._generation = self._catalog.generation
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _group_versions(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((resource.group, resource.version) for resource in self._catalog))

    def _document(self, group: str, version: str) -> Object:
        resources = self._catalog.in_version(group, version)
        schemas = self._schemas(resources, "#/components/schemas/")
        paths = {path: item for resource in resources for path, item in _paths(resource).items()}
        return {**_head("openapi", "3.0.0"), "paths": paths, "components": {"schemas": schemas}}

    def _swagger(self) -> Object:
        schemas = self._schemas(self._catalog, "#/definitions/")
        return {**_head("swagger", "2.0"), "paths": {}, "definitions": schemas}

    def _schemas(self, resources: Iterable[Resource], prefix: str) -> Object:
        """The resources' own schemas and all that these refer to."""
        found: Object = {}
        waiting: list[tuple[str, Object]] = []
        for resource in resources:
            root = self._types.shape(resource).schema
            if root:
                waiting.append((definition_name(resource), _root(resource, root)))
        while waiting:
            name, schema = waiting.pop()
            if name not in found:
                found[name] = _published(schema, prefix)
                referred = re.findall(r"'#/definitions/(\w+)'", str(schema))
                waiting += [(other, self._types.definitions[other]) for other in dict.fromkeys(referred)]
        return found


def definition_name(resource: Resource) -> str:
    if resource.custom is None:
        return model_name(resource)
    return ".".join((*reversed(resource.group.split(".")), resource.version, resource.kind))


def _place(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _head(key: str, version: str) -> Object:
    return {key: version, "info": {"title": "Kubernetes", "version": "v1"}}


def _root(resource: Resource, schema: Object) -> Object:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    metadata = {**schema.get("properties", {}).get("metadata", {}), "description": _METADATA}
    properties = {**schema.get("properties", {}), "apiVersion": _API_VERSION, "kind": _KIND, "metadata": metadata}
    return {**schema, "properties": properties, "x-kubernetes-group-version-kind": [kind]}


def _published(schema: Json, prefix: str) -> Json:
    """A schema as OpenAPI has it: references to where they lead here, what is only this server's own left out."""
    if isinstance(schema, list):
        return [_published(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) and isinstance(reference, str):
        target = {"$ref": prefix + reference.rpartition("/")[2]}
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        # Beside a reference nothing else counts, so what is to be added to it stands around it.
        return {**rest, "allOf": [target]} if rest else target
    published = {key: _published(value, prefix) for key, value in schema.items() if key not in ("x-quantity", "x-go-type")}
    if schema.get("x-kubernetes-int-or-string") is True:
        published |= {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
    return published


def _paths(resource: Resource) -> Object:
    base = f"/{_place(resource.group, resource.version)}"
    collection = f"{base}/namespaces/{{namespace}}/{resource.plural}" if resource.namespaced else f"{base}/{resource.plural}"
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldManager", "fieldValidation")
    ]
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{definition_name(resource)}"}}}
    answers = {"200": {"description": "OK", "content": content}}

    def operation(action: str) -> Object:
        return {
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
            "parameters": parameters,
            "responses": answers,
        }

    paths: Object = {collection: {"post": operation("post")}}
    if "patch" in resource.verbs:
        paths[f"{collection}/{{name}}"] = {
            "get": operation("get"),
            "put": operation("put"),
            "patch": operation("patch"),
            "delete": operation("delete"),
        }
    return paths
