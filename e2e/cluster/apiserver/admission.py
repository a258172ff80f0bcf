"""Admission: what may change an object on its way in, or refuse it.

The plug-ins of the real server that dynvol's world depends on, in its order; webhooks and policies, which users configure, come
last and are modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from e2e.cluster.apiserver.metadata import generated_name
from e2e.cluster.apiserver.request import Call, Target
from e2e.cluster.apiserver.status import ApiError, Object, Subject, forbidden, not_found
from e2e.cluster.apiserver.store import Key, Store

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_LIFETIME = 3607
"""Seconds; the odd number marks tokens that the server asked for itself, as the real one's does."""

UNDELETABLE = ("default", "kube-public", "kube-system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What is about to happen. `object` is None for a deletion, `old` for a creation."""

    operation: str
    target: Target
    call: Call
    object: Object | None
    old: Object | None

    def with_object(self, body: Object) -> Attributes:
        return replace(self, object=body)

    @property
    def subject(self) -> Subject:
        return self.target.resource.subject

    @property
    def name(self) -> str:
        return self.target.name or ((self.object or {}).get("metadata") or {}).get("name", "")

    def refuse(self, why: str) -> ApiError:
        return forbidden(self.subject, self.name, why)

    def creates(self, storage: str) -> bool:
        return self.operation == "CREATE" and self.target.resource.storage == storage and not self.target.subresource


class Plugin(Protocol):
    """`mutate` changes `attributes.object` in place or returns another; both raise an ApiError to refuse."""

    async def mutate(self, attributes: Attributes) -> Object | None: ...

    async def validate(self, attributes: Attributes) -> None: ...


class Admission:
    """All plug-ins: every one mutates before the first validates."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._plugins = tuple(plugins)

    async def mutate(self, attributes: Attributes) -> Object:
        for plugin in self._plugins:
            changed = await plugin.mutate(attributes)
            if changed is not None:
                attributes = attributes.with_object(changed)
        return attributes.object or {}

    async def validate(self, attributes: Attributes) -> None:
        for plugin in self._plugins:
            await plugin.validate(attributes)


class _Mutating:
    async def validate(self, attributes: Attributes) -> None:
        return


class NamespaceLifecycle(_Mutating):
    """Nothing is created in a namespace that is not there or is going; some namespaces do not go."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def mutate(self, attributes: Attributes) -> Object | None:
        target = attributes.target
        is_namespace = target.resource.storage == "/namespaces"
        if attributes.operation == "DELETE" and is_namespace and target.name in UNDELETABLE:
            raise attributes.refuse("this namespace may not be deleted")
        if attributes.operation != "CREATE" or not target.namespace or is_namespace:
            return None
        entry = self._store.get(Key("/namespaces", "", target.namespace))
        if entry is None:
            raise not_found(Subject("", "namespaces", "Namespace"), target.namespace)
        if entry.object["metadata"].get("deletionTimestamp"):
            error = attributes.refuse(
                f"unable to create new content in namespace {target.namespace} because it is being terminated"
            )
            message = f"namespace {target.namespace} is being terminated"
            error.details["causes"] = [{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}]
            raise error
        return None


class ServiceAccounts(_Mutating):
    """A pod has an account that exists, and unless it declines, a token of that account mounted in its containers."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def mutate(self, attributes: Attributes) -> Object | None:
        pod = attributes.object
        if not attributes.creates("/pods") or pod is None:
            return None
        spec, namespace = pod["spec"], attributes.target.namespace
        name = spec.setdefault("serviceAccountName", "default") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        entry = self._store.get(Key("/serviceaccounts", namespace, name))
        if entry is None:
            raise attributes.refuse(f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found')
        account = entry.object
        if "imagePullSecrets" not in spec and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]
        wanted = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        if wanted:
            _mount_token(spec)
        return None


def _mount_token(spec: Object) -> None:
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    without = [c for c in containers if all(m.get("mountPath") != TOKEN_PATH for m in c.get("volumeMounts") or ())]
    if not without:
        return
    volumes = spec.setdefault("volumes", [])
    # A pod that was read from one cluster and is created again brings its volume along.
    name = next((v["name"] for v in volumes if v["name"].startswith("kube-api-access-")), "")
    if not name:
        name = generated_name("kube-api-access-")
        volumes.append({"name": name, "projected": {"defaultMode": 0o644, "sources": _token_sources()}})
    for container in without:
        container.setdefault("volumeMounts", []).append({"name": name, "readOnly": True, "mountPath": TOKEN_PATH})


def _token_sources() -> list[Object]:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_LIFETIME, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]


class Priorities(_Mutating):
    """A pod's priority follows from its class."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def mutate(self, attributes: Attributes) -> Object | None:
        pod = attributes.object
        if not attributes.creates("/pods") or pod is None:
            return None
        spec = pod["spec"]
        name = spec.get("priorityClassName", "")
        if not name:
            default = next(
                (e.object for e in self._store.all("scheduling.k8s.io/priorityclasses") if e.object.get("globalDefault")), None
            )
            if default is not None:
                spec["priorityClassName"] = default["metadata"]["name"]
            spec["priority"] = default["value"] if default else 0
            spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
            return None
        entry = self._store.get(Key("scheduling.k8s.io/priorityclasses", "", name))
        if entry is None:
            raise attributes.refuse(f"no PriorityClass with name {name} was found")
        spec["priority"] = entry.object["value"]
        spec.setdefault("preemptionPolicy", entry.object.get("preemptionPolicy", "PreemptLowerPriority"))
        return None


class DefaultTolerations(_Mutating):
    """A pod bears a node that is not ready, or not reachable, for five minutes, if it says nothing else."""

    async def mutate(self, attributes: Attributes) -> Object | None:
        pod = attributes.object
        if not attributes.creates("/pods") or pod is None:
            return None
        tolerations = pod["spec"].setdefault("tolerations", [])
        for taint in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            if not any(_tolerates(toleration, taint) for toleration in tolerations):
                tolerations.append({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
        return None


def _tolerates(toleration: Object, taint: str) -> bool:
    return toleration.get("key", taint) == taint and toleration.get("effect") in (None, "", "NoExecute")
