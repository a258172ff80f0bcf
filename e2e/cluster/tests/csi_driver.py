"""A CSI driver of the fewest lines, to prove the kubelet with: each volume is a tmpfs that says what kubelet asked for.

    python csi_driver.py NAME KUBELET_ROOT

It is built from the kubelet's own message table, but stands on the other side of the socket, in a pod. Volume attributes
steer it: `fail: CODE` makes every publish fail with that gRPC code, for as long as the file /fail-NAME of its pod exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from e2e.cluster import mounts
from e2e.cluster.kubelet import wire

Handler = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


class Driver:
    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.endpoint = root / "plugins" / name / "csi.sock"
        self.registration = root / "plugins_registry" / f"{name}-reg.sock"

    async def info(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return wire.RegistrationInfo(type="CSIPlugin", name=self.name, endpoint=str(self.endpoint), supported_versions=["1.0.0"])

    async def told(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        print("registered", request.plugin_registered, request.error, flush=True)
        return wire.Empty()

    async def node_info(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return wire.NodeInfo(node_id=f"id-of-{self.name}", accessible_topology={"segments": {"test/zone": "a"}})

    async def capabilities(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return wire.NodeCapabilities()

    async def publish(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        asked = _asked(request)
        print("publish", json.dumps(asked), flush=True)
        code = asked["context"].get("fail")
        if code and _exists(f"/fail-{self.name}"):
            await context.abort(grpc.StatusCode[code], "told to fail")
        _mount(Path(request.target_path), asked)
        return wire.Empty()

    async def unpublish(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        print("unpublish", request.volume_id, flush=True)
        _unmount(Path(request.target_path))
        return wire.Empty()


def _asked(request: Any) -> dict[str, Any]:
    """All that kubelet said, and what it had made by then."""
    target = Path(request.target_path)
    return {
        "id": request.volume_id,
        "readonly": request.readonly,
        "context": dict(request.volume_context),
        "secrets": dict(request.secrets),
        "parent_there": target.parent.is_dir(),
        "target_there": target.exists(),
        "mode": request.volume_capability.access_mode.mode,
    }


def _exists(file: str) -> bool:
    return Path(file).exists()


def _mount(target: Path, asked: dict[str, Any]) -> None:
    target.mkdir()
    mounts.tmpfs(target)
    (target / "asked.json").write_text(json.dumps(asked))


def _unmount(target: Path) -> None:
    if mounts.is_mounted(target):
        mounts.unmount(target)
    with contextlib.suppress(FileNotFoundError):
        target.rmdir()


def _make_way(socket: Path) -> None:
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)


def _service(name: str, methods: dict[str, tuple[Handler, Any]]) -> grpc.GenericRpcHandler:
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            handler, request_deserializer=request.FromString, response_serializer=lambda answer: answer.SerializeToString()
        )
        for method, (handler, request) in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


async def _serve(socket: Path, *services: grpc.GenericRpcHandler) -> grpc.aio.Server:
    _make_way(socket)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(services)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server


async def main() -> None:
    driver = Driver(sys.argv[1], Path(sys.argv[2]))
    node = _service(
        "csi.v1.Node",
        {
            "NodeGetInfo": (driver.node_info, wire.Empty),
            "NodeGetCapabilities": (driver.capabilities, wire.Empty),
            "NodePublishVolume": (driver.publish, wire.NodePublishVolume),
            "NodeUnpublishVolume": (driver.unpublish, wire.NodeUnpublishVolume),
        },
    )
    registration = _service(
        "pluginregistration.Registration",
        {
            "GetInfo": (driver.info, wire.Empty),
            "NotifyRegistrationStatus": (driver.told, wire.RegistrationStatus),
        },
    )
    servers = [await _serve(driver.endpoint, node), await _serve(driver.registration, registration)]
    await asyncio.gather(*(server.wait_for_termination() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
