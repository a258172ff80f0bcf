"""The real controller manager and scheduler do their work on our server, where they are at hand beside a real API server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from e2e.cluster import real
from e2e.cluster.apiserver import pki

from .conftest import Client, Object, client_of, new_namespace, own_ground, own_server, pod

CONTROLLERS = (
    "daemonset-controller",
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
)
PROGRAMS = ("kube-controller-manager", "kube-scheduler")


@asynccontextmanager
async def running(program: Path, *arguments: str, log: Path) -> AsyncIterator[None]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(program, *arguments, stdout=output, stderr=output, env={})
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def controlled(folder: Path, state: Path) -> AsyncIterator[Client]:
    """A server of the test's own, under real control; its administrator."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(own_server(state))
        files = pki.Files(state)
        own = own_ground(state)
        transport = ("--kube-api-content-type=application/json", "--secure-port=0")
        shared = (f"--kubeconfig={own.kubeconfig}", "--leader-elect=false", f"--cert-dir={state}", *transport)
        managing = (
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={files.signing_key}",
            f"--root-ca-file={files.ca.certificate}",
        )
        manager, scheduler = (folder / program for program in PROGRAMS)
        await stack.enter_async_context(running(manager, *shared, *managing, log=state / "manager.log"))
        await stack.enter_async_context(running(scheduler, *shared, log=state / "scheduler.log"))
        yield await stack.enter_async_context(client_of(own))


@pytest.fixture
async def client_under_control(tmp_path: Path) -> AsyncIterator[Client]:
    folder = real.programs()
    if folder is None or not all(os.access(folder / program, os.X_OK) for program in PROGRAMS):
        pytest.skip("no kube-controller-manager and kube-scheduler beside kube-apiserver")
    async with controlled(folder, tmp_path) as client:
        yield client


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await what():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def workload(name: str, **spec: object) -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod("x")["spec"]}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec}}


@pytest.mark.slow
async def test_real_controllers_do_their_work_here(client_under_control: Client) -> None:
    client = client_under_control
    namespace = await new_namespace(client)
    core, apps = f"/api/v1/namespaces/{namespace}", f"/apis/apps/v1/namespaces/{namespace}"
    node = (await client.post("/api/v1/nodes", {"metadata": {"name": f"node-of-{namespace}"}})).ok()["metadata"]["name"]
    room = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    status = {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}
    (await client.strategic_patch(f"/api/v1/nodes/{node}/status", {"status": status})).ok()

    (await client.post(f"{apps}/deployments", workload("web", replicas=2))).ok()
    (await client.post(f"{apps}/daemonsets", workload("each"))).ok()
    (await client.post(f"{apps}/statefulsets", workload("kept", serviceName="kept"))).ok()
    job = {"metadata": {"name": "once"}, "spec": {"template": {"spec": {**pod("x")["spec"], "restartPolicy": "Never"}}}}
    (await client.post(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)).ok()

    async def all_bound() -> bool:
        items = (await client.get(f"{core}/pods")).ok()["items"]
        return len(items) == 5 and all(item["spec"].get("nodeName") for item in items)

    await until(all_bound)

    (await client.delete(f"{apps}/deployments/web", {"propagationPolicy": "Foreground"})).ok()

    async def deployment_is_gone() -> bool:
        return (await client.get(f"{apps}/deployments/web")).status == 404

    async def release_pods() -> None:
        for item in (await client.get(f"{core}/pods")).ok()["items"]:
            if "deletionTimestamp" in item["metadata"]:
                await client.delete(f"{core}/pods/{item['metadata']['name']}", {"gracePeriodSeconds": 0})

    async def deployment_and_its_pods_are_gone() -> bool:
        await release_pods()
        return await deployment_is_gone() and not (await client.get(f"{core}/pods", labelSelector="app=web")).ok()["items"]

    await until(deployment_and_its_pods_are_gone)
    (await client.delete(f"/api/v1/namespaces/{namespace}")).ok()

    async def namespace_is_gone() -> bool:
        await release_pods()
        return (await client.get(f"/api/v1/namespaces/{namespace}")).status == 404

    await until(namespace_is_gone)
