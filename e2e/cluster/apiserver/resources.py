"""What is served: one table of resources, to which CustomResourceDefinitions add theirs.

Discovery, routing, authorization, printing and storage all read this table. It holds no behaviour: what is special about a kind
is found in `builtin` (defaults, validation), `table` (columns) and `pods` (subresources that are not objects).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from e2e.cluster.apiserver.status import Object, Subject

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CREATE_ONLY = ("create",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subresource:
    """`kind` is what its body is: the parent's own kind for /status, another for /scale or /binding."""

    name: str
    kind: str
    group: str = ""
    version: str = ""
    verbs: tuple[str, ...] = ("get", "patch", "update")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[Subresource, ...] = ()
    has_status: bool = False
    schema: Object | None = field(default=None, hash=False)
    """The structural schema of a custom resource; built-in kinds have theirs in `types`."""
    custom: Object | None = field(default=None, hash=False, compare=False)
    """The entry of `spec.versions` of the CRD that this resource comes from."""
    list_kind: str = ""
    served_since: int = 0

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage(self) -> str:
        return f"{self.group}/{self.plural}"

    @property
    def subject(self) -> Subject:
        return Subject(self.group, self.plural, self.kind)

    @property
    def singular_name(self) -> str:
        return self.singular or self.kind.lower()

    def subresource(self, name: str) -> Subresource | None:
        return next((sub for sub in self.subresources if sub.name == name), None)


def _resource(
    api_version: str,
    kind: str,
    plural: str,
    *,
    short: str = "",
    namespaced: bool = True,
    status: bool = False,
    categories: str = "",
    subresources: Iterable[Subresource] = (),
    verbs: tuple[str, ...] = ALL_VERBS,
) -> Resource:
    group, _, version = api_version.rpartition("/")
    status_part = (Subresource(name="status", kind=kind, group=group, version=version),) if status else ()
    return Resource(
        group=group,
        version=version,
        plural=plural,
        kind=kind,
        namespaced=namespaced,
        short_names=tuple(short.split()),
        categories=tuple(categories.split()),
        has_status=status,
        subresources=(*status_part, *subresources),
        verbs=verbs,
    )


SCALE = Subresource(name="scale", kind="Scale", group="autoscaling", version="v1")
EVICTION = Subresource(name="eviction", kind="Eviction", group="policy", version="v1", verbs=CREATE_ONLY)
BINDING = Subresource(name="binding", kind="Binding", version="v1", verbs=CREATE_ONLY)
LOG = Subresource(name="log", kind="Pod", version="v1", verbs=("get",))
EXEC = Subresource(name="exec", kind="PodExecOptions", version="v1", verbs=("create", "get"))
FINALIZE = Subresource(name="finalize", kind="Namespace", version="v1", verbs=("update",))
TOKEN = Subresource(name="token", kind="TokenRequest", group="authentication.k8s.io", version="v1", verbs=CREATE_ONLY)

NAMESPACE_VERBS = tuple(verb for verb in ALL_VERBS if verb != "deletecollection")
REVIEW = {"namespaced": False, "verbs": CREATE_ONLY}

