"""DaemonSets: one pod on each node that fits, bound to it by node affinity, as the real controller makes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from e2e.cluster.api import ApiClient, Key, Mirror, Object, key_of, path
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.deployment import bound
from e2e.cluster.controllers.loop import fetch, owner_key
from e2e.cluster.controllers.selectors import node_fits, untolerated

HASH = "controller-revision-hash"
EFFECTS = frozenset({"NoSchedule", "NoExecute"})

# Troubles of a node that do not keep a daemon away (kubernetes AddOrUpdateDaemonPodTolerations).
TOLERATIONS = [
    {"key": f"node.kubernetes.io/{trouble}", "operator": "Exists", "effect": effect}
    for trouble, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    )
]


class DaemonSets:
    watches: ClassVar = [("apps/v1", "daemonsets"), ("v1", "pods"), ("v1", "nodes")]

    def __init__(self, api: ApiClient, *, daemon_sets: Mirror) -> None:
        self._api = api
        self._daemon_sets = daemon_sets

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        match resource:
            case "daemonsets":
                return [key_of(obj)]
            case "nodes":
                return list(self._daemon_sets.objects)
        return owner_key(obj, "DaemonSet")

    async def reconcile(self, key: Key) -> float | None:
        namespace, name = key
        url = path("apps/v1", "daemonsets", namespace=namespace, name=name)
        daemon_set = await fetch(self._api, url)
        if daemon_set is None or pods.is_terminating(daemon_set):
            return None
        template = _template(daemon_set)
        nodes = [node for node in await self._api.list(path("v1", "nodes")) if _belongs(template["spec"], node)]
        wanted = [node["metadata"]["name"] for node in nodes]
        label = pods.template_hash(daemon_set["spec"]["template"])
        mine = await pods.owned(self._api, daemon_set)
        await self._match_nodes(daemon_set, template, label, wanted, mine)
        await self._roll(daemon_set, label, wanted, mine)
        await pods.write_status(self._api, url, daemon_set, _status(daemon_set, label, wanted, mine))
        return None

    async def _match_nodes(
        self, daemon_set: Object, template: Object, label: str, wanted: Sequence[str], mine: Sequence[Object]
    ) -> None:
        """A pod where there is none, none where there should not be, and a failed one is replaced."""
        alive = [pod for pod in mine if pods.is_active(pod)]
        taken: set[str] = set()
        surplus = [pod for pod in mine if pods.is_over(pod) and not pods.is_terminating(pod)]
        for pod in sorted(alive, key=lambda pod: not pods.is_ready(pod)):
            node = node_of(pod)
            (surplus.append(pod) if node in taken or node not in wanted else taken.add(node))
        await pods.delete(self._api, surplus)
        leaving = {node_of(pod) for pod in mine if pods.is_terminating(pod)}
        for node in wanted:
            if node not in taken and node not in leaving:
                await pods.create(
                    self._api,
                    daemon_set,
                    ("apps/v1", "DaemonSet"),
                    template,
                    labels={HASH: label},
                    affinity=_pinned(template["spec"].get("affinity"), node),
                )

    async def _roll(self, daemon_set: Object, label: str, wanted: Sequence[str], mine: Sequence[Object]) -> None:
        """Old pods go as long as no more than maxUnavailable nodes are without an available one."""
        strategy = daemon_set["spec"].get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete":
            return
        most = bound((strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1), len(wanted), up=True) or 1
        old = [pod for pod in mine if pods.is_active(pod) and pod["metadata"]["labels"].get(HASH) != label]
        useless = [pod for pod in old if not pods.is_available(pod)]
        serving = [pod for pod in old if pods.is_available(pod)]
        available = {node_of(pod) for pod in mine if pods.is_available(pod)}
        allowed = max(0, most - (len(wanted) - len(available)))
        await pods.delete(self._api, [*useless, *serving[:allowed]])


def node_of(pod: Object) -> str:
    """The node a daemon's pod is on, or is meant for."""
    if name := pod["spec"].get("nodeName"):
        return str(name)
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return str(terms[0]["matchFields"][0]["values"][0])


def _template(daemon_set: Object) -> Object:
    template = daemon_set["spec"]["template"]
    spec = {**template["spec"], "tolerations": [*(template["spec"].get("tolerations") or ()), *TOLERATIONS]}
    return {**template, "spec": spec}


def _belongs(spec: Object, node: Object) -> bool:
    return node_fits(spec, node) and untolerated(spec, node, effects=EFFECTS) is None


def _pinned(affinity: Object | None, node: str) -> Object:
    """The template's affinity with its required node terms replaced by this one node."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    general = dict(affinity or {})
    nodes = dict(general.get("nodeAffinity") or {})
    return {**general, "nodeAffinity": {**nodes, "requiredDuringSchedulingIgnoredDuringExecution": required}}


def _status(daemon_set: Object, label: str, wanted: Sequence[str], mine: Sequence[Object]) -> Object:
    there = [pod for pod in mine if pods.is_active(pod) and node_of(pod) in wanted]
    min_ready = daemon_set["spec"].get("minReadySeconds", 0)
    available = sum(pods.is_available(pod, min_ready) for pod in there)
    return {
        "desiredNumberScheduled": len(wanted),
        "currentNumberScheduled": len(there),
        "numberMisscheduled": sum(pods.is_active(pod) and node_of(pod) not in wanted for pod in mine),
        "numberReady": sum(map(pods.is_ready, there)),
        "numberAvailable": available,
        "numberUnavailable": len(wanted) - available,
        "updatedNumberScheduled": sum(pod["metadata"]["labels"].get(HASH) == label for pod in there),
        "observedGeneration": daemon_set["metadata"]["generation"],
    }
