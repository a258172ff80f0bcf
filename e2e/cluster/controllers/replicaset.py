"""ReplicaSets: as many pods as asked for, of one template."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from e2e.cluster.api import ApiClient, Key, Object, key_of, path
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.loop import fetch, owner_key

BURST = 50  # pods made in one look


class ReplicaSets:
    watches: ClassVar = [("apps/v1", "replicasets"), ("v1", "pods")]

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        return [key_of(obj)] if resource == "replicasets" else owner_key(obj, "ReplicaSet")

    async def reconcile(self, key: Key) -> float | None:
        namespace, name = key
        url = path("apps/v1", "replicasets", namespace=namespace, name=name)
        replica_set = await fetch(self._api, url)
        if replica_set is None:
            return None
        spec = replica_set["spec"]
        mine = [pod for pod in await pods.owned(self._api, replica_set) if pods.is_active(pod)]
        missing = spec.get("replicas", 1) - len(mine)
        if not pods.is_terminating(replica_set):
            for _ in range(min(missing, BURST)):
                await pods.create(self._api, replica_set, ("apps/v1", "ReplicaSet"), spec["template"])
            if missing < 0:
                await pods.delete(self._api, sorted(mine, key=_worth)[:-missing])
        min_ready = spec.get("minReadySeconds", 0)
        status = {
            "replicas": len(mine),
            "fullyLabeledReplicas": len(mine),
            "readyReplicas": sum(map(pods.is_ready, mine)),
            "availableReplicas": sum(pods.is_available(pod, min_ready) for pod in mine),
            "observedGeneration": replica_set["metadata"]["generation"],
        }
        await pods.write_status(self._api, url, replica_set, status)
        waits = [wait for pod in mine if (wait := pods.available_in(pod, min_ready))]
        return min(waits, default=None)


def _worth(pod: Object) -> tuple[bool, bool, str]:
    """What is deleted first: the unscheduled, then the unready, then the youngest."""
    age = pod["metadata"]["creationTimestamp"]
    return bool(pod["spec"].get("nodeName")), pods.is_ready(pod), "".join(chr(0x10FFFF - ord(letter)) for letter in age)
