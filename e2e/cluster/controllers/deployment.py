"""Deployments: a ReplicaSet for each template that there was, and the way from one to the next.

How many of the old and the new there may be in each step is decided by `rolling_step`, which is pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from e2e.cluster.api import ApiClient, Key, Object, key_of, path
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.loop import delete_if_there, fetch, owned_by, owner_key, owner_reference

REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Counts:
    """One ReplicaSet: how many it was told to have, has, and has available."""

    wanted: int
    there: int
    available: int


def bound(value: int | str, replicas: int, *, up: bool) -> int:
    """An absolute number, or a percentage of the replicas: a surge rounds up, unavailability down."""
    if isinstance(value, str) and value.endswith("%"):
        share = replicas * int(value[:-1]) / 100
        return math.ceil(share) if up else math.floor(share)
    return int(value)


def rolling_step(replicas: int, *, surge: int, unavailable: int, new: Counts, old: Sequence[Counts]) -> tuple[int, list[int]]:
    """What to ask of the new ReplicaSet and of each old one next.

    Never more than replicas + surge in all, and never fewer available than replicas - unavailable by our own doing: first
    the old ones' pods that serve nobody go, then those that the new ones replace.
    """
    if surge == 0 and unavailable == 0:
        unavailable = 1
    total = new.wanted + sum(each.wanted for each in old)
    room = max(0, replicas + surge - total)
    new_wanted = min(replicas, new.wanted + room) if new.wanted < replicas else replicas
    least = replicas - unavailable
    available = new.available + sum(each.available for each in old)
    removable = max(0, total - least - max(0, new.wanted - new.available))
    result = [each.wanted for each in old]
    for index, each in enumerate(old):
        useless = min(removable, max(0, each.wanted - each.available))
        result[index] -= useless
        removable -= useless
    spare = max(0, available - least)
    for index in range(len(old)):
        less = min(spare, removable, result[index])
        result[index] -= less
        spare -= less
        removable -= less
    return new_wanted, result


class Deployments:
    watches: ClassVar = [("apps/v1", "deployments"), ("apps/v1", "replicasets"), ("v1", "pods")]

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        match resource:
            case "deployments":
                return [key_of(obj)]
            case "replicasets":
                return owner_key(obj, "Deployment")
        # A Recreate waits for pods to be gone, and their ReplicaSet's counts do not show those that are terminating.
        return [
            (namespace, name.removesuffix(f"-{label}"))
            for namespace, name in owner_key(obj, "ReplicaSet")
            if (label := (obj["metadata"].get("labels") or {}).get(HASH))
        ]

    async def reconcile(self, key: Key) -> float | None:
        """1. The ReplicaSet of the present template. 2. Numbers for it and the old ones. 3. Status. 4. History."""
        namespace, name = key
        url = path("apps/v1", "deployments", namespace=namespace, name=name)
        deployment = await fetch(self._api, url)
        if deployment is None or pods.is_terminating(deployment):
            return None
        sets = await self._replica_sets(deployment)
        label = pods.template_hash(deployment["spec"]["template"])
        new = next((each for each in sets if each["metadata"]["labels"].get(HASH) == label), None)
        old = [each for each in sets if each is not new]
        if new is None:
            new = await self._create(deployment, label, revision=1 + max(map(_revision, sets), default=0))
        elif old and _revision(new) < max(map(_revision, old)):
            await self._patch(new, {"metadata": {"annotations": {REVISION: str(max(map(_revision, old)) + 1)}}})
        await self._annotate(url, deployment, new)
        await self._scale_all(deployment, new, old)
        again = await self._write_status(url, deployment, new, old)
        await self._forget(deployment, old)
        return again

    async def _replica_sets(self, deployment: Object) -> list[Object]:
        url = path("apps/v1", "replicasets", namespace=deployment["metadata"]["namespace"])
        mine = [each for each in await self._api.list(url) if owned_by(deployment, each)]
        return sorted(mine, key=_revision)

    async def _create(self, deployment: Object, label: str, *, revision: int) -> Object:
        metadata, spec = deployment["metadata"], deployment["spec"]
        template = spec["template"]
        labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH: label}
        selector = dict(spec["selector"])
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH: label}
        body = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{metadata['name']}-{label}",
                "labels": labels,
                "annotations": {REVISION: str(revision)},
                "ownerReferences": [owner_reference(deployment, "apps/v1", "Deployment")],
            },
            "spec": {
                "replicas": 0,
                "minReadySeconds": spec.get("minReadySeconds", 0),
                "selector": selector,
                "template": {**template, "metadata": {**(template.get("metadata") or {}), "labels": labels}},
            },
        }
        return await self._api.create(path("apps/v1", "replicasets", namespace=metadata["namespace"]), body)

    async def _annotate(self, url: str, deployment: Object, new: Object) -> None:
        """`kubectl rollout history` and `status --revision` read the number from the Deployment."""
        revision = str(_revision(new))
        if (deployment["metadata"].get("annotations") or {}).get(REVISION) != revision:
            await self._api.patch(url, {"metadata": {"annotations": {REVISION: revision}}})

    async def _patch(self, replica_set: Object, change: Object) -> None:
        metadata = replica_set["metadata"]
        url = path("apps/v1", "replicasets", namespace=metadata["namespace"], name=metadata["name"])
        await self._api.patch(url, change)

    async def _scale(self, replica_set: Object, replicas: int) -> None:
        if replica_set["spec"].get("replicas") != replicas:
            await self._patch(replica_set, {"spec": {"replicas": replicas}})
            replica_set["spec"]["replicas"] = replicas

    async def _scale_all(self, deployment: Object, new: Object, old: Sequence[Object]) -> None:
        spec = deployment["spec"]
        replicas, strategy = spec.get("replicas", 1), spec.get("strategy") or {}
        if strategy.get("type") == "Recreate":
            for each in old:
                await self._scale(each, 0)
            if not await self._pods_of(old):
                await self._scale(new, replicas)
            return
        rolling = strategy.get("rollingUpdate") or {}
        wanted, fewer = rolling_step(
            replicas,
            surge=bound(rolling.get("maxSurge", "25%"), replicas, up=True),
            unavailable=bound(rolling.get("maxUnavailable", "25%"), replicas, up=False),
            new=_counts(new),
            old=[_counts(each) for each in old],
        )
        await self._scale(new, wanted)
        for each, number in zip(old, fewer, strict=True):
            await self._scale(each, number)

    async def _pods_of(self, sets: Sequence[Object]) -> list[Object]:
        found: list[Object] = []
        for each in sets:
            found += [pod for pod in await pods.owned(self._api, each) if not pods.is_over(pod)]
        return found

    async def _write_status(self, url: str, deployment: Object, new: Object, old: Sequence[Object]) -> float | None:
        spec = deployment["spec"]
        replicas = spec.get("replicas", 1)
        counts = [_counts(each) for each in (new, *old)]
        available = sum(each.available for each in counts)
        rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
        least = replicas - bound(rolling.get("maxUnavailable", 0), replicas, up=False)
        enough = available >= least
        deployment = {**deployment, "status": dict(deployment.get("status") or {})}
        deployment["status"]["conditions"] = pods.with_condition(
            deployment,
            "Available",
            holds=enough,
            reason="MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            message=f"Deployment {'has' if enough else 'does not have'} minimum availability.",
        )
        done = counts[0].available >= replicas and sum(each.there for each in counts) == counts[0].there == replicas
        conditions, again = self._progress(deployment, new, done=done)
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": sum(each.there for each in counts),
            "updatedReplicas": counts[0].there,
            "readyReplicas": sum((each.get("status") or {}).get("readyReplicas", 0) for each in (new, *old)),
            "availableReplicas": available,
            "unavailableReplicas": max(0, replicas - available),
            "conditions": conditions,
        }
        fresh = await fetch(self._api, url)
        if fresh is not None:
            await pods.write_status(self._api, url, fresh, status)
        return again

    def _progress(self, deployment: Object, new: Object, *, done: bool) -> tuple[list[Object], float | None]:
        """The Progressing condition, and when it would have to say that the deadline has passed."""
        name = new["metadata"]["name"]
        if done:
            message = f'ReplicaSet "{name}" has successfully progressed.'
            return pods.with_condition(
                deployment, "Progressing", holds=True, reason="NewReplicaSetAvailable", message=message
            ), None
        deadline = deployment["spec"].get("progressDeadlineSeconds", 600)
        counts = _counts(new)
        message = f'ReplicaSet "{name}" is progressing: {counts.there} made, {counts.available} available.'
        fresh = pods.with_condition(deployment, "Progressing", holds=True, reason="ReplicaSetUpdated", message=message)
        left = float(deadline) - pods.seconds_since(fresh[-1]["lastUpdateTime"])
        before = pods.condition(deployment, "Progressing")
        late = before is not None and before["reason"] == "ProgressDeadlineExceeded" and before["message"].endswith(message)
        if left > 0 and not late:
            return fresh, left + 0.1
        message = f"Deadline exceeded. {message}"
        return pods.with_condition(deployment, "Progressing", holds=False, reason="ProgressDeadlineExceeded", message=message), None

    async def _forget(self, deployment: Object, old: Sequence[Object]) -> None:
        """Empty ReplicaSets beyond the history that is asked for."""
        empty = [each for each in old if not each["spec"].get("replicas") and not _counts(each).there]
        keep = deployment["spec"].get("revisionHistoryLimit", 10)
        for each in empty[: max(0, len(empty) - keep)]:
            metadata = each["metadata"]
            url = path("apps/v1", "replicasets", namespace=metadata["namespace"], name=metadata["name"])
            await delete_if_there(self._api, url, uid=metadata["uid"])


def _revision(replica_set: Object) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(REVISION, 0))


def _counts(replica_set: Object) -> Counts:
    status = replica_set.get("status") or {}
    there, available = status.get("replicas", 0), status.get("availableReplicas", 0)
    return Counts(replica_set["spec"].get("replicas", 0), there, available)
