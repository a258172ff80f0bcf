"""Endpoints and EndpointSlices of Services that select pods: the addresses of those that are ready."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from e2e.cluster.api import ApiClient, ApiError, Key, Mirror, Object, key_of, path
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.loop import fetch, owner_reference
from e2e.cluster.controllers.selectors import matches

SLICES = ("discovery.k8s.io/v1", "endpointslices")


class Endpoints:
    watches: ClassVar = [("v1", "services"), ("v1", "pods")]

    def __init__(self, api: ApiClient, *, services: Mirror) -> None:
        self._api = api
        self._services = services

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        if resource == "services":
            return [key_of(obj)]
        labels = obj["metadata"].get("labels") or {}
        near = self._services.in_namespace(obj["metadata"]["namespace"])
        return [key_of(service) for service in near if _selects(service, labels)]

    async def reconcile(self, key: Key) -> float | None:
        namespace, name = key
        service = await fetch(self._api, path("v1", "services", namespace=namespace, name=name))
        if service is None or not service["spec"].get("selector"):
            return None
        query = ",".join(f"{label}={value}" for label, value in service["spec"]["selector"].items())
        found = await self._api.list(path("v1", "pods", namespace=namespace), labelSelector=query)
        members = [pod for pod in found if not pods.is_over(pod) and (pod.get("status") or {}).get("podIP")]
        members.sort(key=lambda pod: str(pod["metadata"]["name"]))
        await self._write_endpoints(service, members)
        await self._write_slice(service, members)
        return None

    async def _write_endpoints(self, service: Object, members: Sequence[Object]) -> None:
        subset: Object = {}
        for pod in members:
            kind = "addresses" if _serves(service, pod) else "notReadyAddresses"
            address = {"ip": pod["status"]["podIP"], "nodeName": pod["spec"].get("nodeName"), "targetRef": _target(pod)}
            subset.setdefault(kind, []).append(address)
        if subset:
            subset["ports"] = _ports(service, members)
        body: Object = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": service["metadata"]["name"]}}
        body |= {"subsets": [subset] if subset else []}
        await self._put(path("v1", "endpoints", namespace=service["metadata"]["namespace"]), body, fields=["subsets"])

    async def _write_slice(self, service: Object, members: Sequence[Object]) -> None:
        metadata = service["metadata"]
        entries = [
            {
                "addresses": [pod["status"]["podIP"]],
                "conditions": {
                    "ready": _serves(service, pod),
                    "serving": pods.is_ready(pod),
                    "terminating": pods.is_terminating(pod),
                },
                "nodeName": pod["spec"].get("nodeName"),
                "targetRef": _target(pod),
            }
            for pod in members
        ]
        body = {
            "apiVersion": SLICES[0],
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{metadata['name']}-local",
                "labels": {
                    "kubernetes.io/service-name": metadata["name"],
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
                "ownerReferences": [owner_reference(service, "v1", "Service")],
            },
            "addressType": "IPv4",
            "endpoints": entries,
            "ports": _ports(service, members),
        }
        await self._put(path(*SLICES, namespace=metadata["namespace"]), body, fields=["endpoints", "ports"])

    async def _put(self, collection: str, body: Object, *, fields: Sequence[str]) -> None:
        url = f"{collection}/{body['metadata']['name']}"
        there = await fetch(self._api, url)
        try:
            if there is None:
                await self._api.create(collection, body)
            elif any((there.get(field) or []) != body[field] for field in fields):
                await self._api.patch(url, {field: body[field] for field in fields})
        except ApiError as error:
            # A real API server takes no loopback addresses here; what needs them goes through `proxy` there.
            if error.code != 422 or "loopback" not in error.message:
                raise


def _selects(service: Object, labels: Object) -> bool:
    selector = service["spec"].get("selector")
    return bool(selector) and matches({"matchLabels": selector}, labels)


def _serves(service: Object, pod: Object) -> bool:
    return pods.is_ready(pod) or bool(service["spec"].get("publishNotReadyAddresses"))


def _target(pod: Object) -> Object:
    metadata = pod["metadata"]
    return {"kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}


def _ports(service: Object, members: Sequence[Object]) -> list[Object]:
    """The service's ports as the pods have them; a named one is looked up in the first pod."""
    made = []
    for port in service["spec"].get("ports") or ():
        target = port.get("targetPort") or port["port"]
        number = target if isinstance(target, int) else named_port(members, target)
        if number is not None:
            entry = {"port": number, "protocol": port.get("protocol", "TCP")}
            made.append(({"name": port["name"]} if port.get("name") else {}) | entry)
    return made


def named_port(members: Sequence[Object], name: str) -> int | None:
    for pod in members:
        for container in pod["spec"]["containers"]:
            for port in container.get("ports") or ():
                if port.get("name") == name:
                    return int(port["containerPort"])
    return None
