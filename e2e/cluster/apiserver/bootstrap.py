"""What is there from the first start: namespaces, the roles of the control plane, priority classes, the kubernetes Service."""

from __future__ import annotations

from collections.abc import Iterator

from e2e.cluster.apiserver import kinds, metadata
from e2e.cluster.apiserver.resources import Catalog
from e2e.cluster.apiserver.rest import storage_of
from e2e.cluster.apiserver.status import Object
from e2e.cluster.apiserver.store import Key, Store

RBAC = "rbac.authorization.k8s.io"
EVERYTHING = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
]
INFO_PATHS = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
DISCOVERY_PATHS = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *INFO_PATHS, "/livez/*", "/readyz/*"]

ROLES: dict[str, list[Object]] = {
    "cluster-admin": EVERYTHING,
    "view": [
        {
            "apiGroups": ["", "apps", "batch", "policy", "networking.k8s.io", "discovery.k8s.io", "storage.k8s.io"],
            "resources": [
                "configmaps",
                "endpoints",
                "endpointslices",
                "events",
                "persistentvolumeclaims",
                "pods",
                "pods/log",
                "services",
                "daemonsets",
                "deployments",
                "replicasets",
                "statefulsets",
                "jobs",
                "cronjobs",
                "poddisruptionbudgets",
                "networkpolicies",
                "namespaces",
            ],
            "verbs": ["get", "list", "watch"],
        }
    ],
    "edit": [{"apiGroups": ["", "apps", "batch", "policy", "networking.k8s.io"], "resources": ["*"], "verbs": ["*"]}],
    "system:discovery": [{"nonResourceURLs": DISCOVERY_PATHS, "verbs": ["get"]}],
    "system:public-info-viewer": [{"nonResourceURLs": INFO_PATHS, "verbs": ["get"]}],
    "system:basic-user": [
        {
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            "verbs": ["create"],
        },
        {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
    ],
    # The real node authorizer follows references from a node's pods. Here a node's identity is trusted more widely.
    "system:node": EVERYTHING,
}

BINDINGS: tuple[tuple[str, str, str, str], ...] = (
    ("cluster-admin", "cluster-admin", "Group", "system:masters"),
    ("system:discovery", "system:discovery", "Group", "system:authenticated"),
    ("system:basic-user", "system:basic-user", "Group", "system:authenticated"),
    ("system:public-info-viewer", "system:public-info-viewer", "Group", "system:authenticated"),
    ("system:public-info-viewer:anonymous", "system:public-info-viewer", "Group", "system:unauthenticated"),
    ("system:node", "system:node", "Group", "system:nodes"),
    ("system:kube-controller-manager", "cluster-admin", "User", "system:kube-controller-manager"),
    ("system:kube-scheduler", "cluster-admin", "User", "system:kube-scheduler"),
)


def ensure(store: Store, catalog: Catalog, *, port: int) -> None:
    """Create what is missing. It runs before the server listens, so nothing races with it."""
    for body in _objects(port):
        resource = catalog.of_kind(body["apiVersion"], body["kind"])
        assert resource is not None
        meta = body["metadata"]
        key = Key(storage_of(resource), meta.get("namespace", ""), meta["name"])
        if store.get(key) is None:
            metadata.begin(body, generation=kinds.of(resource).has_generation)
            kinds.of(resource).default(body)
            store.put(key, body, expected=0)


def _objects(port: int) -> Iterator[Object]:
    for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    for name, rules in ROLES.items():
        yield {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    for name, role, kind, subject in BINDINGS:
        yield {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": kind, "name": subject}],
        }
    for name, value in (("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)):
        yield {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": "Used for system critical pods.",
            "preemptionPolicy": "PreemptLowerPriority",
        }
    named = {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}}
    ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]
    yield {"apiVersion": "v1", "kind": "Service", "metadata": named, "spec": {"ports": ports}}
    addresses = {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}
    yield {"apiVersion": "v1", "kind": "Endpoints", "metadata": dict(named), "subsets": [addresses]}
