"""Nodes that fall silent, and pods that no node will ever end.

A node whose Lease is old is marked unknown and tainted; pods that do not tolerate that are deleted when their patience is
over. Pods of a node that does not exist are removed by force: there is no kubelet left to say that they are gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from e2e.cluster.api import ApiClient, Key, Mirror, Object, key_of, path
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.loop import fetch
from e2e.cluster.controllers.selectors import tolerated

UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"  # a real API server puts it on every new node
LOOK = 2.0  # seconds between looks at a Lease


class NodeLifecycle:
    watches: ClassVar = [("v1", "nodes")]

    def __init__(self, api: ApiClient, *, grace: float) -> None:
        """`grace`: seconds without a renewed Lease after which a node counts as unreachable."""
        self._api = api
        self._grace = grace

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        return [("", obj["metadata"]["name"])]

    async def reconcile(self, key: Key) -> float | None:
        url = path("v1", "nodes", name=key[1])
        node = await fetch(self._api, url)
        if node is None:
            return None
        silent = await self._silent_for(node)
        if silent > self._grace:
            await self._mark(url, node)
            await self._evict(node, silent - self._grace)
        else:
            await self._untaint(url, node)
        return LOOK

    async def _untaint(self, url: str, node: Object) -> None:
        """A node that is heard of is not unreachable; one that says Ready is not unready."""
        ready = pods.condition(node, "Ready")
        over = {UNREACHABLE} | ({NOT_READY} if ready and ready["status"] == "True" else set())
        taints = (node.get("spec") or {}).get("taints") or ()
        left = [taint for taint in taints if taint["key"] not in over]
        if len(left) < len(taints):
            await self._api.patch(url, {"spec": {"taints": left or None}})

    async def _silent_for(self, node: Object) -> float:
        lease = await fetch(
            self._api, path("coordination.k8s.io/v1", "leases", namespace="kube-node-lease", name=node["metadata"]["name"])
        )
        heard = lease["spec"]["renewTime"] if lease else node["metadata"]["creationTimestamp"]
        return pods.seconds_since(heard)

    async def _mark(self, url: str, node: Object) -> None:
        ready = pods.condition(node, "Ready")
        if ready is None or ready["status"] != "Unknown":
            conditions = [
                {
                    **condition,
                    "status": "Unknown",
                    "reason": "NodeStatusUnknown",
                    "message": "Kubelet stopped posting node status.",
                    "lastTransitionTime": pods.stamp(),
                }
                for condition in (node.get("status") or {}).get("conditions") or ()
            ]
            await self._api.patch(f"{url}/status", {"status": {"conditions": conditions}})
            await self._unready_pods(node)
        if not _tainted(node):
            taints = list((node.get("spec") or {}).get("taints") or ())
            taints += [{"key": UNREACHABLE, "effect": effect, "timeAdded": pods.stamp()} for effect in _EFFECTS]
            await self._api.patch(url, {"spec": {"taints": taints}})

    async def _unready_pods(self, node: Object) -> None:
        """So that no service sends anything to them."""
        for pod in await self._pods_of(node):
            if pods.is_ready(pod):
                conditions = pods.with_condition(pod, "Ready", holds=False, reason="NodeNotReady", message="")
                await self._api.patch(f"{_url(pod)}/status", {"status": {"conditions": conditions}})

    async def _evict(self, node: Object, tainted_for: float) -> None:
        taint = {"key": UNREACHABLE, "effect": "NoExecute"}
        for pod in await self._pods_of(node):
            patience = _patience(pod, taint)
            if patience is not None and tainted_for > patience and pods.is_active(pod):
                await pods.delete(self._api, [pod])

    async def _pods_of(self, node: Object) -> list[Object]:
        return await self._api.list(path("v1", "pods"), fieldSelector=f"spec.nodeName={node['metadata']['name']}")


_EFFECTS = ("NoSchedule", "NoExecute")


def _tainted(node: Object) -> bool:
    return any(taint["key"] == UNREACHABLE for taint in (node.get("spec") or {}).get("taints") or ())


def _url(pod: Object) -> str:
    return path("v1", "pods", namespace=pod["metadata"]["namespace"], name=pod["metadata"]["name"])


def _patience(pod: Object, taint: Object) -> float | None:
    """Seconds that a pod bears the taint: 0 without a toleration, None for ever."""
    fitting = [each for each in pod["spec"].get("tolerations") or () if tolerated(each, taint)]
    limits = [float(each["tolerationSeconds"]) for each in fitting if "tolerationSeconds" in each]
    if not fitting:
        return 0.0
    return min(limits, default=None)


class PodGarbage:
    """Removes pods of vanished nodes, by force, once the node has been gone for `quarantine` seconds."""

    watches: ClassVar = [("v1", "pods"), ("v1", "nodes")]

    def __init__(self, api: ApiClient, *, all_pods: Mirror, quarantine: float) -> None:
        self._api = api
        self._pods = all_pods
        self._quarantine = quarantine
        self._missing: set[Key] = set()

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        if resource == "pods":
            return [key_of(obj)]
        name = obj["metadata"]["name"]
        return [key_of(pod) for pod in self._pods.objects.values() if pod["spec"].get("nodeName") == name]

    async def reconcile(self, key: Key) -> float | None:
        url = path("v1", "pods", namespace=key[0], name=key[1])
        pod = await fetch(self._api, url)
        node = pod["spec"].get("nodeName") if pod else None
        if pod is None or not node or await fetch(self._api, path("v1", "nodes", name=node)) is not None:
            self._missing.discard(key)
            return None
        if key not in self._missing:
            self._missing.add(key)
            return self._quarantine
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._api.delete(url, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        self._missing.discard(key)
        return None
