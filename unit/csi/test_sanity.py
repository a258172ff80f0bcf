"""The standard's own test suite for drivers, csi-sanity, where it is at hand: `CSI_SANITY=/path/to/csi-sanity`.

It makes its volumes by the controller service, which dynvol has none of: a stand-in on a socket of its own invents them, with what
kubelet would say of a pod. All that the suite then does with them it does to the real server, with real mounts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from dynvol.csi.errors import CODES
from dynvol.csi.identity import IdentityService
from dynvol.csi.kernel import KernelTargets
from dynvol.csi.proto.csi import v1 as csi
from dynvol.csi.server import CsiServer
from dynvol.mount.executor import MountExecutor
from dynvol.rpc.calls import Service
from dynvol.rpc.listener import UnixServer
from unit.csi.wishes import POD_UID, context, node, target_path
from unit.mount.namespaces import run_isolated

SUITE = os.environ.get("CSI_SANITY", "")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SUITE, reason="CSI_SANITY names no csi-sanity"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts"),
]


class StandIn(csi.ControllerBase):
    """Volumes in a dictionary, as far as the suite needs them."""

    def __init__(self) -> None:
        self._ids: dict[str, tuple[str, int]] = {}

    async def controller_get_capabilities(
        self, message: csi.ControllerGetCapabilitiesRequest
    ) -> csi.ControllerGetCapabilitiesResponse:
        rpc = csi.ControllerServiceCapabilityRpc(type=csi.ControllerServiceCapabilityRpcType.CREATE_DELETE_VOLUME)
        return csi.ControllerGetCapabilitiesResponse(capabilities=[csi.ControllerServiceCapability(rpc=rpc)])

    async def create_volume(self, message: csi.CreateVolumeRequest) -> csi.CreateVolumeResponse:
        if not message.name or not message.volume_capabilities:
            raise GRPCError(Status.INVALID_ARGUMENT)
        size = message.capacity_range.required_bytes if message.capacity_range else 0
        known, had = self._ids.setdefault(message.name, (f"sanity-{len(self._ids)}", size))
        if had != size:
            raise GRPCError(Status.ALREADY_EXISTS)
        return csi.CreateVolumeResponse(volume=csi.Volume(volume_id=known, capacity_bytes=size, volume_context=context()))

    async def delete_volume(self, message: csi.DeleteVolumeRequest) -> csi.DeleteVolumeResponse:
        if not message.volume_id:
            raise GRPCError(Status.INVALID_ARGUMENT)
        return csi.DeleteVolumeResponse()

    async def validate_volume_capabilities(
        self, message: csi.ValidateVolumeCapabilitiesRequest
    ) -> csi.ValidateVolumeCapabilitiesResponse:
        if not message.volume_id or not message.volume_capabilities:
            raise GRPCError(Status.INVALID_ARGUMENT)
        if message.volume_id not in {volume for volume, _ in self._ids.values()}:
            raise GRPCError(Status.NOT_FOUND)
        confirmed = csi.ValidateVolumeCapabilitiesResponseConfirmed(volume_capabilities=message.volume_capabilities)
        return csi.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)


class WithController(IdentityService):
    async def get_plugin_capabilities(self, message: csi.GetPluginCapabilitiesRequest) -> csi.GetPluginCapabilitiesResponse:
        service = csi.PluginCapabilityService(type=csi.PluginCapabilityServiceType.CONTROLLER_SERVICE)
        return csi.GetPluginCapabilitiesResponse(capabilities=[csi.PluginCapability(service=service)])


def test_the_standards_own_suite_passes(kubelet_dir: Path) -> None:
    async def whole() -> None:
        async with _server(kubelet_dir) as (node_socket, controller_socket):
            place = Path(target_path(str(kubelet_dir), pod_uid=POD_UID)).parent
            place.parent.mkdir(parents=True)
            arguments = [f"--csi.endpoint=unix:{node_socket}", f"--csi.controllerendpoint=unix:{controller_socket}"]
            arguments += [f"--csi.mountdir={place}", f"--csi.stagingdir={kubelet_dir}/staging", "--ginkgo.no-color"]
            suite = await asyncio.create_subprocess_exec(
                SUITE, *arguments, env={"PATH": os.defpath}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            said, _ = await suite.communicate()
            assert suite.returncode == 0, said.decode()
            assert " Passed" in said.decode()

    run_isolated(lambda: asyncio.run(whole()), playground=str(kubelet_dir), timeout=100)


@asynccontextmanager
async def _server(playground: Path) -> AsyncIterator[tuple[Path, Path]]:
    here = node(str(playground), state_dir=str(playground / "state"))
    services: list[Service] = [StandIn(), WithController(version="1", ready=lambda: True)]
    async with (
        MountExecutor() as executor,
        CsiServer(KernelTargets(executor), node=here, version="1") as server,
        UnixServer(playground / "controller.sock", services, codes=CODES) as controller,
    ):
        yield server.endpoint, controller.path
