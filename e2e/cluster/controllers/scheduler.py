"""The scheduler: a node for each pod that has none, or words about why there is none.

It knows readiness, cordons, taints, node selectors and node affinity, the fit of requested CPU, memory and pods, and where claims
of volumes can be had; it chooses the volume of a claim that waits for its first consumer. It does not know pod affinity, topology
spread or preemption. Of the nodes that fit, the one with the fewest pods.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from e2e.cluster.api import ApiClient, ApiError, Key, Mirror, Object, key_of, path
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.loop import fetch
from e2e.cluster.controllers.selectors import node_fits, tolerates, untolerated
from e2e.cluster.controllers.volumes import chosen, claims_of, reference_to, waits_for_consumer
from e2e.cluster.kubelet import quantity

UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
EFFECTS = frozenset({"NoSchedule", "NoExecute"})


def requests(pod: Object) -> dict[str, int]:
    """What a pod asks for: the sum of its containers, or its greatest init container if that is more."""
    total = Counter({"pods": 1})
    for container in pod["spec"]["containers"]:
        total.update(_amounts(container))
    for container in pod["spec"].get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            total.update(_amounts(container))
        else:
            total |= Counter(_amounts(container))
    return dict(total)


def _amounts(container: Object) -> dict[str, int]:
    resources = container.get("resources") or {}
    given = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {"cpu": quantity.milli(given.get("cpu", 0)), "memory": quantity.whole(given.get("memory", 0))}


@dataclass(frozen=True, slots=True)
class Storage:
    """What a pod's claims ask of its node."""

    bound: Sequence[Object] = ()
    """Volumes that they have already."""
    waiting: Sequence[Object] = ()
    """Claims that get theirs with the node."""
    volumes: Sequence[Object] = ()
    """All there are."""

    def objection(self, node: Object) -> str | None:
        if not all(_reaches(volume, node) for volume in self.bound):
            return "node(s) didn't match PersistentVolume's node affinity"
        if self.choice(node) is None:
            return "node(s) didn't find available persistent volumes to bind"
        return None

    def choice(self, node: Object) -> list[tuple[Object, Object]] | None:
        """A volume for each claim that waits; None if there are not enough."""
        free = [volume for volume in self.volumes if _reaches(volume, node)]
        pairs = []
        for claim in self.waiting:
            if (volume := chosen(claim, free)) is None:
                return None
            free.remove(volume)
            pairs.append((claim, volume))
        return pairs


def _reaches(volume: Object, node: Object) -> bool:
    required = (volume["spec"].get("nodeAffinity") or {}).get("required")
    return required is None or node_fits({"affinity": {"nodeAffinity": {REQUIRED: required}}}, node)


NO_STORAGE = Storage()


