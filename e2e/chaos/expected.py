"""Which claim should be in which pod, worked out without dynvol: from the API's objects alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from e2e.cluster.api import Object
from e2e.manifests import GROUP


@dataclass(frozen=True, slots=True)
class Pair:
    """A claim in a pod. `workload` tells mount pods apart."""

    claim: str
    claim_uid: str
    pod: str
    pod_uid: str
    node: str
    path: str
    umask: str
    workload: tuple[str, ...]

    @property
    def is_shared(self) -> bool:
        return self.workload[1:] == (self.node,)


def expected_in(claim: Object, pods: Sequence[Object]) -> Iterable[Pair]:
    """The pods that a claim should be in, worked out anew: same namespace, labels, a volume of the claim's class."""
    spec, meta = claim["spec"], claim["metadata"]
    if "deletionTimestamp" in meta:
        return
    client = spec["storageProviderClass"].rpartition("-")[2]
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        if any(labels.get(key) != value for key, value in spec["selector"]["matchLabels"].items()):
            continue
        shared = pod["metadata"]["annotations"][f"{GROUP}/mount-pod-dispatch-policy"] == "shared"
        node = pod["spec"].get("nodeName", "")
        yield Pair(
            claim=meta["name"],
            claim_uid=meta["uid"],
            pod=pod["metadata"]["name"],
            pod_uid=pod["metadata"]["uid"],
            node=node,
            path=f"/{client}{spec['mountpoint']}",
            umask=spec["umask"],
            workload=(client, node) if shared else (client, pod["metadata"]["uid"]),
        )
