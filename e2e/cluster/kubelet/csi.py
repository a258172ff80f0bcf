"""CSI as the kubelet does it: drivers register by a socket in a folder, and inline volumes are published by them.

The order of calls, the names and the clean-up follow kubernetes `pkg/volume/csi` and `pkg/kubelet/pluginmanager`. Only
ephemeral inline volumes are known. Nothing here waits for the API server but the one update of Node and CSINode.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from e2e.cluster import mounts
from e2e.cluster.api import ApiClient, ApiError, Mirror, Object, path
from e2e.cluster.kubelet import wire

log = logging.getLogger(__name__)

RPC_LIMIT = 120.0  # seconds; csiTimeout
REGISTRATION_LIMIT = 10.0
RESCAN = 0.2  # seconds between looks at the folder, in place of inotify
NODE_ID_ANNOTATION = "csi.volume.kubernetes.io/nodeid"
VOLUME_DATA = "vol_data.json"

SINGLE_NODE_WRITER, SINGLE_NODE_MULTI_WRITER = 1, 7
CAN_MULTI_WRITER, CAN_MOUNT_GROUP = 5, 6

# After these the driver may still be at work: kubelet calls the outcome uncertain and leaves the directory alone.
_UNFINISHED = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}


class CsiError(Exception):
    """A volume could not be published or unpublished; kubelet tries again later. `finished`: the driver is at rest."""

    def __init__(self, message: str, *, finished: bool = True) -> None:
        super().__init__(message)
        self.finished = finished


@dataclass(frozen=True, slots=True)
class Driver:
    name: str
    endpoint: str
    node_id: str
    topology: tuple[str, ...]
    max_volumes: int


@contextlib.asynccontextmanager
async def channel(socket: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel for a few calls: kubelet, too, dials anew for each operation."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as opened:
        yield opened


async def call(opened: grpc.aio.Channel, method: str, request: Any, answer: Any, *, limit: float) -> Any:
    """One unary call. The classes are made at import, hence Any."""
    stub = opened.unary_unary(method, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString)
    return await stub(request, timeout=limit)


class Registry:
    """The drivers of this node: found in the registration folder, told so, and written into Node and CSINode."""

    def __init__(self, folder: Path, *, api: ApiClient, node: str) -> None:
        self._folder = folder
        self._api = api
        self._node = node
        self._seen: dict[Path, tuple[int, int]] = {}
        self._names: dict[Path, str] = {}
        self.drivers: dict[str, Driver] = {}

    def get(self, name: str) -> Driver:
        try:
            return self.drivers[name]
        except KeyError:
            raise CsiError(f"driver name {name} not found in the list of registered CSI drivers") from None

    async def run(self) -> None:
        """Look at the folder for ever. A socket that was made anew is registered anew, a removed one forgotten."""
        self._folder.mkdir(parents=True, exist_ok=True)
        failures: dict[Path, int] = {}
        while True:
            present = self._sockets()
            for socket in [socket for socket in self._seen if self._seen[socket] != present.get(socket)]:
                del self._seen[socket]
                await self._deregister(socket)
            for socket in [socket for socket in present if socket not in self._seen]:
                wait = failures.get(socket, 0)
                if wait:
                    failures[socket] = wait - 1
                elif await self._register(socket):
                    self._seen[socket] = present[socket]
                    failures.pop(socket, None)
                else:
                    failures[socket] = 5  # rounds: kubelet's reconciler comes by once a second
            await asyncio.sleep(RESCAN)

    def _sockets(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for entry in self._folder.glob("**/*.sock"):
            with contextlib.suppress(OSError):
                if entry.is_socket():
                    info = entry.stat()
                    found[entry] = (info.st_ino, info.st_ctime_ns)
        return found

    async def _register(self, socket: Path) -> bool:
        """One registration; false if it is to be tried again.

        1. GetInfo. 2. Validate. 3. NodeGetInfo of the driver. 4. Node and CSINode. 5. NotifyRegistrationStatus.
        """
        service = "/pluginregistration.Registration"
        try:
            async with channel(str(socket)) as plugin:
                info = await call(plugin, f"{service}/GetInfo", wire.Empty(), wire.RegistrationInfo, limit=REGISTRATION_LIMIT)
                problem = await self._accept(socket, info)
                status = wire.RegistrationStatus(plugin_registered=not problem, error=problem)
                await call(plugin, f"{service}/NotifyRegistrationStatus", status, wire.Empty, limit=REGISTRATION_LIMIT)
        except (grpc.aio.AioRpcError, OSError) as error:
            log.warning("csi: registration failed socket=%s error=%s", socket, _words(error))
            return False
        log.info("csi: registered driver=%s problem=%r", info.name, problem)
        return not problem

    async def _accept(self, socket: Path, info: Any) -> str:
        """Steps 2 to 4; returns what is wrong, in words for the driver."""
        if info.type != "CSIPlugin":
            return f"no handler registered for plugin type: {info.type} at socket {socket}"
        if not info.name:
            return f"invalid plugin name: {info.name!r}"
        if not any(version.lstrip("v").startswith("1.") for version in info.supported_versions):
            return f"none of the versions specified {list(info.supported_versions)} are supported"
        endpoint = info.endpoint or str(socket)
        try:
            async with channel(endpoint) as driver:
                node = await call(driver, "/csi.v1.Node/NodeGetInfo", wire.Empty(), wire.NodeInfo, limit=REGISTRATION_LIMIT)
        except grpc.aio.AioRpcError as error:
            return f"RegisterPlugin error -- NodeGetInfo failed: {_words(error)}"
        if not node.node_id:
            return "RegisterPlugin error -- driver returned an empty node ID"
        topology = tuple(sorted(node.accessible_topology.segments))
        self.drivers[info.name] = Driver(info.name, endpoint, node.node_id, topology, node.max_volumes_per_node)
        self._names[socket] = info.name
        try:
            await self._publish_node(labels=dict(node.accessible_topology.segments))
        except (ApiError, OSError, TimeoutError) as error:
            self.drivers.pop(info.name, None)
            return f"RegisterPlugin error -- error updating Node and CSINode objects: {error}"
        return ""

    async def _deregister(self, socket: Path) -> None:
        name = self._names.pop(socket, "")
        if self.drivers.pop(name, None) is None:
            return
        log.info("csi: deregistered driver=%s", name)
        with contextlib.suppress(ApiError, OSError, TimeoutError):
            await self._publish_node(labels={})

    async def _publish_node(self, *, labels: Mapping[str, str]) -> None:
        ids = {driver.name: driver.node_id for driver in self.drivers.values()}
        metadata = {"annotations": {NODE_ID_ANNOTATION: json.dumps(ids) if ids else None}, "labels": dict(labels)}
        node = await self._api.patch(path("v1", "nodes", name=self._node), {"metadata": metadata})
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]}
        spec = {"drivers": [_csi_node_entry(driver) for driver in self.drivers.values()]}
        url = path("storage.k8s.io/v1", "csinodes", name=self._node)
        try:
            await self._api.patch(url, {"spec": spec})
        except ApiError as error:
            if error.code != 404:
                raise
            body = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "spec": spec}
            body["metadata"] = {"name": self._node, "ownerReferences": [owner]}
            await self._api.create(path("storage.k8s.io/v1", "csinodes"), body)


def _csi_node_entry(driver: Driver) -> Object:
    entry: Object = {"name": driver.name, "nodeID": driver.node_id, "topologyKeys": list(driver.topology)}
    if driver.max_volumes:
        entry["allocatable"] = {"count": driver.max_volumes}
    return entry


def volume_id(pod_uid: str, volume: str) -> str:
    return "csi-" + hashlib.sha256(f"{pod_uid}{volume}".encode()).hexdigest()


def pod_information(pod: Object) -> dict[str, str]:
    """What a driver with podInfoOnMount is told (kubernetes `getPodInfoAttrs`)."""
    return {
        "csi.storage.k8s.io/pod.name": pod["metadata"]["name"],
        "csi.storage.k8s.io/pod.namespace": pod["metadata"]["namespace"],
        "csi.storage.k8s.io/pod.uid": pod["metadata"]["uid"],
        "csi.storage.k8s.io/serviceAccount.name": pod["spec"].get("serviceAccountName", ""),
        "csi.storage.k8s.io/ephemeral": "true",
    }


class Volumes:
    """Publishes and unpublishes the inline CSI volumes of pods. `vol_data.json` says that one may be published."""

    def __init__(self, registry: Registry, *, csi_drivers: Mirror, node: str) -> None:
        self._registry = registry
        self._csi_drivers = csi_drivers
        self._node = node

    async def publish(self, pod: Object, volume: Object, *, folder: Path, secrets: Mapping[str, str], again: bool = False) -> Path:
        """Publish at `folder`/mount, which the driver makes. `again` is a republish: a failure must not clean up.

        1. The driver must be registered, and its CSIDriver must allow inline volumes.
        2. The target's parent, and vol_data.json in it.
        3. What the driver can do, then NodePublishVolume.
        4. After a failure that is final: away with the directory, unless something is mounted on it.
        """
        source = volume["csi"]
        driver = self._registry.get(source["driver"])
        declared = self._declared(source["driver"])
        target = folder / "mount"
        handle = volume_id(pod["metadata"]["uid"], volume["name"])
        self._write_volume_data(folder, volume["name"], handle, driver.name)
        context = dict(source.get("volumeAttributes") or {})
        if declared.get("podInfoOnMount"):
            context |= pod_information(pod)
        try:
            async with channel(driver.endpoint) as opened:
                request = wire.NodePublishVolume(
                    volume_id=handle,
                    target_path=str(target),
                    volume_capability=await self._capability(opened, source, pod),
                    readonly=bool(source.get("readOnly")),
                    secrets=dict(secrets),
                    volume_context=context,
                )
                await call(opened, "/csi.v1.Node/NodePublishVolume", request, wire.Empty, limit=RPC_LIMIT)
        except grpc.aio.AioRpcError as error:
            finished = error.code() not in _UNFINISHED
            if finished and not again:
                _remove_mount_dir(target)
            raise CsiError(_words(error), finished=finished) from error
        return target

    def republishes(self, volume: Object) -> bool:
        """Whether the driver asked to be called again and again (`requiresRepublish`)."""
        found = self._csi_drivers.get("", volume["csi"]["driver"])
        return bool(found and found["spec"].get("requiresRepublish"))

    def _declared(self, name: str) -> Object:
        found = self._csi_drivers.get("", name)
        if found is None:
            raise CsiError(f'volume mode "Ephemeral" not supported by driver {name} (no CSIDriver object)')
        modes = found["spec"].get("volumeLifecycleModes") or ["Persistent"]
        if "Ephemeral" not in modes:
            raise CsiError(f'volume mode "Ephemeral" not supported by driver {name} (only supports {modes})')
        spec: Object = found["spec"]
        return spec

    async def _capability(self, opened: grpc.aio.Channel, source: Object, pod: Object) -> Any:
        answer = await call(opened, "/csi.v1.Node/NodeGetCapabilities", wire.Empty(), wire.NodeCapabilities, limit=RPC_LIMIT)
        can = {capability.rpc.type for capability in answer.capabilities}
        mount = {"fs_type": source.get("fsType") or ""}
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        if CAN_MOUNT_GROUP in can and group is not None:
            mount["volume_mount_group"] = str(group)
        mode = SINGLE_NODE_MULTI_WRITER if CAN_MULTI_WRITER in can else SINGLE_NODE_WRITER
        return wire.VolumeCapability(mount=mount, access_mode={"mode": mode})

    def _write_volume_data(self, folder: Path, name: str, handle: str, driver: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        attachment = hashlib.sha256(f"{handle}{driver}{self._node}".encode()).hexdigest()
        data = {
            "specVolID": name,
            "volumeHandle": handle,
            "driverName": driver,
            "nodeName": self._node,
            "volumeLifecycleMode": "Ephemeral",
            "attachmentID": f"csi-{attachment}",
        }
        (folder / VOLUME_DATA).write_text(json.dumps(data))

    async def unpublish(self, folder: Path) -> None:
        """Unpublish what vol_data.json in `folder` names, then remove the folder. The pod's object is not needed."""
        data = _volume_data(folder)
        if data is None:
            return
        driver = self._registry.get(data["driverName"])
        target = folder / "mount"
        request = wire.NodeUnpublishVolume(volume_id=data["volumeHandle"], target_path=str(target))
        try:
            async with channel(driver.endpoint) as opened:
                await call(opened, "/csi.v1.Node/NodeUnpublishVolume", request, wire.Empty, limit=RPC_LIMIT)
        except grpc.aio.AioRpcError as error:
            raise CsiError(_words(error)) from error
        _remove_mount_dir(target)


def _volume_data(folder: Path) -> dict[str, str] | None:
    """What was written before the first publish; without it nothing was, and an empty folder may go."""
    try:
        data: dict[str, str] = json.loads((folder / VOLUME_DATA).read_text())
        return data
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        return None


def _remove_mount_dir(target: Path) -> None:
    """Kubelet's removeMountDir: the target, vol_data.json, the folder; nothing at all while the target is a mount."""
    if mounts.is_mounted(target):
        return
    with contextlib.suppress(FileNotFoundError):
        target.rmdir()
    (target.parent / VOLUME_DATA).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        target.parent.rmdir()


def _words(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"rpc error: code = {_camel(error.code())} desc = {error.details()}"
    return str(error)


def _camel(code: grpc.StatusCode) -> str:
    return "".join(word.capitalize() for word in code.name.split("_"))
