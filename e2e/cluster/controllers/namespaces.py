"""Namespaces: what each gets when it is made, and the emptying of one that is being deleted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from e2e.cluster.api import ApiClient, ApiError, Key, Object, path
from e2e.cluster.controllers.loop import fetch
from e2e.cluster.controllers.pods import is_over, seconds_since
from e2e.cluster.controllers.resources import Resources

ROOT_CA = "kube-root-ca.crt"
SERVICE_CA = "openshift-service-ca.crt"
"""What OpenShift's kube-apiserver puts into every pod's token volume beside the root CA; Kubernetes' own does not ask for it."""

LOOK = 0.3
"""Seconds between looks at what a namespace still holds."""
BEGINNING = 10.0
"""Seconds in which Kubernetes looks twice, and this one all the time."""


class NamespaceDefaults:
    """The `default` service account and the CAs that pods know servers by, in every namespace, kept there."""

    watches: ClassVar = [("v1", "namespaces"), ("v1", "serviceaccounts"), ("v1", "configmaps")]

    def __init__(self, api: ApiClient, *, service_ca: bool = False) -> None:
        authority = api.ca_data.decode()
        self._api = api
        self._maps = {ROOT_CA: {"ca.crt": authority}} | ({SERVICE_CA: {"service-ca.crt": authority}} if service_ca else {})

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        metadata = obj["metadata"]
        if resource == "namespaces":
            return [("", metadata["name"])]
        return [("", metadata["namespace"])] if metadata["name"] in {"default", *self._maps} else []

    async def reconcile(self, key: Key) -> float | None:
        namespace = await fetch(self._api, path("v1", "namespaces", name=key[1]))
        if namespace is None or "deletionTimestamp" in namespace["metadata"]:
            return None
        await self._ensure(key[1], "serviceaccounts", {"kind": "ServiceAccount", "metadata": {"name": "default"}})
        for name, data in self._maps.items():
            await self._ensure(key[1], "configmaps", {"kind": "ConfigMap", "metadata": {"name": name}, "data": data})
        return None

    async def _ensure(self, namespace: str, resource: str, body: Object) -> None:
        if await fetch(self._api, path("v1", resource, namespace=namespace, name=body["metadata"]["name"])) is None:
            try:
                await self._api.create(path("v1", resource, namespace=namespace), {"apiVersion": "v1", **body})
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise


class NamespaceDeletion:
    """Deletes all that a terminating namespace holds, pods first, waits for finalizers and graceful pods, then lets it go."""

    watches: ClassVar = [("v1", "namespaces")]

    def __init__(self, api: ApiClient, *, resources: Resources) -> None:
        self._api = api
        self._resources = resources

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        return [("", obj["metadata"]["name"])] if "deletionTimestamp" in obj["metadata"] else []

    async def reconcile(self, key: Key) -> float | None:
        url = path("v1", "namespaces", name=key[1])
        namespace = await fetch(self._api, url)
        if namespace is None or "deletionTimestamp" not in namespace["metadata"]:
            return None
        left = await self._empty(key[1])
        if left:
            await self._tell(url, namespace, left)
            ending = await self._api.list(path("v1", "pods", namespace=key[1])) if "pods" in left else ()
            return patience(ending, since=seconds_since(namespace["metadata"]["deletionTimestamp"]))
        if namespace["spec"].get("finalizers"):
            await self._api.update(f"{url}/finalize", {**namespace, "spec": {**namespace["spec"], "finalizers": []}})
        return None

    async def _empty(self, namespace: str) -> dict[str, int]:
        """Ask for the deletion of all pods, and when they are gone of everything else; what is still there, by resource."""
        if pods := await self._delete(path("v1", "pods", namespace=namespace)):
            return {"pods": pods}
        left: dict[str, int] = {}
        for resource in await self._resources.known():
            url = path(resource.group_version, resource.name, namespace=namespace)
            if resource.namespaced and (count := await self._delete(url)):
                left[resource.name] = count
        return left

    async def _delete(self, url: str) -> int:
        """Ask for the deletion of a collection; how many of it are still there."""
        try:
            there = await self._api.list(url)
            if any("deletionTimestamp" not in obj["metadata"] for obj in there):
                await self._api.delete(url)
                there = await self._api.list(url)
        except ApiError as error:
            if error.code in {404, 405}:
                return 0
            raise
        return len(there)

    async def _tell(self, url: str, namespace: Object, left: dict[str, int]) -> None:
        """In words, why the namespace is still there."""
        content = ", ".join(f"{resource} has {count} resource instances" for resource, count in left.items())
        message = f"Some resources are remaining: {content}"
        conditions = (namespace.get("status") or {}).get("conditions") or ()
        if any(condition.get("message") == message for condition in conditions):
            return
        condition = {
            "type": "NamespaceContentRemaining",
            "status": "True",
            "reason": "SomeResourcesRemain",
            "message": message,
        }
        await self._api.patch(f"{url}/status", {"status": {"conditions": [condition]}})


def patience(ending: Iterable[Object], *, since: float) -> float:
    """Seconds until the next look at a namespace that was deleted `since` seconds ago, if it does not change. As in Kubernetes,
    half of the longest grace of the pods that end there: one that ends sooner, but not soon enough, keeps its namespace so long."""
    longest = max((pod["spec"].get("terminationGracePeriodSeconds") or 0 for pod in ending if not is_over(pod)), default=0)
    return longest / 2 + 1 if BEGINNING < since < longest else LOOK
