"""StatefulSets without storage: numbered pods, in order. Volume claim templates are not acted on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from e2e.cluster.api import ApiClient, Key, Object, key_of, path
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.daemonset import HASH
from e2e.cluster.controllers.loop import fetch, owner_key


class StatefulSets:
    watches: ClassVar = [("apps/v1", "statefulsets"), ("v1", "pods")]

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        return [key_of(obj)] if resource == "statefulsets" else owner_key(obj, "StatefulSet")

    async def reconcile(self, key: Key) -> float | None:
        namespace, name = key
        url = path("apps/v1", "statefulsets", namespace=namespace, name=name)
        stateful_set = await fetch(self._api, url)
        if stateful_set is None or pods.is_terminating(stateful_set):
            return None
        label = pods.template_hash(stateful_set["spec"]["template"])
        mine = {_ordinal(pod): pod for pod in await pods.owned(self._api, stateful_set)}
        await self._step(stateful_set, label, mine)
        await pods.write_status(self._api, url, stateful_set, _status(stateful_set, label, mine))
        return None

    async def _step(self, stateful_set: Object, label: str, mine: dict[int, Object]) -> None:
        """One step: up in order, down in reverse, and old templates replaced from the last to the first.

        Unless pods are managed in parallel, a step waits until all before it are ready.
        """
        spec = stateful_set["spec"]
        wanted = spec.get("replicas", 1)
        parallel = spec.get("podManagementPolicy") == "Parallel"
        for ordinal in range(wanted):
            pod = mine.get(ordinal)
            if pod is None:
                await self._create(stateful_set, label, ordinal)
            elif pods.is_over(pod) and not pods.is_terminating(pod):
                await pods.delete(self._api, [pod])
            if not parallel and (pod is None or not pods.is_ready(pod)):
                return
        surplus = [mine[ordinal] for ordinal in sorted(mine, reverse=True) if ordinal >= wanted]
        if surplus:
            doomed = surplus if parallel else surplus[:1]
            await pods.delete(self._api, [pod for pod in doomed if not pods.is_terminating(pod)])
            return
        strategy = spec.get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete" or any(not pods.is_ready(pod) for pod in mine.values()):
            return
        partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
        old = [ordinal for ordinal in sorted(mine, reverse=True) if ordinal >= partition and _label(mine[ordinal]) != label]
        await pods.delete(self._api, [mine[ordinal] for ordinal in old[:1]])

    async def _create(self, stateful_set: Object, label: str, ordinal: int) -> None:
        name = f"{stateful_set['metadata']['name']}-{ordinal}"
        labels = {
            HASH: label,
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": str(ordinal),
        }
        template = stateful_set["spec"]["template"]
        kind = ("apps/v1", "StatefulSet")
        await pods.create(self._api, stateful_set, kind, template, name=name, labels=labels, hostname=name)


def _ordinal(pod: Object) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])


def _label(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get(HASH, ""))


def _status(stateful_set: Object, label: str, mine: dict[int, Object]) -> Object:
    there = [pod for pod in mine.values() if pods.is_active(pod)]
    updated = [pod for pod in there if _label(pod) == label]
    name = stateful_set["metadata"]["name"]
    complete = len(updated) == len(there) == stateful_set["spec"].get("replicas", 1)
    before = (stateful_set.get("status") or {}).get("currentRevision", f"{name}-{label}")
    return {
        "replicas": len(there),
        "readyReplicas": sum(map(pods.is_ready, there)),
        "availableReplicas": sum(map(pods.is_available, there)),
        "currentReplicas": len(updated),
        "updatedReplicas": len(updated),
        "currentRevision": f"{name}-{label}" if complete else before,
        "updateRevision": f"{name}-{label}",
        "observedGeneration": stateful_set["metadata"]["generation"],
    }