BUILT_IN: tuple[Resource, ...] = (
    _resource("v1", "ConfigMap", "configmaps", short="cm"),
    _resource("v1", "Endpoints", "endpoints", short="ep"),
    _resource("v1", "Event", "events", short="ev"),
    _resource(
        "v1",
        "Namespace",
        "namespaces",
        short="ns",
        namespaced=False,
        status=True,
        subresources=[FINALIZE],
        verbs=NAMESPACE_VERBS,
    ),
    _resource("v1", "Node", "nodes", short="no", namespaced=False, status=True),
    _resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims", short="pvc", status=True),
    _resource("v1", "PersistentVolume", "persistentvolumes", short="pv", namespaced=False, status=True),
    _resource(
        "v1",
        "Pod",
        "pods",
        short="po",
        status=True,
        categories="all",
        subresources=[BINDING, EVICTION, EXEC, LOG],
    ),
    _resource("v1", "LimitRange", "limitranges", short="limits"),
    _resource("v1", "ReplicationController", "replicationcontrollers", short="rc", status=True, categories="all"),
    _resource("v1", "ResourceQuota", "resourcequotas", short="quota", status=True),
    _resource("v1", "Secret", "secrets"),
    _resource("v1", "ServiceAccount", "serviceaccounts", short="sa", subresources=[TOKEN]),
    _resource("v1", "Service", "services", short="svc", status=True, categories="all"),
    _resource("apps/v1", "ControllerRevision", "controllerrevisions"),
    _resource("apps/v1", "DaemonSet", "daemonsets", short="ds", status=True, categories="all"),
    _resource("apps/v1", "Deployment", "deployments", short="deploy", status=True, categories="all", subresources=[SCALE]),
    _resource("apps/v1", "ReplicaSet", "replicasets", short="rs", status=True, categories="all", subresources=[SCALE]),
    _resource("apps/v1", "StatefulSet", "statefulsets", short="sts", status=True, categories="all", subresources=[SCALE]),
    _resource("batch/v1", "Job", "jobs", status=True, categories="all"),
    _resource("batch/v1", "CronJob", "cronjobs", short="cj", status=True, categories="all"),
    _resource("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    _resource("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False),
    _resource("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    _resource("rbac.authorization.k8s.io/v1", "Role", "roles"),
    _resource(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        short="crd crds",
        namespaced=False,
        status=True,
        categories="api-extensions",
    ),
    *(
        _resource(
            "admissionregistration.k8s.io/v1",
            kind,
            kind.lower() + "s" if kind[-1] != "y" else kind.lower()[:-1] + "ies",
            namespaced=False,
            status=kind == "ValidatingAdmissionPolicy",
            categories="api-extensions",
        )
        for kind in (
            "MutatingWebhookConfiguration",
            "ValidatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
        )
    ),
    _resource("coordination.k8s.io/v1", "Lease", "leases"),
    _resource("events.k8s.io/v1", "Event", "events", short="ev"),
    _resource("storage.k8s.io/v1", "CSIDriver", "csidrivers", namespaced=False),
    _resource("storage.k8s.io/v1", "CSINode", "csinodes", namespaced=False),
    _resource("storage.k8s.io/v1", "CSIStorageCapacity", "csistoragecapacities"),
    _resource("storage.k8s.io/v1", "VolumeAttachment", "volumeattachments", namespaced=False, status=True),
    _resource("storage.k8s.io/v1", "StorageClass", "storageclasses", short="sc", namespaced=False),
    _resource("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", short="pc", namespaced=False),
    _resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", short="pdb", status=True),
    _resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    _resource("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", namespaced=False),
    # Nothing here acts on these; real schedulers and kubelets watch them.
    _resource("resource.k8s.io/v1", "DeviceClass", "deviceclasses", namespaced=False),
    _resource("resource.k8s.io/v1", "ResourceClaim", "resourceclaims", status=True),
    _resource("resource.k8s.io/v1", "ResourceClaimTemplate", "resourceclaimtemplates"),
    _resource("resource.k8s.io/v1", "ResourceSlice", "resourceslices", namespaced=False),
    _resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", short="netpol"),
    _resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews", namespaced=False, verbs=CREATE_ONLY),
    _resource("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False, verbs=CREATE_ONLY),
    _resource("authorization.k8s.io/v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", verbs=CREATE_ONLY),
    *(
        _resource("authorization.k8s.io/v1", kind, kind.lower() + "s", namespaced=False, verbs=CREATE_ONLY)
        for kind in ("SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview")
    ),
)

SHARED_STORAGE = {"events.k8s.io/events": "/events"}
"""Resources that two groups serve from one storage; `events` translates between their fields."""


class Catalog:
    """All that is served now. Reading is cheap; CRDs change it as they come, change and go."""

    def __init__(self) -> None:
        self._built_in = {(r.group, r.version, r.plural): r for r in BUILT_IN}
        self._custom: dict[str, tuple[Resource, ...]] = {}
        self._all = dict(self._built_in)
        self.generation = 0
        """Grows whenever the catalog changes, so that what is derived from it can be cached."""

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._all.values())

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._all.get((group, version, plural))

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        return next((r for r in self if r.api_version == api_version and r.kind == kind), None)

    def of_group_resource(self, group: str, plural: str) -> tuple[Resource, ...]:
        return tuple(r for r in self if r.group == group and r.plural == plural)

    def versions(self, group: str) -> list[str]:
        """The versions of a group, the preferred one first."""
        return list(dict.fromkeys(r.version for r in self if r.group == group))

    def groups(self) -> list[str]:
        return list(dict.fromkeys(r.group for r in self if r.group))

    def in_version(self, group: str, version: str) -> list[Resource]:
        return sorted((r for r in self if (r.group, r.version) == (group, version)), key=lambda r: r.plural)

    def define(self, name: str, resources: tuple[Resource, ...]) -> None:
        """Serve what the CRD `name` defines, in place of what it defined before; nothing, if `resources` is empty."""
        if self._custom.get(name, ()) == resources and all(
            old.custom == new.custom for old, new in zip(self._custom.get(name, ()), resources, strict=True)
        ):
            return
        self.generation += 1
        self._custom.pop(name, None)
        if resources:
            self._custom[name] = tuple(replace(r, served_since=self.generation) for r in resources)
        self._all = dict(self._built_in)
        for custom in self._custom.values():
            self._all |= {(r.group, r.version, r.plural): r for r in custom}
