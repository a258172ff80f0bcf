"""The Node object: registered at the start, kept alive by a Lease and a status that says Ready."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from e2e.cluster.api import ApiClient, ApiError, Object, path
from e2e.cluster.kubelet.runtime import now

log = logging.getLogger(__name__)

LEASE_SECONDS = 40
VERSION = "v1.32.0"  # of the kubelet whose ways this one follows


def capacity() -> dict[str, str]:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    disk = os.statvfs("/")
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{pages * size // 1024}Ki",
        "ephemeral-storage": f"{disk.f_blocks * disk.f_frsize // 1024}Ki",
        "pods": "110",
    }


class Node:
    """Registers one node and keeps it Ready for as long as `run` runs. `heartbeat` is in seconds."""

    def __init__(
        self, api: ApiClient, name: str, *, address: str, port: int, labels: Mapping[str, str], heartbeat: float = 10.0
    ) -> None:
        self._api = api
        self._name = name
        self._address = address
        self._port = port
        self._labels = labels
        self._heartbeat = heartbeat
        self._ready_since = now()

    async def run(self) -> None:
        while True:
            try:
                await self._register()
                await self._beat()
            except (ApiError, OSError, TimeoutError, aiohttp.ClientError) as error:
                log.warning("node: heartbeat failed error=%r", error)
                await asyncio.sleep(1)
                continue
            await asyncio.sleep(self._heartbeat)

    async def register(self) -> Object:
        """Make the Node if it is missing; returns it. Waits for the API server."""
        while True:
            try:
                return await self._register()
            except (ApiError, OSError, TimeoutError, aiohttp.ClientError) as error:
                log.info("node: not registered yet error=%r", error)
                await asyncio.sleep(0.3)

    async def _register(self) -> Object:
        labels = {
            "kubernetes.io/hostname": self._name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            **self._labels,
        }
        url = path("v1", "nodes", name=self._name)
        try:
            node = await self._api.get(url)
        except ApiError as error:
            if error.code != 404:
                raise
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._name, "labels": labels}}
            node = await self._api.create(path("v1", "nodes"), body)
            log.info("node: registered name=%s", self._name)
        return node

    async def _beat(self) -> None:
        await self._api.patch(path("v1", "nodes", name=self._name, sub="status"), {"status": self._status()})
        await self._renew_lease()

    def _status(self) -> Object:
        amount = capacity()
        return {
            "addresses": [
                {"type": "InternalIP", "address": self._address},
                {"type": "Hostname", "address": self._name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            # From 1.36 on the API server passes WebSockets on to nodes that say so; else it speaks SPDY to them.
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],
            "capacity": amount,
            "allocatable": amount,
            "conditions": [
                self._condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "enough memory"),
                self._condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "enough disk"),
                self._condition("PIDPressure", "False", "KubeletHasSufficientPID", "enough process ids"),
                self._condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "nodeInfo": {
                "machineID": _line("/etc/machine-id"),
                "systemUUID": "",
                "bootID": _line("/proc/sys/kernel/random/boot_id"),
                "kernelVersion": platform.release(),
                "osImage": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
                "containerRuntimeVersion": "runc://1",
                "kubeletVersion": VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64" if platform.machine() == "x86_64" else platform.machine(),
            },
        }

    def _condition(self, kind: str, status: str, reason: str, message: str) -> Object:
        return {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now(),
            "lastTransitionTime": self._ready_since,
        }

    async def _renew_lease(self) -> None:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": moment}
        group, namespace = "coordination.k8s.io/v1", "kube-node-lease"
        try:
            await self._api.patch(path(group, "leases", namespace=namespace, name=self._name), {"spec": spec})
        except ApiError as error:
            if error.code != 404:
                raise
            metadata = {"name": self._name, "namespace": namespace}
            body = {"apiVersion": group, "kind": "Lease", "metadata": metadata, "spec": spec}
            await self._api.create(path(group, "leases", namespace=namespace), body)


def _line(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""
