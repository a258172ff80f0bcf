"""PersistentVolumes that someone has made, bound to claims; and the finalizers that keep either while it is used.

A claim gets the smallest volume of its class that has what it asks for. One whose class waits for the first consumer gets the one
that the scheduler has chosen (`scheduler`). Nothing is provisioned, and what is reclaimed is retained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from e2e.cluster.api import ApiClient, Key, Mirror, Object, key_of, path
from e2e.cluster.controllers.loop import fetch
from e2e.cluster.controllers.selectors import matches
from e2e.cluster.kubelet import quantity

CLAIM_FINALIZER, VOLUME_FINALIZER = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"
WAITS = "WaitForFirstConsumer"
BOUND = {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}


def fits(claim: Object, volume: Object) -> bool:
    """Whether a volume has what a claim asks for, and is no one else's."""
    asked, offered = claim["spec"], volume["spec"]
    reference = offered.get("claimRef")
    if "deletionTimestamp" in volume["metadata"] or (reference and not refers_to(reference, claim)):
        return False
    if asked.get("volumeName"):
        return bool(asked["volumeName"] == volume["metadata"]["name"])
    return (
        asked.get("storageClassName", "") == offered.get("storageClassName", "")
        and asked.get("volumeMode", "Filesystem") == offered.get("volumeMode", "Filesystem")
        and set(asked.get("accessModes") or ()) <= set(offered.get("accessModes") or ())
        and size(volume) >= quantity.whole(((asked.get("resources") or {}).get("requests") or {}).get("storage", 0))
        and (asked.get("selector") is None or matches(asked["selector"], volume["metadata"].get("labels") or {}))
    )


def refers_to(reference: Object, claim: Object) -> bool:
    """Whoever makes a volume may name its claim beforehand; then without a uid."""
    meta = claim["metadata"]
    named = (reference.get("namespace"), reference.get("name")) == (meta["namespace"], meta["name"])
    return named and reference.get("uid") in (None, "", meta["uid"])


def size(volume: Object) -> int:
    return quantity.whole((volume["spec"].get("capacity") or {}).get("storage", 0))


def chosen(claim: Object, volumes: Iterable[Object]) -> Object | None:
    """The volume that is the claim's already, else the smallest that fits."""
    fitting = [volume for volume in volumes if fits(claim, volume)]
    return min(fitting, key=lambda v: (v["spec"].get("claimRef") is None, size(v), v["metadata"]["name"]), default=None)


def reference_to(claim: Object) -> Object:
    meta = claim["metadata"]
    named = {"namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **named}


def claims_of(pod: Object) -> list[str]:
    """The names of the claims that a pod mentions."""
    volumes = pod["spec"].get("volumes") or ()
    return [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]


class VolumeBinder:
    watches: ClassVar = [("v1", "persistentvolumeclaims"), ("v1", "persistentvolumes")]

    def __init__(self, api: ApiClient, *, claims: Mirror, volumes: Mirror) -> None:
        self._api = api
        self._claims = claims
        self._volumes = volumes

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        if resource == "persistentvolumeclaims":
            return [key_of(obj), *(("", v["metadata"]["name"]) for v in self._volumes.objects.values() if _is_of(v, obj))]
        waiting = (c for c in self._claims.objects.values() if (c.get("status") or {}).get("phase") != "Bound")
        return [("", obj["metadata"]["name"]), *map(key_of, waiting)]

    async def reconcile(self, key: Key) -> float | None:
        if key[0]:
            await self._bind(key)
        else:
            await self._say_phase(key[1])
        return None

    async def _bind(self, key: Key) -> None:
        """1. The volume says whose it is. 2. The claim says which it has. 3. Both say that they are bound."""
        url = path("v1", "persistentvolumeclaims", namespace=key[0], name=key[1])
        claim = await fetch(self._api, url)
        if claim is None or "deletionTimestamp" in claim["metadata"] or (claim.get("status") or {}).get("phase") == "Bound":
            return
        volume = chosen(claim, await self._api.list(path("v1", "persistentvolumes")))
        if volume is None or (volume["spec"].get("claimRef") is None and await self._waits(claim)):
            return
        name = volume["metadata"]["name"]
        volume_url = path("v1", "persistentvolumes", name=name)
        version = {"resourceVersion": volume["metadata"]["resourceVersion"]}
        await self._api.patch(volume_url, {"metadata": version, "spec": {"claimRef": reference_to(claim)}})
        await self._api.patch(url, {"metadata": {"annotations": BOUND}, "spec": {"volumeName": name}})
        await self._api.patch(f"{volume_url}/status", {"status": {"phase": "Bound"}})
        given = {"accessModes": volume["spec"].get("accessModes"), "capacity": volume["spec"].get("capacity")}
        await self._api.patch(f"{url}/status", {"status": {"phase": "Bound", **given}})

    async def _waits(self, claim: Object) -> bool:
        return await waits_for_consumer(self._api, claim)

    async def _say_phase(self, name: str) -> None:
        url = path("v1", "persistentvolumes", name=name)
        volume = await fetch(self._api, url)
        if volume is None:
            return
        reference, phase = volume["spec"].get("claimRef"), (volume.get("status") or {}).get("phase")
        wanted = phase if reference else "Available"
        if reference and reference.get("uid"):
            claim = await fetch(
                self._api, path("v1", "persistentvolumeclaims", namespace=reference["namespace"], name=reference["name"])
            )
            if claim is None or claim["metadata"]["uid"] != reference["uid"]:
                wanted = "Released"
        if wanted != phase:
            await self._api.patch(f"{url}/status", {"status": {"phase": wanted}})


def _is_of(volume: Object, claim: Object) -> bool:
    return refers_to(volume["spec"].get("claimRef") or {}, claim)


async def waits_for_consumer(api: ApiClient, claim: Object) -> bool:
    """Whether it is the scheduler that chooses the volume, for the node of the first pod that wants it."""
    name = claim["spec"].get("storageClassName")
    found = await fetch(api, path("storage.k8s.io/v1", "storageclasses", name=name)) if name else None
    return found is not None and found.get("volumeBindingMode") == WAITS


class InUseProtection:
    """A claim that is being deleted goes when no pod that has a node mentions it; a volume, when it is bound to none."""

    watches: ClassVar = [("v1", "persistentvolumeclaims"), ("v1", "persistentvolumes"), ("v1", "pods")]

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        if resource == "pods":
            return [(obj["metadata"]["namespace"], name) for name in claims_of(obj)]
        return [key_of(obj)]

    async def reconcile(self, key: Key) -> float | None:
        namespace, name = key
        resource, finalizer = ("persistentvolumeclaims", CLAIM_FINALIZER) if namespace else ("persistentvolumes", VOLUME_FINALIZER)
        url = path("v1", resource, namespace=namespace, name=name)
        found = await fetch(self._api, url)
        meta = found["metadata"] if found else {}
        if found is None or "deletionTimestamp" not in meta or finalizer not in meta.get("finalizers", ()):
            return None
        if await self._is_used(found, namespace):
            return None
        left = [each for each in found["metadata"]["finalizers"] if each != finalizer]
        version = found["metadata"]["resourceVersion"]
        await self._api.patch(url, {"metadata": {"finalizers": left or None, "resourceVersion": version}})
        return None

    async def _is_used(self, found: Object, namespace: str) -> bool:
        if not namespace:
            return (found.get("status") or {}).get("phase") == "Bound"
        there: Sequence[Object] = await self._api.list(path("v1", "pods", namespace=namespace))
        return any(pod["spec"].get("nodeName") and found["metadata"]["name"] in claims_of(pod) for pod in there)
