"""A cluster as far as an API server knows one: nodes, a class, pods with a dynamic volume, claims. On its nodes runs nothing."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.mounts import Phase
from dynvol.api.resources import CLAIMS, CLASSES, DEFINITIONS, NAMESPACES, NODES, PODS, SECRETS, SERVICE_ACCOUNTS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import KubeError
from dynvol.runtime.informer import Informer

DRIVER: Final = "dynvol-system"
APPS: Final = "apps"
CLASS: Final = "s3-bench"
AT_ONCE: Final = 8
PATIENCE: Final = 120.0
"""Seconds that anything may take before it is taken to have failed."""
_CRDS: Final = Path(__file__).parents[2] / "config" / "crd"


def node_name(number: int) -> str:
    return f"node-{number}"


@dataclass
class Scene:
    """`claims` is the administrator's own watch."""

    client: KubeClient
    claims: Informer[DynamicVolumeClaim]
    changed: asyncio.Event

    async def add_node(self, number: int) -> None:
        """And one pod with a dynamic volume on it, whose labels are `app: web` and `on: <node>`."""
        await self.client.create(NODES, {"metadata": {"name": node_name(number)}})
        await self.client.create(PODS, pod(f"web-{number}", node=node_name(number), on=node_name(number)), namespace=APPS)

    async def add_claim(self, name: str, **labels: str) -> float:
        """The moment of the API's answer."""
        spec = {
            "mountpoint": f"/{name}",
            "selector": {"matchLabels": labels},
            "s3Config": {"bucket": "bucket", "endpoint": "http://s3"},
        }
        await self.client.create(CLAIMS, {"metadata": {"name": name}, "spec": spec}, namespace=APPS)
        return time.perf_counter()

    def claim(self, name: str) -> DynamicVolumeClaim | None:
        return self.claims.store.get(f"{APPS}/{name}")

    def mounted(self, name: str) -> int:
        """In how many pods the nodes say that it is."""
        claim = self.claim(name)
        return sum(entry.phase == Phase.MOUNTED for entry in claim.status.pods) if claim else 0

    def summed_up(self, name: str, pods: int = 1) -> bool:
        """By the leader: nothing more is to be written of it."""
        claim = self.claim(name)
        return claim is not None and claim.status.mounted == pods and any(c.type == "Ready" for c in claim.status.conditions)

    def claim_settled(self, name: str) -> bool:
        """The leader has said of it whatever there is to say."""
        claim = self.claim(name)
        return claim is not None and bool(claim.status.conditions)

    async def until(self, holds: Callable[[], Any]) -> float:
        """The moment at which the watch showed it. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.changed.clear()
                await self.changed.wait()
        return time.perf_counter()

    async def until_each(self, holds: Callable[[str], bool], names: Iterable[str]) -> None:
        for name in names:
            await self.until(functools.partial(holds, name))


def pod(name: str, *, node: str, **labels: str) -> dict[str, Any]:
    attributes = {names.CLASS_ATTRIBUTE: CLASS, names.POLICY_ATTRIBUTE: names.INDEPENDENT}
    volume = {"name": names.VOLUME_NAME, "csi": {"driver": names.DRIVER, "readOnly": True, "volumeAttributes": attributes}}
    container = {"name": "app", "image": "i", "volumeMounts": [{"name": names.VOLUME_NAME, "mountPath": "/root"}]}
    spec = {"nodeName": node, "containers": [container], "volumes": [volume], "automountServiceAccountToken": False}
    return {"metadata": {"name": name, "labels": {"app": "web", names.INJECTED_LABEL: "true", **labels}}, "spec": spec}


@asynccontextmanager
async def scene(kubeconfig: Path) -> AsyncIterator[Scene]:
    """On an empty API server."""
    async with KubeClient.connect(kubeconfig) as client:
        await _install(client)
        changed = asyncio.Event()
        claims = Informer(client.source(CLAIMS), name="seen-claims")
        claims.add_handler(lambda _: changed.set())
        watching = asyncio.create_task(claims.run(), name="seen-claims")
        try:
            await claims.synced()
            yield Scene(client, claims, changed)
        finally:
            watching.cancel()


async def at_once(work: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """All of it, a few at a time."""
    waiting = iter(work)

    async def some() -> None:
        for each in waiting:
            await each

    async with asyncio.TaskGroup() as tasks:
        for number in range(AT_ONCE):
            tasks.create_task(some(), name=f"at-once-{number}")


async def _install(client: KubeClient) -> None:
    for file in sorted(_CRDS.glob("*.yaml")):  # noqa: ASYNC240 - a few small files, before anything is measured
        for manifest in yaml.safe_load_all(file.read_text()):
            if manifest.get("kind") == DEFINITIONS.kind:
                await client.create(DEFINITIONS, manifest)
    for resource in (CLAIMS, CLASSES):
        await until_served(client, resource)
    for namespace, account in ((APPS, "default"), (DRIVER, names.MOUNT_ACCOUNT)):
        await client.create(NAMESPACES, {"metadata": {"name": namespace}})
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": account}}, namespace=namespace)
    keys = {"metadata": {"name": "keys"}, "stringData": {names.ACCESS_KEY: "k", names.SECRET_KEY: "s"}}
    await client.create(SECRETS, keys, namespace=APPS)
    parameters = {names.SECRET_NAME_PARAMETER: "keys", names.SECRET_NAMESPACE_PARAMETER: APPS}
    await client.create(CLASSES, {"metadata": {"name": CLASS}, "spec": {"provider": "s3", "parameters": parameters}})


async def until_served(client: KubeClient, resource: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await client.list(resource)
                return
            except KubeError:
                await asyncio.sleep(0.1)
