"""The real controller manager and scheduler do their work on our server, where they are at hand beside a real API server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from e2e.grounds.envtest import assets

from .conftest import Client, Ground, Object, new_namespace, pod

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


@pytest.fixture
async def controllers(own: Ground, own_state: Path, tmp_path: Path) -> AsyncIterator[None]:
    folder = assets()
    if folder is None or not all(os.access(folder / program, os.X_OK) for program in PROGRAMS):
        pytest.skip("no kube-controller-manager and kube-scheduler beside kube-apiserver")
    shared = (
        f"--kubeconfig={own.kubeconfig}",
        "--kube-api-content-type=application/json",
        "--leader-elect=false",
        "--secure-port=0",
    )
    signing, authority = own_state / "pki" / "sa.key", own_state / "pki" / "ca.crt"
    managing = (
        f"--controllers={','.join(CONTROLLERS)}",
        f"--service-account-private-key-file={signing}",
        f"--root-ca-file={authority}",
    )
    async with AsyncExitStack() as stack:
        certificates = f"--cert-dir={tmp_path}"
        manager, scheduler = (folder / program for program in PROGRAMS)
        await stack.enter_async_context(running(manager, *shared, *managing, certificates, log=tmp_path / "manager.log"))
        await stack.enter_async_context(running(scheduler, *shared, certificates, log=tmp_path / "scheduler.log"))
        yield


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await what():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def workload(name: str, **spec: object) -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod("x")["spec"]}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec}}


@pytest.mark.slow
@pytest.mark.usefixtures("controllers")
async def test_real_controllers_do_their_work_here(own_client: Client) -> None:
    client = own_client
    namespace = await new_namespace(client)
    core, apps = f"/api/v1/namespaces/{namespace}", f"/apis/apps/v1/namespaces/{namespace}"
    node = (await client.post("/api/v1/nodes", {"metadata": {"name": f"node-of-{namespace}"}})).ok()["metadata"]["name"]
    room = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    status = {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}
    (await client.strategic_patch(f"/api/v1/nodes/{node}/status", {"status": status})).ok()
    taints = [{"op": "remove", "path": "/spec/taints"}]
    if (await client.get(f"/api/v1/nodes/{node}")).ok().get("spec", {}).get("taints"):
        (await client.json_patch(f"/api/v1/nodes/{node}", *taints)).ok()

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
    (await client.delete(f"/api/v1/nodes/{node}")).ok()