def objection(pod: Object, node: Object, there: Sequence[Object], storage: Storage = NO_STORAGE) -> str | None:
    """Why the pod cannot go to the node, in the scheduler's words; None if it can. `there` are the node's pods."""
    spec = pod["spec"]
    if (node.get("spec") or {}).get("unschedulable") and not tolerates(spec, UNSCHEDULABLE):
        return "node(s) were unschedulable"
    if taint := untolerated(spec, node, effects=EFFECTS):
        return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if not node_fits(spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    if why := storage.objection(node):
        return why
    ready = pods.condition(node, "Ready")
    if ready is None or ready["status"] != "True":
        return "node(s) were not ready"
    used: Counter[str] = Counter()
    for other in there:
        used.update(requests(other))
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    for name, amount in requests(pod).items():
        limit = quantity.milli(allocatable.get(name, 0)) if name == "cpu" else quantity.whole(allocatable.get(name, 0))
        if amount and used[name] + amount > limit:
            return "Too many pods" if name == "pods" else f"Insufficient {name}"
    return None


class _NoStorage(Exception):
    """A claim of the pod is not there, or has no volume that any node could wait for."""


class Scheduler:
    watches: ClassVar = [("v1", "pods"), ("v1", "nodes"), ("v1", "persistentvolumeclaims")]

    def __init__(self, api: ApiClient, *, all_pods: Mirror, nodes: Mirror) -> None:
        self._api = api
        self._pods = all_pods
        self._nodes = nodes
        self._bound: dict[str, str] = {}

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        if resource == "persistentvolumeclaims":
            there = self._pods.in_namespace(obj["metadata"]["namespace"])
            return [key_of(pod) for pod in there if _waits(pod) and obj["metadata"]["name"] in claims_of(pod)]
        if resource == "nodes":
            return [key_of(pod) for pod in self._pods.objects.values() if _waits(pod)]
        if _waits(obj):
            return [key_of(obj)]
        # A pod that got its node, or is over: what was remembered of it is in the mirror now, and others may fit.
        self._bound.pop(obj["metadata"]["uid"], None)
        if pods.is_active(obj):
            return []
        return [key_of(pod) for pod in self._pods.objects.values() if _waits(pod)]

    async def reconcile(self, key: Key) -> float | None:
        pod = await fetch(self._api, path("v1", "pods", namespace=key[0], name=key[1]))
        if pod is None or not _waits(pod) or pod["metadata"]["uid"] in self._bound:
            return None
        try:
            storage = await self._storage(pod)
        except _NoStorage as none:
            await self._refuse(pod, f"0/{len(self._nodes.objects)} nodes are available: {none}.")
            return 1.0
        nodes = list(self._nodes.objects.values())
        there = self._by_node()
        why: Counter[str] = Counter()
        fitting = []
        for node in nodes:
            name = node["metadata"]["name"]
            reason = objection(pod, node, there.get(name, ()), storage)
            if reason is None:
                fitting.append(name)
            else:
                why[reason] += 1
        if not fitting:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(why.items())) or "no nodes"
            await self._refuse(pod, f"0/{len(nodes)} nodes are available: {reasons}.")
            return 5.0
        name = min(fitting, key=lambda name: (len(there.get(name, ())), name))
        if storage.waiting:
            await self._give_volumes(storage, next(node for node in nodes if node["metadata"]["name"] == name))
            return 0.1
        await self._bind(pod, name)
        return None

    async def _storage(self, pod: Object) -> Storage:
        """Raises _NoStorage where no node would do."""
        names = claims_of(pod)
        if not names:
            return NO_STORAGE
        claims = [await self._claim(pod, name) for name in names]
        volumes = await self._api.list(path("v1", "persistentvolumes"))
        bound = {claim["spec"]["volumeName"] for claim in claims if claim["spec"].get("volumeName")}
        waiting = [claim for claim in claims if not claim["spec"].get("volumeName")]
        for claim in waiting:
            if not await waits_for_consumer(self._api, claim):
                raise _NoStorage("pod has unbound immediate PersistentVolumeClaims")
        return Storage([v for v in volumes if v["metadata"]["name"] in bound], waiting, volumes)

    async def _claim(self, pod: Object, name: str) -> Object:
        claim = await fetch(self._api, path("v1", "persistentvolumeclaims", namespace=pod["metadata"]["namespace"], name=name))
        if claim is None:
            raise _NoStorage(f'persistentvolumeclaim "{name}" not found')
        if "deletionTimestamp" in claim["metadata"]:
            raise _NoStorage(f'persistentvolumeclaim "{name}" is being deleted')
        return claim

    async def _give_volumes(self, storage: Storage, node: Object) -> None:
        """The volumes say whose they are; the volumes' controller does the rest, and the pod waits for that."""
        for claim, volume in storage.choice(node) or ():
            if volume["spec"].get("claimRef") is None:
                url = path("v1", "persistentvolumes", name=volume["metadata"]["name"])
                version = {"resourceVersion": volume["metadata"]["resourceVersion"]}
                await self._api.patch(url, {"metadata": version, "spec": {"claimRef": reference_to(claim)}})

    def _by_node(self) -> dict[str, list[Object]]:
        """Pods that take room on each node; those that were bound a moment ago count before the mirror shows it."""
        found: dict[str, list[Object]] = {}
        for pod in self._pods.objects.values():
            node = pod["spec"].get("nodeName") or self._bound.get(pod["metadata"]["uid"])
            if node and not pods.is_over(pod):
                found.setdefault(node, []).append(pod)
        return found

    async def _bind(self, pod: Object, node: str) -> None:
        metadata = pod["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        url = path("v1", "pods", namespace=metadata["namespace"], name=metadata["name"], sub="binding")
        self._bound[metadata["uid"]] = node
        try:
            await self._api.create(url, body)
        except BaseException:
            self._bound.pop(metadata["uid"], None)
            raise
        message = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {node}"
        await self._event(pod, "Scheduled", message, kind="Normal")

    async def _refuse(self, pod: Object, message: str) -> None:
        before = pods.condition(pod, "PodScheduled")
        if before and before.get("message") == message:
            return
        conditions = pods.with_condition(pod, "PodScheduled", holds=False, reason="Unschedulable", message=message)
        metadata = pod["metadata"]
        url = path("v1", "pods", namespace=metadata["namespace"], name=metadata["name"], sub="status")
        await self._api.patch(url, {"metadata": {"uid": metadata["uid"]}, "status": {"conditions": conditions}})
        await self._event(pod, "FailedScheduling", message, kind="Warning")

    async def _event(self, pod: Object, reason: str, message: str, *, kind: str) -> None:
        metadata, moment = pod["metadata"], pods.stamp()
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.{secrets.token_hex(8)}", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "reason": reason,
            "message": message,
            "type": kind,
            "source": {"component": "default-scheduler"},
            "reportingComponent": "default-scheduler",
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }
        try:
            await self._api.create(path("v1", "events", namespace=metadata["namespace"]), body)
        except ApiError as error:
            if error.code not in {403, 404}:  # the namespace may be on its way out
                raise


def _waits(pod: Object) -> bool:
    """Whether a pod wants a node from this scheduler."""
    spec = pod["spec"]
    ours = spec.get("schedulerName", "default-scheduler") == "default-scheduler"
    return not spec.get("nodeName") and ours and pods.is_active(pod) and not spec.get("schedulingGates")
