"""What controllers want to know of pods, and how they make them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from e2e.cluster.api import ApiClient, Object, path
from e2e.cluster.controllers.loop import delete_if_there, owned_by, owner_reference
from e2e.cluster.controllers.selectors import as_query


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def condition(obj: Object, kind: str) -> Object | None:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), None)


def is_ready(pod: Object) -> bool:
    found = condition(pod, "Ready")
    return bool(found and found["status"] == "True") and not is_terminating(pod)


def is_terminating(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def is_over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def is_active(pod: Object) -> bool:
    return not is_terminating(pod) and not is_over(pod)


def available_in(pod: Object, min_ready: float) -> float | None:
    """Seconds until a pod counts as available: 0 if it does, None if it is not even ready."""
    found = condition(pod, "Ready")
    if not is_ready(pod) or found is None:
        return None
    return max(0.0, min_ready - seconds_since(found["lastTransitionTime"])) if min_ready else 0.0


def is_available(pod: Object, min_ready: float = 0) -> bool:
    return available_in(pod, min_ready) == 0.0


def template_hash(template: Object) -> str:
    """A short name for a pod template. The real one's letters; what matters is that it follows from the template."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join("bcdfghjklmnpqrstvwxz2456789"[byte % 27] for byte in digest[:10])


async def owned(api: ApiClient, owner: Object) -> list[Object]:
    """The pods that an object controls, as the API server has them now."""
    namespace = owner["metadata"]["namespace"]
    query = as_query(owner["spec"]["selector"])
    pods = await api.list(path("v1", "pods", namespace=namespace), labelSelector=query)
    return [pod for pod in pods if owned_by(owner, pod)]


async def create(api: ApiClient, owner: Object, kind: tuple[str, str], template: Object, *, name: str = "", **changes: Any) -> None:
    """A pod from a template. `kind` is the owner's (apiVersion, kind); `changes` go into the pod's spec."""
    metadata = {key: dict((template.get("metadata") or {}).get(key) or {}) for key in ("labels", "annotations")}
    metadata["labels"] |= changes.pop("labels", {})
    named = {"name": name} if name else {"generateName": owner["metadata"]["name"] + "-"}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, **named, "ownerReferences": [owner_reference(owner, *kind)]},
        "spec": {**template["spec"], **changes},
    }
    await api.create(path("v1", "pods", namespace=owner["metadata"]["namespace"]), body)


async def delete(api: ApiClient, pods: Iterable[Object]) -> None:
    for pod in pods:
        metadata = pod["metadata"]
        url = path("v1", "pods", namespace=metadata["namespace"], name=metadata["name"])
        await delete_if_there(api, url, uid=metadata["uid"])


async def write_status(api: ApiClient, url: str, obj: Object, status: Object) -> None:
    """Patch the status if it says anything new."""
    before = obj.get("status") or {}
    if any(before.get(field) != value for field, value in status.items() if not (value in (0, None) and field not in before)):
        await api.patch(f"{url}/status", {"status": status})


def with_condition(obj: Object, kind: str, *, holds: bool, reason: str, message: str) -> list[Object]:
    """The object's conditions with one set; its times change only when it does."""
    before = condition(obj, kind)
    others = [each for each in (obj.get("status") or {}).get("conditions") or () if each["type"] != kind]
    fresh = {"type": kind, "status": "True" if holds else "False", "reason": reason, "message": message}
    moment = stamp()
    if before and all(before.get(field) == value for field, value in fresh.items()):
        return [*others, before]
    same = before is not None and before["status"] == fresh["status"]
    transition = before["lastTransitionTime"] if before and same else moment
    return [*others, {**fresh, "lastUpdateTime": moment, "lastTransitionTime": transition}]
