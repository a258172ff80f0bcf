"""What only our server has: a file that survives its death, faults on demand, and kubelets that a test can play."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from e2e.cluster.apiserver import pki
from e2e.grounds.envtest import free_ports

from .conftest import Client, Ground, Kubectl, Object, client_of, new_namespace, own_ground, own_server, pod


class Process:
    """`python -m e2e.cluster.apiserver`, as the cluster starts it."""

    def __init__(self, state: Path) -> None:
        self._state = state
        (self.port,) = free_ports(1)
        self.url = f"https://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "e2e.cluster.apiserver", "--state", str(self._state), "--listen", f"127.0.0.1:{self.port}"),
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
            cwd=Path(__file__).parents[4],
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(30):
                assert b"serving" in await process.stdout.readline()
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    server = Process(tmp_path)
    async with server.running() as process:
        async with client_of(own_ground(tmp_path)) as client:
            core = f"/api/v1/namespaces/{await new_namespace(client)}"
            made = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}, "data": {"k": "v"}})).ok()
            (await client.post(f"{core}/configmaps", {"metadata": {"name": "b"}})).ok()
            (await client.delete(f"{core}/configmaps/b")).ok()
            last = (await client.get(f"{core}/configmaps")).ok()["metadata"]["resourceVersion"]
        process.kill()
        await process.wait()
    began = time.monotonic()
    async with server.running(), client_of(own_ground(tmp_path)) as client:
        took = time.monotonic() - began
        assert (await client.get(f"{core}/configmaps/a")).ok() == made
        assert (await client.get(f"{core}/configmaps/b")).status == 404
        listed = (await client.get(f"{core}/configmaps")).ok()
        assert int(listed["metadata"]["resourceVersion"]) >= int(last)
        old = await client.get(f"{core}/configmaps", watch="true", resourceVersion=made["metadata"]["resourceVersion"])
        old.refused(410)
        async with client.watch(f"{core}/configmaps", resourceVersion=last) as events:
            (await client.post(f"{core}/configmaps", {"metadata": {"name": "c"}})).ok()
            event = await anext(events)
        assert int(event["object"]["metadata"]["resourceVersion"]) > int(last)
    assert took < 15, "the machine may be loaded, but a start should take a second or two"


async def test_a_server_ends_when_told_to_with_watches_open(tmp_path: Path) -> None:
    server = Process(tmp_path)
    async with (
        server.running() as process,
        client_of(own_ground(tmp_path)) as client,
        client.watch("/api/v1/namespaces", resourceVersion="0") as events,
    ):
        await anext(events)
        process.terminate()
        async with asyncio.timeout(10):
            await process.wait()
    assert process.returncode == 0


async def inject(client: Client, *faults: Object) -> None:
    (await client.post("/debug/faults", list(faults))).ok()


@pytest.fixture
async def faulty(own_client: Client) -> AsyncIterator[Client]:
    yield own_client
    await inject(own_client)


async def test_faults_strike_whom_they_should(faulty: Client) -> None:
    core = f"/api/v1/namespaces/{await new_namespace(faulty)}"
    await inject(
        faulty,
        {"methods": ["POST"], "path": "/configmaps$", "status": 429, "times": 1},
        {"methods": ["POST"], "path": "/configmaps$", "status": 500, "times": 1},
        {"path": "/secrets", "status": 0},
        {"path": "/pods", "latency": 0.2},
    )
    first = await faulty.post(f"{core}/configmaps", {"metadata": {"name": "a"}})
    assert first.refused(429)["details"]["retryAfterSeconds"] == 1 and first.headers["Retry-After"] == "1"
    assert (await faulty.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).status == 500
    (await faulty.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    with pytest.raises(aiohttp.ClientConnectionError):
        await faulty.get(f"{core}/secrets")
    began = time.monotonic()
    (await faulty.get(f"{core}/pods")).ok()
    assert time.monotonic() - began >= 0.2


async def test_watches_can_be_cut(faulty: Client) -> None:
    async with faulty.watch("/api/v1/namespaces") as events, asyncio.timeout(10):
        await anext(events)
        (await faulty.post("/debug/cut", None)).ok()
        assert isinstance([event async for event in events], list)


async def test_only_administrators_may_disturb(own: Ground) -> None:
    async with client_of(own, own.kubeconfig_for("somebody")) as client:
        (await client.post("/debug/faults", [])).refused(403)
    async with client_of(own) as client:
        (await client.post("/debug/faults", [{"nonsense": 1}])).refused(400)


async def test_events_expire(tmp_path: Path) -> None:
    async with own_server(tmp_path, event_lifetime=1.0) as server, client_of(own_ground(tmp_path)) as client:
        core = f"/api/v1/namespaces/{await new_namespace(client)}"
        (await client.post(f"{core}/events", {"metadata": {"name": "e"}, "involvedObject": {}})).ok()
        version = str(server.store.version)
        async with client.watch(f"{core}/events", resourceVersion=version) as events, asyncio.timeout(10):
            assert (await anext(events))["type"] == "DELETED"


@asynccontextmanager
async def played_kubelet(state: Path) -> AsyncIterator[int]:
    """A kubelet that logs two lines, and whose commands say what they were told and end with 3."""
    files = pki.Files(state)
    pair = pki.sign_server(state, "kubelet", addresses=["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pair.certificate, pair.key)

    async def logs(request: web.Request) -> web.Response:
        if request.match_info["container"] == "waiting":
            return web.Response(status=400, text='container "waiting" in pod "p" is waiting to start: ContainerCreating')
        return web.Response(text=f"one\n{request.query.get('tailLines', '')}\n")

    async def run(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        await socket.send_bytes(b"\x01" + " ".join(request.query.getall("command")).encode())
        async for message in socket:
            if message.data[:1] == b"\xff":
                break
            await socket.send_bytes(b"\x01" + message.data[1:].upper())
        details = {"causes": [{"reason": "ExitCode", "message": "3"}]}
        status = {"status": "Failure", "reason": "NonZeroExitCode", "message": "exit 3", "details": details}
        await socket.send_bytes(b"\x03" + json.dumps(status).encode())
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    app.router.add_get("/exec/{namespace}/{pod}/{container}", run)
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield port
    finally:
        assert runner.server is not None
        for connection in list(runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()


@pytest.fixture
async def running_pod(own_client: Client, own_state: Path, tmp_path: Path, own: Ground) -> AsyncIterator[Kubectl]:
    """kubectl, in a namespace with a pod `p` on a node whose kubelet is played."""
    namespace = await new_namespace(own_client)
    async with played_kubelet(own_state) as port:
        node = f"node-{namespace}"
        (await own_client.post("/api/v1/nodes", {"metadata": {"name": node}})).ok()
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        (await own_client.merge_patch(f"/api/v1/nodes/{node}/status", {"status": status})).ok()
        body = pod("p", nodeName=node)
        body["spec"]["containers"].append({"name": "waiting", "image": "i"})
        (await own_client.post(f"/api/v1/namespaces/{namespace}/pods", body)).ok()
        yield Kubectl(own.kubeconfig, namespace, tmp_path)


async def in_thread(kubectl: Kubectl, *arguments: str, stdin: str | None = None, fails: bool = False) -> str:
    return await asyncio.to_thread(kubectl, *arguments, stdin=stdin, fails=fails)


async def test_logs_come_from_the_kubelet(running_pod: Kubectl) -> None:
    assert await in_thread(running_pod, "logs", "p", "-c", "main", "--tail=7") == "one\n7\n"
    complaint = await in_thread(running_pod, "logs", "p", "-c", "waiting", fails=True)
    assert "is waiting to start: ContainerCreating" in complaint
    assert "container none is not valid for pod p" in await in_thread(running_pod, "logs", "p", "-c", "none", fails=True)


async def test_commands_run_through_the_kubelet(running_pod: Kubectl) -> None:
    command = ("exec", "-i", "p", "-c", "main", "--", "echo", "a b")
    answer = await asyncio.to_thread(running_pod.run, *command, stdin="hello")
    assert answer.stdout == "echo a bHELLO" and answer.returncode == 3


async def test_a_command_that_cannot_be_run_is_refused_with_the_reason(running_pod: Kubectl) -> None:
    said = await in_thread(running_pod, "exec", "p", "-c", "none", "--", "true", fails=True)
    assert "container none is not valid for pod p" in said
