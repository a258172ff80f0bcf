"""What the server tells clients about what it serves: the aggregated form that kubectl asks for, and the older documents."""

from __future__ import annotations

from typing import Any

from e2e.cluster.apiserver.resources import Catalog, Resource
from e2e.cluster.apiserver.status import Object

AGGREGATED = "apidiscovery.k8s.io"


def aggregated(catalog: Catalog, *, core: bool) -> Object:
    """APIGroupDiscoveryList v2: of /api where `core`, else of /apis."""
    groups = [""] if core else catalog.groups()
    items = [
        {
            "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
            "versions": [_version(catalog, group, version) for version in catalog.versions(group)],
        }
        for group in groups
    ]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": f"{AGGREGATED}/v2", "metadata": {}, "items": items}


def _version(catalog: Catalog, group: str, version: str) -> Object:
    resources = [_aggregated_resource(resource) for resource in catalog.in_version(group, version)]
    return {"version": version, "freshness": "Current", "resources": resources}


def _aggregated_resource(resource: Resource) -> Object:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    document: Object = {
        "resource": resource.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular_name,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        document["shortNames"] = list(resource.short_names)
    if resource.categories:
        document["categories"] = list(resource.categories)
    if resource.subresources:
        document["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": list(sub.verbs),
            }
            for sub in resource.subresources
        ]
    return document


def core_versions(address: str) -> Object:
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group_list(catalog: Catalog) -> Object:
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(catalog, name) for name in catalog.groups()]}


def group(catalog: Catalog, name: str) -> Object:
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in catalog.versions(name)]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": versions[0]}


def resource_list(catalog: Catalog, group: str, version: str) -> Object:
    resources: list[Object] = []
    for resource in catalog.in_version(group, version):
        resources.append(_listed(resource))
        for sub in resource.subresources:
            entry: dict[str, Any] = {
                "name": f"{resource.plural}/{sub.name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind,
                "verbs": list(sub.verbs),
            }
            if (sub.group, sub.version) != (resource.group, resource.version):
                entry |= {"group": sub.group, "version": sub.version}
            resources.append(entry)
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def _listed(resource: Resource) -> Object:
    entry: Object = {
        "name": resource.plural,
        "singularName": resource.singular_name,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return entry
