"""The API resources that dynvol talks to: where each is served, and the projection that it decodes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from . import names
from .claim import DynamicVolumeClaim
from .core import Bare, Event, Lease, Namespace, Node, PersistentVolumeClaim, Pod, Secret
from .providerclass import StorageProviderClass

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """`group` is empty for core/v1. `type` decodes one object."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    type: type[T]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


CLAIMS: Final = Resource(names.GROUP, names.VERSION, "dynamicvolumeclaims", names.CLAIM_KIND, True, DynamicVolumeClaim)
CLASSES: Final = Resource(names.GROUP, names.VERSION, "storageproviderclasses", names.CLASS_KIND, False, StorageProviderClass)
PODS: Final = Resource("", "v1", "pods", "Pod", True, Pod)
SECRETS: Final = Resource("", "v1", "secrets", "Secret", True, Secret)
VOLUME_CLAIMS: Final = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, PersistentVolumeClaim)
EVENTS: Final = Resource("", "v1", "events", "Event", True, Event)
NODES: Final = Resource("", "v1", "nodes", "Node", False, Node)
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", False, Namespace)
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease", True, Lease)
DAEMON_SETS: Final = Resource("apps", "v1", "daemonsets", "DaemonSet", True, Bare)
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount", True, Bare)
ROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", True, Bare)
ROLE_BINDINGS: Final = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", True, Bare)
CLUSTER_ROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False, Bare)
CLUSTER_ROLE_BINDINGS: Final = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False, Bare)
DEFINITIONS: Final = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, Bare)
