"""The real server on real sockets, called by grpcio: every method, every code."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from dynvol.api import names
from dynvol.csi.errors import NotServing
from dynvol.csi.node import Standing
from dynvol.csi.requests import Target
from dynvol.csi.server import CsiServer
from dynvol.mount import errors as mount
from unit.csi.independent import IndependentClient, make_stubs
from unit.csi.wishes import OTHER_UID, VOLUME, Kernel, context, node, target_path

_UNSERVED = [
    "csi.v1.Node/NodeStageVolume",
    "csi.v1.Node/NodeUnstageVolume",
    "csi.v1.Node/NodeExpandVolume",
    "csi.v1.Controller/CreateVolume",
    "csi.v1.Controller/DeleteVolume",
    "csi.v1.Controller/ControllerPublishVolume",
    "csi.v1.Controller/ControllerUnpublishVolume",
    "csi.v1.Controller/ValidateVolumeCapabilities",
    "csi.v1.Controller/ListVolumes",
    "csi.v1.Controller/GetCapacity",
    "csi.v1.Controller/ControllerGetCapabilities",
    "csi.v1.Controller/CreateSnapshot",
    "csi.v1.Controller/DeleteSnapshot",
    "csi.v1.Controller/ListSnapshots",
    "csi.v1.Controller/GetSnapshot",
    "csi.v1.Controller/ControllerExpandVolume",
    "csi.v1.Controller/ControllerGetVolume",
    "csi.v1.Controller/ControllerModifyVolume",
    "csi.v1.GroupController/GroupControllerGetCapabilities",
    "csi.v1.GroupController/CreateVolumeGroupSnapshot",
    "csi.v1.GroupController/DeleteVolumeGroupSnapshot",
    "csi.v1.GroupController/GetVolumeGroupSnapshot",
    "csi.v1.SnapshotMetadata/GetMetadataAllocated",
    "csi.v1.SnapshotMetadata/GetMetadataDelta",
    "pluginregistration.Registration/GetInfo",
]
_MOUNT = {"mount": {}, "accessMode": {"mode": "SINGLE_NODE_WRITER"}}


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stubs(tmp_path_factory.mktemp("stubs"))


@pytest.fixture
async def server(kubelet_dir: Path, kernel: Kernel) -> AsyncIterator[CsiServer]:
    async with CsiServer(kernel, node=node(str(kubelet_dir)), version="1.2.3", drain=5) as server:
        yield server


@pytest.fixture
async def client(server: CsiServer, stubs: Path) -> AsyncIterator[IndependentClient]:
    async with IndependentClient(server.endpoint, stubs=stubs) as client:
        yield client


def _publish(kubelet_dir: Path, **changes: Any) -> dict[str, Any]:
    request = {
        "volumeId": VOLUME,
        "targetPath": target_path(str(kubelet_dir)),
        "volumeCapability": _MOUNT,
        "readonly": True,
        "volumeContext": context(),
    } | changes
    return {key: value for key, value in request.items() if value is not None}


def _unpublish(kubelet_dir: Path) -> dict[str, Any]:
    return {"volumeId": VOLUME, "targetPath": target_path(str(kubelet_dir))}


def _stats(kubelet_dir: Path) -> dict[str, Any]:
    return {"volumeId": VOLUME, "volumePath": target_path(str(kubelet_dir))}


async def test_identity(client: IndependentClient) -> None:
    info = await client.call("csi.v1.Identity/GetPluginInfo")
    assert (info.code, info.response) == ("OK", {"name": names.DRIVER, "vendorVersion": "1.2.3"})
    assert (await client.call("csi.v1.Identity/GetPluginCapabilities")).response == {}
    assert (await client.call("csi.v1.Identity/Probe")).response == {"ready": True}


async def test_node_facts(client: IndependentClient) -> None:
    assert (await client.call("csi.v1.Node/NodeGetInfo")).response == {"nodeId": "worker-1"}
    capabilities = (await client.call("csi.v1.Node/NodeGetCapabilities")).response["capabilities"]
    assert capabilities == [{"rpc": {"type": "GET_VOLUME_STATS"}}, {"rpc": {"type": "VOLUME_CONDITION"}}]


async def test_the_life_of_a_volume(client: IndependentClient, kernel: Kernel, kubelet_dir: Path) -> None:
    for _ in range(2):
        assert (await client.call("csi.v1.Node/NodePublishVolume", _publish(kubelet_dir))).code == "OK"
    assert list(kernel.published) == [PurePosixPath(target_path(str(kubelet_dir)))]
    stats = (await client.call("csi.v1.Node/NodeGetVolumeStats", _stats(kubelet_dir))).response
    assert stats["volumeCondition"] == {"message": "published"}
    assert stats["usage"] == [
        {"available": "500", "total": "1000", "used": "400", "unit": "BYTES"},
        {"available": "90", "total": "100", "used": "10", "unit": "INODES"},
    ]
    for _ in range(2):
        assert (await client.call("csi.v1.Node/NodeUnpublishVolume", _unpublish(kubelet_dir))).code == "OK"
    assert not kernel.published


@pytest.mark.parametrize(
    "changes",
    [
        {"volumeId": None},
        {"targetPath": None},
        {"targetPath": "/etc"},
        {"volumeCapability": None},
        {"volumeCapability": {"block": {}, "accessMode": {"mode": "SINGLE_NODE_WRITER"}}},
        {"volumeContext": None},
        {"volumeContext": context(storageProviderClass="")},
        {"volumeContext": context(pod_uid=OTHER_UID)},
    ],
)
async def test_a_request_that_cannot_be_served_is_an_invalid_argument(
    client: IndependentClient, kernel: Kernel, kubelet_dir: Path, changes: dict[str, Any]
) -> None:
    refusal = await client.call("csi.v1.Node/NodePublishVolume", _publish(kubelet_dir, **changes))
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.details
    assert not kernel.published


async def test_what_the_csi_socket_does_not_serve_is_unimplemented(client: IndependentClient) -> None:
    assert {method: (await client.call(method)).code for method in _UNSERVED} == dict.fromkeys(_UNSERVED, "UNIMPLEMENTED")


async def test_every_code_of_the_node_service(client: IndependentClient, kernel: Kernel, kubelet_dir: Path) -> None:
    async def code_after(failure: Exception | None, *, method: str = "NodePublishVolume", seconds: float = 10.0) -> str:
        kernel.failure = failure
        request = _stats(kubelet_dir) if method == "NodeGetVolumeStats" else _publish(kubelet_dir)
        return (await client.call(f"csi.v1.Node/{method}", request, seconds=seconds)).code

    assert await code_after(None, method="NodeGetVolumeStats") == "NOT_FOUND"
    assert await code_after(mount.WrongMount("/x", "holds something else")) == "FAILED_PRECONDITION"
    assert await code_after(mount.MountError.of(errno.EIO, "mount /x")) == "INTERNAL"
    assert await code_after(RuntimeError("defect")) == "INTERNAL"
    assert await code_after(mount.MountError.of(errno.ENOSPC, "mount /x")) == "RESOURCE_EXHAUSTED"
    assert await code_after(mount.ExecutorSaturated("all threads hang")) == "UNAVAILABLE"
    kernel.gate.clear()
    assert await code_after(None, seconds=0.1) == "DEADLINE_EXCEEDED"
    aborted = await client.call("csi.v1.Node/NodeUnpublishVolume", _unpublish(kubelet_dir))
    assert (aborted.code, "under way" in aborted.details) == ("ABORTED", True)
    kernel.gate.set()
    assert await code_after(None) == "OK"


async def test_a_call_given_up_half_way_is_joined_by_its_repetition(
    client: IndependentClient, kernel: Kernel, kubelet_dir: Path
) -> None:
    kernel.gate.clear()
    first = await client.call("csi.v1.Node/NodePublishVolume", _publish(kubelet_dir), seconds=0.1)
    second = await client.call("csi.v1.Node/NodePublishVolume", _publish(kubelet_dir), seconds=0.1)
    assert (first.code, second.code, kernel.begun) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", 1)
    kernel.gate.set()
    assert (await client.call("csi.v1.Node/NodePublishVolume", _publish(kubelet_dir))).code == "OK"
    assert len(kernel.published) == 1


async def test_requests_are_logged_without_their_secrets(
    client: IndependentClient, kubelet_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = {"csi.storage.k8s.io/serviceAccount.tokens": '{"": {"token": "hidden-too"}}'}
    request = _publish(kubelet_dir, secrets={"access-key-id": "AKIA-hidden"}, volumeContext=context() | tokens)
    with caplog.at_level(logging.DEBUG):
        assert (await client.call("csi.v1.Node/NodePublishVolume", request)).code == "OK"
    logged = "".join(repr(record.__dict__) for record in caplog.records)
    assert "NodePublishVolumeRequest" in logged
    assert "hidden" not in logged


async def test_many_calls_at_once_on_one_connection(client: IndependentClient, kernel: Kernel, kubelet_dir: Path) -> None:
    uids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(50)]
    outcomes = await asyncio.gather(
        *(
            client.call(
                "csi.v1.Node/NodePublishVolume",
                _publish(
                    kubelet_dir,
                    volumeId=f"v-{uid}",
                    targetPath=target_path(str(kubelet_dir), pod_uid=uid),
                    volumeContext=context(pod_uid=uid),
                ),
            )
            for uid in uids
        )
    )
    assert {outcome.code for outcome in outcomes} == {"OK"}
    assert len(kernel.published) == len(uids)


async def test_a_message_larger_than_the_limit_is_refused_and_the_connection_lives_on(
    client: IndependentClient, kubelet_dir: Path
) -> None:
    huge = _publish(kubelet_dir, secrets={"x": "y" * (5 * 1024 * 1024)})
    assert (await client.call("csi.v1.Node/NodePublishVolume", huge)).code == "RESOURCE_EXHAUSTED"
    assert (await client.call("csi.v1.Node/NodeGetInfo")).code == "OK"


async def test_kubelet_registers_through_the_other_socket(server: CsiServer, stubs: Path, kubelet_dir: Path) -> None:
    socket = kubelet_dir / "plugins_registry" / f"{names.DRIVER}-reg.sock"
    async with IndependentClient(socket, stubs=stubs) as kubelet:
        info = (await kubelet.call("pluginregistration.Registration/GetInfo")).response
        assert info == {
            "type": "CSIPlugin",
            "name": names.DRIVER,
            "endpoint": str(server.endpoint),
            "supportedVersions": ["1.0.0"],
        }
        with pytest.raises(NotServing, match="not registered"):
            await server.check()
        verdict = {"pluginRegistered": False, "error": "no such node"}
        assert (await kubelet.call("pluginregistration.Registration/NotifyRegistrationStatus", verdict)).code == "OK"
        with pytest.raises(NotServing, match="no such node"):
            await server.check()
        await kubelet.call("pluginregistration.Registration/NotifyRegistrationStatus", {"pluginRegistered": True})
        await server.check()
        assert (await kubelet.call("csi.v1.Node/NodeGetInfo")).code == "UNIMPLEMENTED"


async def test_a_socket_that_was_taken_away_makes_the_node_unready(server: CsiServer, stubs: Path, kubelet_dir: Path) -> None:
    socket = kubelet_dir / "plugins_registry" / f"{names.DRIVER}-reg.sock"
    async with IndependentClient(socket, stubs=stubs) as kubelet:
        await kubelet.call("pluginregistration.Registration/NotifyRegistrationStatus", {"pluginRegistered": True})
        await server.check()
        socket.unlink()
        with pytest.raises(NotServing, match="not this process's socket"):
            await server.check()


async def test_leaving_lets_calls_in_flight_end_and_refuses_others(kubelet_dir: Path, kernel: Kernel, stubs: Path) -> None:
    kernel.gate.clear()
    async with CsiServer(kernel, node=node(str(kubelet_dir)), version="1", drain=10) as server:
        client = await IndependentClient(server.endpoint, stubs=stubs).__aenter__()
        in_flight = asyncio.create_task(client.call("csi.v1.Node/NodePublishVolume", _publish(kubelet_dir)))
        await kernel.has_begun(1)

        async def while_leaving() -> str:
            while (late := await client.call("csi.v1.Node/NodeGetInfo")).code == "OK":
                pass
            kernel.gate.set()
            return late.code

        late = asyncio.create_task(while_leaving())
    assert (await in_flight).code == "OK"
    assert await late == "UNAVAILABLE"
    assert kernel.published
    await client.__aexit__(None, None, None)


async def test_leaving_does_not_wait_for_ever_for_a_call(kubelet_dir: Path, kernel: Kernel, stubs: Path) -> None:
    kernel.gate.clear()
    loop = asyncio.get_running_loop()
    async with CsiServer(kernel, node=node(str(kubelet_dir)), version="1", drain=0.2) as server:
        client = await IndependentClient(server.endpoint, stubs=stubs).__aenter__()
        stuck = asyncio.create_task(client.call("csi.v1.Node/NodePublishVolume", _publish(kubelet_dir)))
        await kernel.has_begun(1)
        left = loop.time()
    assert loop.time() - left < 3
    assert (await stuck).code in ("UNAVAILABLE", "CANCELLED")
    await client.__aexit__(None, None, None)


async def test_an_inspection_that_fails_is_answered_too(server: CsiServer, kernel: Kernel, stubs: Path, kubelet_dir: Path) -> None:
    async def inspect(target: Target) -> Standing:
        raise mount.ExecutorSaturated("all threads hang")

    kernel.inspect = inspect  # type: ignore[method-assign]
    async with IndependentClient(server.endpoint, stubs=stubs) as client:
        assert (await client.call("csi.v1.Node/NodeGetVolumeStats", _stats(kubelet_dir))).code == "UNAVAILABLE"
